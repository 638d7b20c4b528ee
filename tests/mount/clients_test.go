//go:build linux

package mount_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// client is a mount with an image of the reader's own platform, team/app:v1, and what the programs that read it need.
type client struct {
	*mounted.Mount
	r      *registries.Registry
	digest string
}

func newClient(t *testing.T, program string) client {
	registries.Program(t, program)
	r := registries.Docker(t, registries.Config{})
	r.PushImage(t, "team/app:v1", registries.Image(t, registries.Platforms[0], "1"))
	r.PushImage(t, "team/app:v2", registries.Image(t, registries.Platforms[0], "2"))
	m := mounted.New(t, mounted.Options{})
	return client{m, r, strings.TrimSpace(read(t, m, r.Host, "team/app/tags/v1/digest"))}
}

func (c client) image(elem ...string) string {
	return c.At(append([]string{c.r.Host, "team/app/tags/v1"}, elem...)...)
}

// inside goes to the image's folder until the test's end: transports that write path:tag can't name a path with a port in it.
func (c client) inside(t *testing.T) {
	t.Helper()
	t.Cleanup(c.Unmount)
	t.Chdir(c.image())
}

func TestSkopeoCopiesLayout(t *testing.T) {
	c := newClient(t, "skopeo")
	out := t.TempDir()
	c.inside(t)
	run(t, "skopeo", "--insecure-policy", "copy", "oci:oci-layout:v1", "dir:"+out)
	if got := sha256Of(t, out+"/manifest.json"); got != c.digest {
		t.Errorf("copied the manifest %s, not %s", got, c.digest)
	}
	direct := t.TempDir()
	run(t, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+c.r.Host+"/team/app:v1", "dir:"+direct)
	run(t, "diff", "-r", out, direct)
}

func TestSkopeoInspect(t *testing.T) {
	c := newClient(t, "skopeo")
	var ours, theirs map[string]any
	parse(t, read(t, c.Mount, c.r.Host, "team/app/tags/v1/inspect.json"), &ours)
	parse(t, run(t, "skopeo", "inspect", "--no-tags", "--tls-verify=false", "docker://"+c.r.Host+"/team/app:v1"), &theirs)
	// Debian's skopeo is older than this field.
	delete(ours, "LayersData")
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("inspect.json differs from what skopeo prints: %s", diff)
	}
	c.inside(t)
	for _, archive := range []string{"oci-archive:archive.oci.tar", "docker-archive:archive.docker.tar"} {
		var info struct{ Architecture string }
		parse(t, run(t, "skopeo", "inspect", archive), &info)
		if info.Architecture != registries.Platforms[0].Architecture {
			t.Errorf("%s: %+v", archive, info)
		}
	}
}

func parse(t *testing.T, raw string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(raw), into); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
}

func TestUmociUnpacks(t *testing.T) {
	c := newClient(t, "umoci")
	bundle := t.TempDir() + "/bundle"
	c.inside(t)
	run(t, "umoci", "unpack", "--image", "oci-layout:v1", bundle)
	entries, err := os.ReadDir(bundle + "/rootfs")
	if err != nil || len(entries) == 0 {
		t.Errorf("unpacked nothing: %v", err)
	}
}

func TestCranePushes(t *testing.T) {
	c := newClient(t, "crane")
	run(t, "crane", "push", "--insecure", c.image("oci-layout"), c.r.Host+"/copied/app:v1")
	desc, err := remote.Head(c.r.Ref(t, "copied/app:v1"), c.r.Options(t)...)
	if err != nil || desc.Digest.String() != c.digest {
		t.Errorf("pushed %v, not %s: %v", desc, c.digest, err)
	}
}

func TestRegctlCopies(t *testing.T) {
	c := newClient(t, "regctl")
	out := t.TempDir()
	c.inside(t)
	run(t, "regctl", "image", "copy", "ocidir://oci-layout:v1", "ocidir://"+out+"/app:v1")
	var index struct{ Manifests []struct{ Digest string } }
	parse(t, run(t, "cat", out+"/app/index.json"), &index)
	if len(index.Manifests) != 1 || index.Manifests[0].Digest != c.digest {
		t.Errorf("copied %v, not %s", index, c.digest)
	}
}

func TestPodmanLoads(t *testing.T) {
	for _, archive := range []string{"archive.oci.tar", "archive.docker.tar"} {
		t.Run(archive, func(t *testing.T) {
			c := newClient(t, "podman")
			state, err := os.MkdirTemp("", "") // podman refuses the long names of t.TempDir
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(state) })
			podman := []string{"--root", state + "/root", "--runroot", state + "/run", "--storage-driver", "vfs"}
			run(t, "sh", "-c", `archive=$1; shift; podman "$@" load < "$archive"`, "sh", c.image(archive), podman[0], podman[1], podman[2], podman[3], podman[4], podman[5])
			id := strings.TrimSpace(run(t, "podman", append(podman, "images", "--no-trunc", "--quiet")...))
			config := sha256Of(t, c.image("config.json"))
			if id != config {
				t.Errorf("podman has the image %q, not %s", id, config)
			}
		})
	}
}

func TestTarAndRsync(t *testing.T) {
	c := newClient(t, "rsync")
	byTar, byRsync, byCp := t.TempDir(), t.TempDir(), t.TempDir()
	run(t, "sh", "-c", `tar -C "$1" -cf - . | tar -C "$2" -xf -`, "sh", c.image(), byTar)
	run(t, "rsync", "-a", c.image()+"/", byRsync)
	run(t, "cp", "-a", c.image()+"/.", byCp)
	run(t, "diff", "-r", byTar, byRsync)
	run(t, "diff", "-r", byCp, byRsync)
	run(t, "diff", "-r", c.image(), byRsync)
	checkBlobs(t, byRsync+"/oci-layout")
	if sent := run(t, "rsync", "-ai", c.image()+"/", byRsync); sent != "" {
		t.Errorf("rsync sent again: %s", sent)
	}
}

func TestJqAndDiff(t *testing.T) {
	c := newClient(t, "jq")
	if got := strings.TrimSpace(run(t, "jq", "-r", ".architecture", c.image("config.json"))); got != registries.Platforms[0].Architecture {
		t.Errorf("jq read %s", got)
	}
	out, _, err := try(t, "diff", "-r", c.At(c.r.Host, "team/app/tags/v1"), c.At(c.r.Host, "team/app/tags/v2"))
	if err == nil {
		t.Error("diff -r finds two versions equal")
	}
	if strings.Contains(out, "layers/00") || !strings.Contains(out, "layers/01") {
		t.Errorf("the versions share their first layer and not their second, but diff -r says:\n%s", out)
	}
	run(t, "diff", "-r", c.At(c.r.Host, "team/app/tags/v1/layers"), c.At(c.r.Host, "team/app/digests", c.digest, "layers"))
}

// TestWholeRepository copies a repository as one layout, and finds every tag in it.
func TestWholeRepository(t *testing.T) {
	c := newClient(t, "skopeo")
	out := t.TempDir()
	run(t, "cp", "-r", c.At(c.r.Host, "team/app/oci-layout"), out)
	checkBlobs(t, out+"/oci-layout")
	for _, tag := range []string{"v1", "v2"} {
		want := strings.TrimSpace(read(t, c.Mount, c.r.Host, "team/app/tags", tag, "digest"))
		var info struct{ Digest string }
		parse(t, run(t, "skopeo", "inspect", "oci:"+out+"/oci-layout:"+tag), &info)
		if info.Digest != want {
			t.Errorf("%s is %s in the layout, not %s", tag, info.Digest, want)
		}
	}
}

// TestSchema1 shows a manifest of Docker's first schema as the registry has it. No layout can hold one.
func TestSchema1(t *testing.T) {
	r := registries.Docker(t, registries.Config{Schema1: true})
	r.PushImage(t, "team/old:v1", registries.DockerImage(t, "1"))
	digest := r.PushSchema1(t, "team/old:v1")
	m := mounted.New(t, mounted.Options{})
	if got := strings.TrimSpace(read(t, m, r.Host, "team/old/tags/v1/digest")); got != digest.String() {
		t.Errorf("digest is %s, not %s", got, digest)
	}
	var manifest struct{ SchemaVersion int }
	parse(t, read(t, m, r.Host, "team/old/tags/v1/manifest.json"), &manifest)
	if manifest.SchemaVersion != 1 {
		t.Errorf("manifest.json has the schema %d", manifest.SchemaVersion)
	}
	want := []string{"digest", "inspect.json", "layers", "manifest.json", "referrers", "rootfs"}
	if got := list(t, m, r.Host, "team/old/tags/v1"); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	for _, layer := range list(t, m, r.Host, "team/old/tags/v1/layers") {
		want := strings.TrimSpace(read(t, m, r.Host, "team/old/tags/v1/layers", layer, "digest"))
		if got := sha256Of(t, m.At(r.Host, "team/old/tags/v1/layers", layer, "blob")); got != want {
			t.Errorf("layer %s is %s, not %s", layer, got, want)
		}
	}
	var ours, theirs map[string]any
	registries.Program(t, "skopeo")
	parse(t, read(t, m, r.Host, "team/old/tags/v1/inspect.json"), &ours)
	parse(t, run(t, "skopeo", "inspect", "--no-tags", "--tls-verify=false", "docker://"+r.Host+"/team/old:v1"), &theirs)
	delete(ours, "LayersData")
	if diff := cmp.Diff(theirs, ours, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("inspect.json differs from what skopeo prints: %s", diff)
	}
}

func TestChart(t *testing.T) {
	r := registries.Memory(t)
	r.PushChart(t, "charts/web:1.2.3")
	m := mounted.New(t, mounted.Options{})
	files := list(t, m, r.Host, "charts/web/tags/1.2.3/files")
	if !slices.ContainsFunc(files, func(name string) bool { return strings.HasSuffix(name, ".tgz") }) {
		t.Errorf("files/ has %v", files)
	}
}

func TestXattrs(t *testing.T) {
	c := newClient(t, "getfattr")
	for _, path := range []string{c.image(), c.image("manifest.json"), c.image("oci-layout/blobs/sha256", strings.TrimPrefix(c.digest, "sha256:"))} {
		if got := run(t, "getfattr", "--only-values", "-n", "user.oci.digest", path); got != c.digest {
			t.Errorf("%s has the digest %s, not %s", path, got, c.digest)
		}
	}
	c.r.PushArtifact(t, "team/files:v1")
	title := run(t, "getfattr", "--absolute-names", "--only-values", "-n", "user.oci.annotation.org.opencontainers.image.title", c.At(c.r.Host, "team/files/tags/v1/files/hello.txt"))
	if title != "hello.txt" {
		t.Errorf("title is %q", title)
	}
	if _, _, err := try(t, "getfattr", "-n", "user.other", c.image()); err == nil {
		t.Error("an attribute that is not there was read")
	}
}
