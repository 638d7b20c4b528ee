package main

import (
	"crypto/rand"
	little "encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/tests/conformance"
	"github.com/regfs/regfs/tests/registries"
)

// shownPlace is a kind of place to mount.
type shownPlace struct {
	// source is what mount is told, for a place at a path.
	source func(path string) string
	// skopeo is what skopeo calls an image of it, with the flags that it needs.
	skopeo func(path, tag string) string
	flags  []string
	// folder is where the image of a tag stands in the place.
	folder func(tag string) string
	// written are the tags that are written to, none in what can only be read.
	written []string
	// made says how to make one that skopeo can't write; "" is by skopeo.
	made func(t *testing.T, layout, path string)
	// oneLayer tells that all layers became one.
	oneLayer bool
	// converts tells that the place keeps images in another form than skopeo or a mount showed them.
	converts bool
}

func tagsFolder(tag string) string { return "tags/" + tag }

func namedFolder(tag string) string { return "example.com/app/tags/" + tag }

func latestFolder(string) string { return "tags/latest" }

func prefixed(transport string) func(path string) string {
	return func(path string) string { return transport + ":" + path }
}

func shownPlaces(t *testing.T) map[string]shownPlace {
	needRoot(t)
	engine := registries.DockerEngine(t).Host
	three := []string{"w1", "w2", "w3"}
	return map[string]shownPlace{
		"oci":            {source: prefixed("oci"), skopeo: func(path, tag string) string { return "oci:" + path + ":" + tag }, folder: tagsFolder, written: three},
		"oci-archive":    {source: prefixed("oci-archive"), skopeo: func(path, tag string) string { return "oci-archive:" + path + ":" + tag }, folder: tagsFolder},
		"dir":            {source: prefixed("dir"), skopeo: func(path, _ string) string { return "dir:" + path }, folder: latestFolder, written: []string{"latest"}},
		"docker-archive": {source: prefixed("docker-archive"), skopeo: func(path, tag string) string { return "docker-archive:" + path + ":example.com/app:" + tag }, folder: namedFolder},
		"containers-storage": {
			source: func(path string) string { return "containers-storage:[vfs@" + path + "/root+" + path + "/run]" },
			skopeo: func(path, tag string) string {
				return "containers-storage:[vfs@" + path + "/root+" + path + "/run]example.com/app:" + tag
			},
			folder: namedFolder, written: three, converts: true,
		},
		"docker-daemon": {
			source: func(string) string { return "docker-daemon:" },
			skopeo: func(_, tag string) string { return "docker-daemon:example.com/app:" + tag }, flags: []string{"--daemon-host", engine},
			folder: namedFolder, written: three, converts: true,
		},
		"sif":     {source: prefixed("sif"), folder: latestFolder, made: writeSIF, oneLayer: true},
		"tarball": {source: func(path string) string { return "tarball:" + path + "/0:" + path + "/1" }, folder: latestFolder, made: layerFiles},
		"ostree": {
			source: prefixed("ostree"), folder: namedFolder, written: three,
			made: func(t *testing.T, layout, path string) {
				regfs(t, 0, "copy", "-q", "oci:"+layout+":v1", "ostree:example.com/app:v1@"+path)
			},
		},
	}
}

// layerFiles puts the layers of the image v1 of a layout into a folder, under their numbers.
func layerFiles(t *testing.T, layout, path string) {
	t.Helper()
	shell(t, "sh", "-c", `mkdir -p "$2"; n=0; for d in $(skopeo inspect --raw "oci:$1:v1" | jq -r .layers[].digest); do
		cp "$1/blobs/sha256/${d#*:}" "$2/$n"; n=$((n+1)); done`, "sh", layout, path)
}

// writeSIF makes a Singularity image of the layers of the image v1 of a layout: a header, one descriptor, and a squashfs.
func writeSIF(t *testing.T, layout, path string) {
	t.Helper()
	dir := t.TempDir()
	layerFiles(t, layout, dir+"/layers")
	shell(t, "sh", "-c", `cd "$1" && mkdir root && for l in layers/*; do tar -xf $l -C root; done && tar -cf - -C root . | tar2sqfs --quiet squashfs`, "sh", dir)
	content, err := os.ReadFile(filepath.Join(dir, "squashfs"))
	if err != nil {
		t.Fatal(err)
	}
	const start, length = 4096, 585 // of the descriptor
	b := make([]byte, start+length)
	copy(b, "#!/usr/bin/env run-singularity\n")
	copy(b[32:], "SIF_MAGIC\x0001\x0002\x00")
	for i, n := range []int{1, 1, 0, 1, start, length, start + length, len(content)} {
		little.LittleEndian.PutUint64(b[64+8*i:], uint64(n))
	}
	d := b[start:]
	little.LittleEndian.PutUint32(d, 0x4004) // a partition
	d[4], d[5] = 1, 1
	for at, n := range map[int]int{17: start + length, 25: len(content), 33: len(content)} {
		little.LittleEndian.PutUint64(d[at:], uint64(n))
	}
	d[201], d[205] = 1, 2 // squashfs, the system's
	copy(d[209:], "02")
	if err := os.WriteFile(path, append(b, content...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// daemonFlags are skopeo's for one end of a copy.
func (p *shownPlace) daemonFlags(side string) []string {
	if p.flags == nil {
		return nil
	}
	return []string{"--" + side + p.flags[0][1:], p.flags[1]}
}

// TestPlacesAreBrowsed looks at an image that skopeo put into each place.
func TestPlacesAreBrowsed(t *testing.T) {
	needFUSE(t)
	content := conformance.Images("v1", false)
	layout := layoutOf(t, content)
	for kind, p := range shownPlaces(t) {
		t.Run(kind, func(t *testing.T) {
			s := p.mount(t, layout)
			at := filepath.Join(s.mnt, "@place", p.folder("v1"))
			for i, name := range content.Layers(content.Image) {
				if p.oneLayer {
					i = 0
				}
				for _, tree := range []string{"rootfs", "layers/0" + string(rune('0'+i)) + "/tree"} {
					if _, err := os.ReadFile(filepath.Join(at, tree, name)); err != nil {
						t.Errorf("%v", err)
					}
				}
			}
			manifest := digest.FromString(shell(t, "cat", at+"/manifest.json"))
			if got := strings.TrimSpace(shell(t, "cat", at+"/digest")); got != manifest.String() {
				t.Errorf("the digest is %s, of the manifest %s", got, manifest)
			}
			if p.skopeo != nil && !p.converts && kind != "docker-archive" {
				if want := p.raw(t, s.place, "v1"); manifest.String() != want {
					t.Errorf("the manifest is %s, skopeo finds %s", manifest, want)
				}
			}
			out := filepath.Join(t.TempDir(), "out")
			shell(t, "cp", "-r", at+"/oci-layout", out)
			shell(t, "sh", "-c", `cd "$1/blobs/sha256" && for f in *; do echo "$f  $f"; done | sha256sum --check --quiet`, "sh", out)
			shell(t, "ls", "-lR", filepath.Join(s.mnt, "@place"))
			if converted := p.converts && kind == "docker-daemon" || strings.Contains(shell(t, "cat", at+"/manifest.json"), "docker"); !converted {
				shell(t, "skopeo", "--insecure-policy", "copy", "oci:"+out, "dir:"+t.TempDir())
			}
			shell(t, "skopeo", "inspect", "docker-archive:"+filepath.Join(at, "archive.docker.tar"))
		})
	}
}

// raw is the digest of the manifest that skopeo finds.
func (p *shownPlace) raw(t *testing.T, path, tag string) string {
	return digest.FromString(shell(t, "skopeo", slices.Concat([]string{"inspect", "--raw"}, p.flags, []string{p.skopeo(path, tag)})...)).String()
}

// shownSandbox is a mount with a place in it, and where that is.
type shownSandbox struct {
	*sandbox
	place string
}

// mount makes the place with an image under v1 and mounts it as @place.
func (p *shownPlace) mount(t *testing.T, layout string) *shownSandbox {
	t.Helper()
	s := newSandbox(t)
	// Not below the test's folder: podman does not find paths that long.
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	place := filepath.Join(dir, "p")
	if p.made != nil {
		p.made(t, layout, place)
	} else {
		args := slices.Concat([]string{"--insecure-policy", "copy"}, p.daemonFlags("dest"), []string{"oci:" + layout + ":v1", p.skopeo(place, "v1")})
		shell(t, "skopeo", args...)
	}
	s.must(slices.Concat([]string{"mount"}, p.flags, []string{"place=" + p.source(place), s.mnt})...)
	t.Cleanup(func() { s.must("umount", s.mnt) })
	return &shownSandbox{s, place}
}

// freshLayout is a layout with an image under v1, no part of which is anywhere else.
func freshLayout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	file, tar, layout := filepath.Join(dir, "file"), filepath.Join(dir, "layer.tar"), filepath.Join(dir, "layout")
	content := make([]byte, 2<<20)
	rand.Read(content)
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	shell(t, "tar", "-cf", tar, "-C", dir, "file")
	shell(t, "skopeo", "--insecure-policy", "copy", "tarball:"+tar, "oci:"+layout+":v1")
	return layout
}

// TestPlacesAreWritten writes into each place that can be written to, as different programs do, images that it has nothing of.
func TestPlacesAreWritten(t *testing.T) {
	needFUSE(t)
	content := conformance.Images("v1", false)
	layout := layoutOf(t, content)
	for kind, p := range shownPlaces(t) {
		if len(p.written) == 0 {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			s := p.mount(t, layout)
			p.writeIndex(t, s)
			for i, write := range []func(from, to string){
				func(from, to string) { shell(t, "cp", "-r", from+"/.", to) },
				func(from, to string) { shell(t, "rsync", "-a", from+"/", to+"/") },
				func(from, to string) {
					shell(t, "skopeo", "--insecure-policy", "copy", "oci:"+from+":v1", "oci:"+to+":v1")
				},
			} {
				from := freshLayout(t)
				want := digest.FromString(shell(t, "skopeo", "inspect", "--raw", "oci:"+from+":v1"))
				tag := p.written[min(i, len(p.written)-1)]
				to := filepath.Join(s.mnt, "@place", p.folder(tag))
				shell(t, "mkdir", "-p", to)
				write(from, filepath.Join(to, "oci-layout"))
				if shell(t, "cat", to+"/digest") == "" {
					t.Errorf("writer %d: the tag has no digest", i)
				}
				if p.skopeo == nil {
					continue
				}
				if got := p.raw(t, s.place, tag); got != want.String() && kind != "docker-daemon" {
					t.Errorf("writer %d: %s is there, want %s", i, got, want)
				}
				shell(t, "skopeo", slices.Concat([]string{"--insecure-policy", "copy"}, p.daemonFlags("src"), []string{p.skopeo(s.place, tag), "dir:" + t.TempDir()})...)
			}
		})
	}
}

// writeIndex writes a multi-platform image. Where that can't be, the image for this machine comes of it.
func (p *shownPlace) writeIndex(t *testing.T, s *shownSandbox) {
	t.Helper()
	if !p.converts {
		return
	}
	content := conformance.Images("single", true)
	blob := filepath.Join(s.mnt, "@place/example.com/app/blobs/sha256", digest.FromString("alone").Encoded())
	if err := os.WriteFile(blob, []byte("alone"), 0o644); !errors.Is(err, unix.ENOTSUP) {
		t.Errorf("a blob of no image: %v, want %v", err, unix.ENOTSUP)
	}
	to := filepath.Join(s.mnt, "@place", p.folder("multi"))
	shell(t, "mkdir", "-p", to)
	shell(t, "cp", "-r", layoutOf(t, content), to+"/oci-layout")
	if got, want := shell(t, "ls", to+"/rootfs"), "amd64-0\namd64-1\n"; got != want && runtime.GOARCH == "amd64" {
		t.Errorf("of a multi-platform image came %q, want %q", got, want)
	}
}

// TestDockerLoads: the engine takes the docker archive that stands in an image's folder, and gives the image its name.
func TestDockerLoads(t *testing.T) {
	needFUSE(t)
	needRoot(t)
	engine := registries.DockerEngine(t)
	content := conformance.Images("v1", false)
	layout := layoutOf(t, content)
	r := registries.Memory(t)
	copyTo(t, 0, "oci:"+layout+":v1", "docker://"+r.Host+"/team/app:v1")
	s := newSandbox(t)
	s.must("mount", "--insecure", r.Host, s.mnt)
	out := engine.Docker(t, "load", "--input", filepath.Join(s.mnt, r.Host, "team/app/tags/v1/archive.docker.tar"))
	if want := "Loaded image: " + r.Host + "/team/app:v1"; !strings.Contains(out, want) {
		t.Errorf("docker load says %q, want %q", out, want)
	}
	if id := strings.TrimSpace(engine.Docker(t, "images", "--quiet", "--no-trunc")); id != configOf(t, layout, "v1").String() {
		t.Errorf("the engine has %s, want %s", id, configOf(t, layout, "v1"))
	}
	s.must("umount", s.mnt)
}

// TestWritersGoOn writes what a place has already, after the file that completed the image, into places that make another image of it
// than what was written.
func TestWritersGoOn(t *testing.T) {
	needFUSE(t)
	layout := layoutOf(t, conformance.Images("v1", true))
	only := filepath.Join(t.TempDir(), "only")
	regfs(t, 0, "copy", "-q", "oci:"+layout+":multi", "oci:"+only+":multi")
	last := "blobs/sha256/" + configOf(t, only, "multi").Encoded()
	blobs := strings.Fields(shell(t, "sh", "-c", "cd $0 && ls -d blobs/sha256/*", only))
	blobs = append(slices.DeleteFunc(blobs, func(name string) bool { return name == last }), last)
	places := shownPlaces(t)
	for _, kind := range []string{"docker-daemon", "containers-storage"} {
		t.Run(kind, func(t *testing.T) {
			p := places[kind]
			mnt := p.mount(t, layout).mnt
			for _, tag := range []string{"w1", "w2"} {
				to := filepath.Join(mnt, "@place", p.folder(tag))
				shell(t, "mkdir", "-p", to)
				writeLayout(t, only, filepath.Join(to, "oci-layout"), slices.Concat([]string{"index.json"}, blobs, []string{"oci-layout"}))
				shell(t, "cat", to+"/digest")
			}
		})
	}
}

// writeLayout copies the files of a layout in an order, as one process that knows what it has made.
func writeLayout(t *testing.T, from, to string, names []string) {
	t.Helper()
	for _, folder := range []string{"", "blobs", "blobs/sha256"} {
		if err := os.Mkdir(filepath.Join(to, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filepath.Join(to, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if _, err := f.Write(content); err != nil {
			t.Errorf("%v", err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("%v", err)
		}
	}
}
