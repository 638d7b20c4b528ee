package layout

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regfs/regfs/image"
)

// run runs a client of images and returns what it printed.
func run(t *testing.T, name string, arg ...string) string {
	t.Helper()
	out, err := exec.Command(name, arg...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arg, " "), err, out)
	}
	return string(out)
}

// need skips the test where a program is missing, but on CI, where none may be.
func need(t *testing.T, program string) {
	t.Helper()
	_, err := exec.LookPath(program)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
}

// save writes files as a tar to the disk.
func save(t *testing.T, s memory, files []File, err error) string {
	t.Helper()
	must(t, err)
	tr, err := NewTar(files)
	must(t, err)
	r := tr.Open(s, &open{})
	defer r.Close()
	p := make([]byte, tr.Size())
	_, err = r.ReadAt(t.Context(), p, 0)
	must(t, err)
	name := filepath.Join(t.TempDir(), "archive.tar")
	must(t, os.WriteFile(name, p, 0o644))
	return name
}

func TestSkopeoReadsOCIArchive(t *testing.T) {
	need(t, "skopeo")
	s := memory{}
	amd, arm := s.image(t, "amd64"), s.image(t, "arm64")
	files, err := OCI(t.Context(), s, []Root{{s.index(amd, arm), "v1"}})
	archive := save(t, s, files, err)
	for arch, want := range map[string]image.Descriptor{"amd64": amd, "arm64": arm} {
		var info struct{ Digest, Architecture string }
		out := run(t, "skopeo", "--override-os=linux", "--override-arch="+arch, "inspect", "oci-archive:"+archive+":v1")
		must(t, json.Unmarshal([]byte(out), &info))
		if info.Architecture != arch {
			t.Errorf("skopeo inspect says %s", out)
		}
		dir := t.TempDir()
		run(t, "skopeo", "--insecure-policy", "--override-os=linux", "--override-arch="+arch, "copy", "oci-archive:"+archive+":v1", "dir:"+dir)
		got, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
		must(t, err)
		if diff := cmp.Diff(string(s[want.Digest].data), string(got)); diff != "" {
			t.Errorf("skopeo copied another manifest: %s", diff)
		}
	}
}

func TestSkopeoReadsDockerArchive(t *testing.T) {
	need(t, "skopeo")
	s := memory{}
	d := s.image(t, "amd64")
	_, raw, err := s.Manifest(t.Context(), d.Digest.String())
	must(t, err)
	m, err := image.ParseManifest(d.MediaType, raw)
	must(t, err)
	for _, name := range []string{"example.com/a/b:v1", ""} {
		files, err := Docker(t.Context(), s, d, name)
		archive := save(t, s, files, err)
		dir := t.TempDir()
		run(t, "skopeo", "--insecure-policy", "copy", "docker-archive:"+archive, "dir:"+dir)
		got, err := os.ReadFile(filepath.Join(dir, m.Config.Digest.Encoded()))
		must(t, err)
		if diff := cmp.Diff(string(s[m.Config.Digest].data), string(got)); diff != "" {
			t.Errorf("skopeo copied another config: %s", diff)
		}
	}
}

func TestPodmanLoads(t *testing.T) {
	need(t, "podman")
	s := memory{}
	amd := s.image(t, "amd64")
	files, err := OCI(t.Context(), s, []Root{{s.index(amd, s.image(t, "arm64")), "example.com/a/b:v1"}})
	oci := save(t, s, files, err)
	files, err = Docker(t.Context(), s, amd, "example.com/a/b:v1")
	docker := save(t, s, files, err)
	for _, archive := range []string{oci, docker} {
		store := t.TempDir()
		podman := func(arg ...string) string {
			global := []string{"--root", store + "/root", "--runroot", store + "/run", "--tmpdir", store + "/tmp", "--storage-driver", "vfs"}
			return run(t, "podman", append(global, arg...)...)
		}
		podman("load", "--quiet", "--input", archive)
		var info []struct {
			RepoTags []string
			RootFS   struct{ Layers []string }
		}
		must(t, json.NewDecoder(strings.NewReader(podman("image", "inspect", "example.com/a/b:v1"))).Decode(&info))
		if len(info) != 1 || len(info[0].RootFS.Layers) != 3 {
			t.Errorf("podman loaded %+v", info)
		}
	}
}

func TestUmociUnpacksLayout(t *testing.T) {
	need(t, "umoci")
	s := memory{}
	files, err := OCI(t.Context(), s, []Root{{s.image(t, "amd64"), "v1"}})
	must(t, err)
	dir := t.TempDir()
	for _, f := range files {
		data := f.Data
		if f.Blob != nil {
			r, err := s.Fetch(t.Context(), *f.Blob)
			must(t, err)
			data, err = io.ReadAll(r)
			must(t, err)
		}
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, "layout", f.Name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "layout", f.Name), data, 0o644))
	}
	run(t, "umoci", "unpack", "--rootless", "--image", filepath.Join(dir, "layout")+":v1", filepath.Join(dir, "bundle"))
	got, err := os.ReadFile(filepath.Join(dir, "bundle", "rootfs", "top"))
	if err != nil || string(got) != "made for amd64" {
		t.Errorf("umoci unpacked %q, %v", got, err)
	}
}
