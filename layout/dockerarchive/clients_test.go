package dockerarchive

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// filled is an archive of two repositories: with an image of two tags, one for several platforms, and an artifact.
func filled(t *testing.T) (archive string, images map[string]string) {
	t.Helper()
	archive = filepath.Join(t.TempDir(), "archive.tar")
	a := create(t, archive)
	hello, other := at(t, a, "docker.io/library/hello"), at(t, a, "example.com:5000/a/b")
	one := tagImage(t, hello, "hello", "v1")
	tagImage(t, hello, "hello", "latest")
	two := tagImage(t, other, "hello again", "v1")
	multi := tagIndex(t, other, "hello on ", "multi")
	tagArtifact(t, other, "artifact")
	return archive, map[string]string{
		"docker.io/library/hello:v1": configDigest(t, hello, one), "docker.io/library/hello:latest": configDigest(t, hello, one),
		"example.com:5000/a/b:v1": configDigest(t, other, two), "example.com:5000/a/b:multi": configDigest(t, other, multi),
	}
}

func tagArtifact(t *testing.T, r *repository, tag string) image.Descriptor {
	t.Helper()
	raw := marshal(t, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: "text/plain",
		Config: push(t, r, v1.MediaTypeEmptyJSON, []byte("{}")),
		Layers: []image.Descriptor{push(t, r, "text/plain", []byte("hello"))},
	})
	d := describe(v1.MediaTypeImageManifest, raw)
	must(t, r.Tag(t.Context(), d, raw, tag))
	return d
}

func TestSkopeoReads(t *testing.T) {
	archive, images := filled(t)
	for name, config := range images {
		dir := t.TempDir()
		run(t, "skopeo", "--insecure-policy", "copy", "docker-archive:"+archive+":"+name, "dir:"+dir)
		if _, err := os.Stat(filepath.Join(dir, config)); err != nil {
			t.Errorf("skopeo copied another image: %v", err)
		}
	}
}

// TestSkopeoAgrees on what is a manifest where there is none.
func TestSkopeoAgrees(t *testing.T) {
	hello := layerOf(t, "hello")
	config := string(configOf(t, "amd64", hello, hello))
	archive := tarOf(t, file{"c.json", config}, file{"a/layer.tar", string(zipped(t, hello))},
		file{"manifest.json", `[{"Config":"c.json","RepoTags":["hello:v1"],"Layers":["a/layer.tar","a/layer.tar"]}]`})
	a, err := Open(t.Context(), archive)
	must(t, err)
	defer a.Close()
	_, raw, err := at(t, a, "docker.io/library/hello").Manifest(t.Context(), "v1")
	must(t, err)
	want(t, "manifest", string(raw), run(t, "skopeo", "inspect", "--raw", "docker-archive:"+archive+":hello:v1"))
}

// podman runs podman with a store of the test's own.
func podman(t *testing.T) func(arg ...string) string {
	store := t.TempDir()
	return func(arg ...string) string {
		global := []string{"--root", store + "/root", "--runroot", store + "/run", "--tmpdir", store + "/tmp", "--storage-driver", "vfs"}
		return run(t, "podman", append(global, arg...)...)
	}
}

func TestPodmanLoads(t *testing.T) {
	archive, images := filled(t)
	client := podman(t)
	client("load", "--quiet", "--input", archive)
	for name, config := range images {
		want(t, name, strings.TrimSpace(client("image", "inspect", "--format", "{{.Id}}", name)), config)
	}
}

// TestPodmanLoadsOne image, for which it goes by index.json.
func TestPodmanLoadsOne(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "archive.tar")
	r := at(t, create(t, archive), "docker.io/library/hello")
	config := configDigest(t, r, tagImage(t, r, "hello", "v1"))
	client := podman(t)
	client("load", "--quiet", "--input", archive)
	want(t, "hello", strings.TrimSpace(client("image", "inspect", "--format", "{{.Id}}", "docker.io/library/hello:v1")), config)
}

// TestDockerLoads into an engine of the test's own.
func TestDockerLoads(t *testing.T) {
	archive, images := filled(t)
	client := engine(t)
	client("load", "--quiet", "--input", archive)
	for name, config := range images {
		var info []struct{ ID string }
		must(t, json.Unmarshal([]byte(client("image", "inspect", name)), &info))
		want(t, name, info[0].ID, "sha256:"+config)
	}
	// What docker saves is an archive, too.
	saved := filepath.Join(t.TempDir(), "saved.tar")
	client("save", "--output", saved, "hello:v1", "example.com:5000/a/b:v1")
	a, err := Open(t.Context(), saved)
	must(t, err)
	defer a.Close()
	want(t, "hosts", collect(t, a.Hosts(t.Context())), []string{"docker.io", "example.com:5000"})
	r := at(t, a, "docker.io/library/hello")
	d, err := r.Resolve(t.Context(), "v1")
	must(t, err)
	want(t, "config", configDigest(t, r, d), images["docker.io/library/hello:v1"])
}

// engine starts a Docker engine, where one can be, and returns its client.
func engine(t *testing.T) func(arg ...string) string {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); os.Getuid() != 0 || err != nil && os.Getenv("CI") == "" {
		t.Skip("no Docker engine can be started: ", err)
	}
	dir, err := os.MkdirTemp("", "docker") // a socket's path must be short
	must(t, err)
	socket := "unix://" + dir + "/sock"
	daemon := exec.Command("dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs",
		"--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "-H", socket)
	daemon.Stderr = t.Output()
	must(t, daemon.Start())
	t.Cleanup(func() {
		daemon.Process.Signal(os.Interrupt)
		daemon.Wait()
		os.RemoveAll(dir)
	})
	client := func(arg ...string) string { return run(t, "docker", append([]string{"-H", socket}, arg...)...) }
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err := exec.Command("docker", "-H", socket, "version").Run(); err == nil {
			return client
		} else if time.Now().After(deadline) {
			t.Fatalf("the engine does not start: %v", err)
		}
	}
}

// TestAddToOthers: what skopeo wrote, in docker's older form, is added to, and stays what it is to it and to us.
func TestAddToOthers(t *testing.T) {
	dir := t.TempDir()
	from, archive := filepath.Join(dir, "from.tar"), filepath.Join(dir, "archive.tar")
	r := at(t, create(t, from), "docker.io/library/old")
	old := configDigest(t, r, tagImage(t, r, "old", "v1"))
	run(t, "skopeo", "--insecure-policy", "copy", "docker-archive:"+from, "docker-archive:"+archive+":docker.io/library/old:v1")
	a := create(t, archive)
	before, err := at(t, a, "docker.io/library/old").Resolve(t.Context(), "v1")
	must(t, err)
	r = at(t, a, "docker.io/library/new")
	added := configDigest(t, r, tagImage(t, r, "new", "v1"))
	resolve(t, at(t, a, "docker.io/library/old"), "v1", before)
	resolve(t, at(t, a, ""), "@0", before)
	want(t, "repositories", repositories(t, a), []string{"library/new", "library/old"})
	for name, config := range map[string]string{"old:v1": old, "new:v1": added} {
		out := filepath.Join(t.TempDir(), "out")
		run(t, "skopeo", "--insecure-policy", "copy", "docker-archive:"+archive+":"+name, "dir:"+out)
		files, err := os.ReadDir(out)
		must(t, err)
		if !slices.ContainsFunc(files, func(f os.DirEntry) bool { return f.Name() == config }) {
			t.Errorf("%s: skopeo copied %v and no config %s", name, files, config)
		}
	}
}

func repositories(t *testing.T, a *Archive) []string {
	t.Helper()
	h, err := a.Host("docker.io")
	must(t, err)
	return collect(t, h.Repositories(t.Context(), ""))
}
