//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/oci"
	"github.com/regfs/regfs/layout/plain"
)

const repository = "registry.test/team/app"

// TestPodmanReads: podman, buildah and skopeo find what was put there, the same as if podman had pulled it.
func TestPodmanReads(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			p := newPlace(t, driver)
			img := hello(t, "1")
			img.store(t, p.sink(t, repository), "v1")
			p.sound(t)

			id := img.m.Config.Digest.Encoded()
			equal(t, "podman images", p.podman(t, "podman", "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}} {{.Id}}"),
				repository+":v1 "+img.Digest.String()+" "+id+"\n")
			type inspected []struct {
				Id, Digest, Created string
				RepoTags            []string
				RootFS              struct{ Layers []string }
			}
			info := decode[inspected](t, p.podman(t, "podman", "image", "inspect", repository+":v1"))[0]
			equal(t, "podman inspect", []string{info.Id, info.Digest, info.Created}, []string{id, img.Digest.String(), "2001-09-09T01:46:40Z"})
			equal(t, "podman inspect", info.RepoTags, []string{repository + ":v1"})
			equal(t, "podman inspect", info.RootFS.Layers, []string{img.plain[0].String(), img.plain[1].String()})
			equal(t, "skopeo inspect", run(t, "skopeo", "inspect", "--raw", p.ref(repository+":v1")), string(img.raw))
			equal(t, "skopeo inspect", run(t, "skopeo", "inspect", "--config", "--raw", p.ref(repository+":v1")), string(img.config))

			before := p.layers(t)
			run(t, "skopeo", "--insecure-policy", "copy", "oci:"+inLayout(t, img)+":v1", p.ref(repository+":v2"))
			equal(t, "layers after skopeo copy", p.layers(t), before)
			p.podman(t, "podman", "untag", repository+":v1", repository+":v2")

			root := strings.TrimSpace(p.podman(t, "podman", "image", "mount", repository+":v1"))
			equal(t, "podman image mount", run(t, "sh", "-c", "cd \"$1\" && cat etc/hello etc/link && ls etc && stat -c %u:%g etc/hello", "sh", root),
				"hello 1hello 1hello\nlink\n12:34\n")
			p.podman(t, "podman", "image", "umount", repository+":v1")
			container := strings.TrimSpace(p.podman(t, "buildah", "from", "--pull-never", repository+":v1"))
			root = strings.TrimSpace(p.podman(t, "buildah", "mount", container))
			equal(t, "buildah mount", run(t, "cat", root+"/etc/hello"), "hello 1")
			is(t, "delete what a container uses", p.sink(t, repository).Delete(t.Context(), "v1"), image.ErrRefused)
			resolves(t, p.source(t, repository), "v1", img)
			p.podman(t, "buildah", "rm", container)
			p.podman(t, "podman", "rmi", repository+":v1")
			resolves(t, p.source(t, repository), "v1", nil)
			equal(t, "layers after podman rmi", len(p.layers(t)), 0)
		})
	}
}

// TestPodmanRuns an image that was put there.
func TestPodmanRuns(t *testing.T) {
	p := newPlace(t, "overlay")
	dir := t.TempDir()
	run(t, "sh", "-c", `cd "$1"; cp -L --parents $(ldd /bin/cat /bin/dash | grep -o '/[^ :]*' | sort -u) . && mkdir -p bin etc && cp -L /bin/cat bin &&
		cp -L /bin/dash bin/sh && tar -cf ../shell.tar .`, "sh", mkdir(t, dir, "root"))
	shell, err := os.ReadFile(filepath.Join(dir, "shell.tar"))
	must(t, err)
	img := makeImage(t, "cat /etc/hello", shell, layer(t, file{name: "etc/hello", content: "hello"}))
	img.store(t, p.sink(t, repository), "v1")
	script := `mount -t cgroup2 none /sys/fs/cgroup && exec podman "$@"`
	out := run(t, "unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh",
		"--root", p.dir+"/root", "--runroot", p.dir+"/run", "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs",
		"run", "--rm", "--network", "none", "--cgroups", "disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", repository+":v1")
	equal(t, "podman run", out, "hello")
}

func mkdir(t *testing.T, name ...string) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(name...), 0o755))
	return filepath.Join(name...)
}

// TestPodmanWrote: what skopeo and buildah put there is read: manifests and configs byte for byte, layers by the digests of their tars.
func TestPodmanWrote(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			p := newPlace(t, driver)
			img := hello(t, "1")
			run(t, "skopeo", "--insecure-policy", "copy", "--preserve-digests", "oci:"+inLayout(t, img)+":v1", p.ref(repository+":v1"))
			src := p.source(t, repository)
			resolves(t, src, "v1", img)
			resolves(t, src, img.Digest.String(), img)
			resolves(t, src, "@"+img.m.Config.Digest.Encoded()[:12], img)
			equal(t, "config", string(read(t, src, img.m.Config)), string(img.config))
			for i, packed := range img.m.Layers {
				formed(t, src, packed, img, i)
			}

			equal(t, "how we push it", img.store(t, p.sink(t, "registry.test/ours"), "v1"), []image.How{image.Skipped, image.Skipped, image.Skipped})
			must(t, p.sink(t, "registry.test/ours").Delete(t.Context(), "v1"))

			container := strings.TrimSpace(p.podman(t, "buildah", "from", "--pull-never", repository+":v1"))
			p.podman(t, "buildah", "config", "--env", "A=b", container)
			p.podman(t, "buildah", "commit", "--rm", container, "localhost/built:v2")
			built := p.source(t, "localhost/built")
			d, raw, err := built.Manifest(t.Context(), "v2")
			must(t, err)
			equal(t, "what buildah built", run(t, "skopeo", "inspect", "--raw", p.ref("localhost/built:v2")), string(raw))
			m, err := image.ParseManifest(d.MediaType, raw)
			must(t, err)
			for _, layer := range m.Layers {
				var form *image.FormError
				if _, err := built.Stat(t.Context(), layer.Digest); errors.As(err, &form) {
					layer = form.Have
				}
				read(t, built, layer)
			}
			equal(t, "hosts", collect(t, p.Hosts(t.Context())), []string{"localhost", "registry.test"})
		})
	}
}

// formed tells that a layer is there as a plain tar, and only so.
func formed(t *testing.T, src image.Source, packed image.Descriptor, img *made, i int) {
	t.Helper()
	for range 2 { // with a media type, and without one
		_, err := src.Fetch(t.Context(), packed)
		var form *image.FormError
		if !errors.As(err, &form) {
			t.Fatalf("fetch a packed layer: %v", err)
		}
		equal(t, "form", form.Have.Digest, img.plain[i])
		plain := read(t, src, form.Have)
		equal(t, "form's size", form.Have.Size, int64(len(plain)))
		d, err := src.Stat(t.Context(), form.Have.Digest)
		must(t, err)
		equal(t, "stat's size", d.Size, form.Have.Size)
		if _, err := tar.NewReader(bytes.NewReader(plain)).Next(); err != nil {
			t.Errorf("no tar: %v", err)
		}
		packed.MediaType, packed.Size = "", -1
	}
}

// inLayout is an OCI layout with an image under v1.
func inLayout(t *testing.T, img *made) string {
	t.Helper()
	dir := t.TempDir()
	l, err := oci.Create(dir)
	must(t, err)
	defer l.Close()
	img.push(t, l)
	must(t, l.Tag(t.Context(), img.Descriptor, img.raw, "v1"))
	return dir
}

// TestBesideOthers: while regfs writes, skopeo writes and removes, and neither disturbs the other.
func TestBesideOthers(t *testing.T) {
	p := newPlace(t, "overlay")
	layout := inLayout(t, makeImage(t, "theirs", layer(t, file{name: "theirs"}))) // shared layers would go when they are removed
	theirs := p.ref("registry.test/theirs:v1")
	done := make(chan error, 1)
	go func() {
		for range 3 {
			for _, arg := range [][]string{{"--insecure-policy", "copy", "oci:" + layout + ":v1", theirs}, {"delete", theirs}} {
				if out, err := exec.Command("skopeo", arg...).CombinedOutput(); err != nil {
					done <- errors.New(string(out))
					return
				}
			}
		}
		done <- nil
	}()
	k, src := p.sink(t, repository), p.source(t, repository)
	for _, version := range []string{"1", "2", "3", "4"} {
		img := hello(t, version)
		img.store(t, k, "v1")
		resolves(t, src, "v1", img)
	}
	must(t, <-done)
	resolves(t, src, "v1", hello(t, "4"))
	equal(t, "what is left", len(p.left(t)), 0)
}

// TestDockerImage: an image of Docker's media types stays one, uncompressed layers too.
func TestDockerImage(t *testing.T) {
	p := newPlace(t, "overlay")
	img := hello(t, "1")
	img.m.MediaType, img.m.Config.MediaType = image.MediaTypeDockerManifest, "application/vnd.docker.container.image.v1+json"
	for i := range img.m.Layers {
		img.m.Layers[i].MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	}
	img.describe(t)
	img.store(t, p.sink(t, repository), "v1")
	equal(t, "skopeo inspect", run(t, "skopeo", "inspect", "--raw", p.ref(repository+":v1")), string(img.raw))
	src := p.source(t, repository)
	resolves(t, src, "v1", img)
	_, err := src.Fetch(t.Context(), img.m.Layers[0])
	var form *image.FormError
	if !errors.As(err, &form) || form.Have.MediaType != "application/vnd.docker.image.rootfs.diff.tar" {
		t.Errorf("fetch: %v", err)
	}
	run(t, "skopeo", "--insecure-policy", "copy", p.ref(repository+":v1"), "dir:"+p.dir+"/dir")
	d, err := plain.New(src).Resolve(t.Context(), "v1")
	must(t, err)
	copied, err := os.ReadFile(p.dir + "/dir/manifest.json")
	must(t, err)
	theirs, err := image.ParseManifest("", copied)
	must(t, err)
	_, raw, err := plain.New(src).Manifest(t.Context(), d.Digest.String())
	must(t, err)
	m, err := image.ParseManifest("", raw)
	must(t, err)
	for i := range theirs.Layers { // which it calls gzipped, though they are not
		equal(t, "a layer as skopeo copies it out", []any{m.Layers[i].Digest, m.Layers[i].Size}, []any{theirs.Layers[i].Digest, theirs.Layers[i].Size})
	}
}

// TestCopies: an image that a store has is copied, as it is there, to a layout that skopeo and umoci read, and within the store.
func TestCopies(t *testing.T) {
	p := newPlace(t, "overlay")
	img := hello(t, "1")
	img.store(t, p.sink(t, repository), "v1")
	dir := t.TempDir()
	l, err := oci.Create(dir)
	must(t, err)
	defer l.Close()
	src := plain.New(p.source(t, repository))
	d, err := src.Resolve(t.Context(), "v1")
	must(t, err)
	for _, to := range []image.Sink{l, p.sink(t, "registry.test/copy")} {
		_, err = copy.Run(t.Context(), to, copy.From(src, image.Repository{}), d, copy.Options{Tags: []string{"v2"}})
		must(t, err)
	}
	equal(t, "skopeo inspect", digest.FromString(run(t, "skopeo", "inspect", "--raw", "oci:"+dir+":v2")), d.Digest)
	run(t, "umoci", "unpack", "--image", dir+":v2", dir+"/bundle")
	equal(t, "umoci unpack", run(t, "cat", dir+"/bundle/rootfs/etc/hello"), "hello 1")
	got, err := p.source(t, "registry.test/copy").Resolve(t.Context(), "v2")
	must(t, err)
	equal(t, "the copy in the store", got.Digest, d.Digest)
	again, err := plain.New(p.source(t, repository)).Resolve(t.Context(), d.Digest.String())
	must(t, err)
	equal(t, "by a digest of an earlier run", again.Digest, d.Digest)
}
