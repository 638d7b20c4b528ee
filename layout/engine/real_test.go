package engine_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/engine"
	"github.com/regfs/regfs/tests/registries"
)

// TestDocker is a real engine, and its own client beside us.
func TestDocker(t *testing.T) {
	docker := registries.DockerEngine(t)
	e, err := engine.Open(engine.Options{Host: docker.Host, TempDir: t.TempDir()})
	must(t, err)
	t.Cleanup(func() { e.Close() })
	r := &real{docker, e, busybox(t)}
	for name, test := range map[string]func(*testing.T){
		"Runs": r.runs, "Reads": r.reads, "Untags": r.untags, "Moves": r.moves, "IDs": r.ids, "Refuses": r.refuses, "Interrupted": r.interrupted, "Killed": r.killed,
	} {
		t.Run(name, test)
	}
	left, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	if len(left) > 200 {
		t.Errorf("%d files are open", len(left))
	}
}

type real struct {
	*registries.Engine
	engine  *engine.Engine
	busybox []byte
}

// busybox is a layer with one static program under two names.
func busybox(t *testing.T) []byte {
	t.Helper()
	program, err := os.ReadFile(registries.Program(t, "busybox"))
	must(t, err)
	return tarOf(t, map[string]string{"bin/busybox": string(program), "bin/sh": string(program)})
}

// repository opens one that no other test has.
func (r *real) repository(t *testing.T, name string) (image.Source, image.Sink) {
	t.Helper()
	h, err := r.engine.Host("example.com")
	must(t, err)
	src, err := h.Source(t.Context(), name)
	must(t, err)
	sink, err := h.Sink(t.Context(), name)
	must(t, err)
	return src, sink
}

// put puts an image into the engine, of layers that were packed each in its own way.
func put(t *testing.T, sink image.Sink, tag string, config v1.ImageConfig, layers ...packed) image.Descriptor {
	t.Helper()
	doc := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, Config: config, RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, l := range layers {
		doc.RootFS.DiffIDs = append(doc.RootFS.DiffIDs, digest.FromBytes(l.plain))
		m.Layers = append(m.Layers, describe(v1.MediaTypeImageLayer+l.suffix, l.raw))
	}
	raw, err := json.Marshal(doc)
	must(t, err)
	m.Config = describe(v1.MediaTypeImageConfig, raw)
	manifest, err := json.Marshal(m)
	must(t, err)
	d := describe(v1.MediaTypeImageManifest, manifest)
	must(t, sink.Expect(t.Context(), d, manifest))
	for i, l := range layers {
		push(t, sink, m.Layers[i], l.raw)
	}
	push(t, sink, m.Config, raw)
	must(t, sink.Tag(t.Context(), d, manifest, tag))
	return m.Config
}

func push(t *testing.T, sink image.Sink, d image.Descriptor, raw []byte) {
	t.Helper()
	_, err := sink.Push(t.Context(), d, bring(raw))
	must(t, err)
}

// packed is a layer as it is in an image.
type packed struct {
	plain, raw []byte
	suffix     string
}

func plain(layer []byte) packed { return packed{layer, layer, ""} }

func gzipped(t *testing.T, layer []byte) packed {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	must(t, err)
	_, err = w.Write(layer)
	must(t, err)
	must(t, w.Close())
	return packed{layer, b.Bytes(), "+gzip"}
}

func zstded(t *testing.T, layer []byte) packed {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	must(t, err)
	return packed{layer, w.EncodeAll(layer, nil), "+zstd"}
}

// runs an image that was put there, with layers packed in each way, one of them twice.
func (r *real) runs(t *testing.T) {
	_, sink := r.repository(t, "runs")
	note := gzipped(t, tarOf(t, map[string]string{"note": "hello from regfs\n"}))
	config := v1.ImageConfig{Cmd: []string{"/bin/busybox", "cat", "/note"}}
	c := put(t, sink, "v1", config, zstded(t, r.busybox), note, plain(tarOf(t, map[string]string{"other": "x"})), note)
	want(t, "docker run", r.Docker(t, "run", "--rm", "--network", "none", "example.com/runs:v1"), "hello from regfs\n")
	id := strings.TrimSpace(r.Docker(t, "images", "--no-trunc", "--quiet", "example.com/runs:v1"))
	want(t, "docker images", id, c.Digest.String())
}

// reads what docker load, docker import and docker build put there, as skopeo reads it.
func (r *real) reads(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "layer.tar"), tarOf(t, map[string]string{"imported": "yes"}), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM example.com/base:1\nCOPY layer.tar /a\nCMD [\"/bin/sh\"]\n"), 0o644))
	_, sink := r.repository(t, "base")
	put(t, sink, "1", v1.ImageConfig{Labels: map[string]string{"a": "b"}}, gzipped(t, r.busybox))
	r.Docker(t, "import", filepath.Join(dir, "layer.tar"), "example.com/imported:v1")
	r.Docker(t, "build", "--quiet", "--network", "none", "--tag", "example.com/built:v1", dir)
	r.Docker(t, "save", "--output", filepath.Join(dir, "saved.tar"), "example.com/built:v1")
	r.Docker(t, "rmi", "example.com/built:v1")
	r.Docker(t, "load", "--input", filepath.Join(dir, "saved.tar"))
	for _, name := range []string{"base:1", "imported:v1", "built:v1"} {
		repository, tag, _ := strings.Cut(name, ":")
		src, _ := r.repository(t, repository)
		d, raw, err := src.Manifest(t.Context(), tag)
		must(t, err)
		want(t, "manifest of "+name, string(raw), r.skopeo(t, "inspect", "--raw", "docker-daemon:example.com/"+name))
		resolved, err := src.Resolve(t.Context(), tag)
		must(t, err)
		want(t, "resolve "+name, resolved, d)
		m, err := image.ParseManifest(d.MediaType, raw)
		must(t, err)
		id := strings.TrimSpace(r.Docker(t, "images", "--no-trunc", "--quiet", "example.com/"+name))
		want(t, "config of "+name, m.Config.Digest.String(), id)
		for _, part := range m.Children() {
			rc, err := src.Fetch(t.Context(), part)
			must(t, err)
			n, err := io.Copy(io.Discard, rc)
			must(t, err)
			must(t, rc.Close())
			want(t, "size", n, part.Size)
		}
	}
}

func (r *real) skopeo(t *testing.T, verb string, arg ...string) string {
	t.Helper()
	cmd := exec.Command(registries.Program(t, "skopeo"), append([]string{"--insecure-policy", verb, "--daemon-host", r.Host}, arg...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, err.(*exec.ExitError).Stderr)
	}
	return string(out)
}

// untags one of two names, and then the other.
func (r *real) untags(t *testing.T) {
	src, sink := r.repository(t, "untags")
	for _, tag := range []string{"a", "b", "c"} {
		put(t, sink, tag, v1.ImageConfig{User: "untags"}, plain(tarOf(t, map[string]string{"untags": ""})))
	}
	want(t, "tags", tags(t, src), []string{"a", "b", "c"})
	must(t, sink.Delete(t.Context(), "a"))
	want(t, "tags", tags(t, src), []string{"b", "c"})
	wantErr(t, "delete what is deleted", sink.Delete(t.Context(), "a"), image.ErrNotFound)
	d, err := src.Resolve(t.Context(), "b")
	must(t, err)
	must(t, sink.Delete(t.Context(), d.Digest.String()))
	_, err = src.Resolve(t.Context(), "c")
	wantErr(t, "resolve what is deleted", err, image.ErrNotFound)
	_, err = src.Resolve(t.Context(), d.Digest.String())
	wantErr(t, "resolve what is deleted", err, image.ErrNotFound)
	want(t, "docker images", r.Docker(t, "images", "--quiet", "example.com/untags"), "")
}

// moves a tag to another image. What was read before can be read on.
func (r *real) moves(t *testing.T) {
	src, sink := r.repository(t, "moves")
	put(t, sink, "v1", v1.ImageConfig{User: "one"}, plain(tarOf(t, map[string]string{"moves": "1"})))
	one, err := src.Resolve(t.Context(), "v1")
	must(t, err)
	put(t, sink, "v1", v1.ImageConfig{User: "two"}, plain(tarOf(t, map[string]string{"moves": "2"})))
	two, err := src.Resolve(t.Context(), "v1")
	must(t, err)
	if one.Digest == two.Digest {
		t.Error("a tag does not move")
	}
	for _, d := range []image.Descriptor{one, two} {
		got, err := src.Resolve(t.Context(), d.Digest.String())
		must(t, err)
		want(t, "resolve by digest", got, d)
	}
}

// ids name images that have no other name, whole or by their beginnings.
func (r *real) ids(t *testing.T) {
	h, err := r.engine.Host("")
	must(t, err)
	src, err := h.Source(t.Context(), "")
	must(t, err)
	_, other := r.repository(t, "more")
	put(t, other, "v1", v1.ImageConfig{User: "more"}, plain(tarOf(t, map[string]string{"more": ""})))
	_, named := r.repository(t, "ids")
	c := put(t, named, "v1", v1.ImageConfig{User: "ids"}, plain(tarOf(t, map[string]string{"ids": ""})))
	for _, ref := range []string{c.Digest.Encoded(), c.Digest.Encoded()[:12]} {
		d, raw, err := src.Manifest(t.Context(), "@"+ref)
		must(t, err)
		want(t, "manifest of an ID", string(raw), r.skopeo(t, "inspect", "--raw", "docker-daemon:"+c.Digest.String()))
		got, err := src.Resolve(t.Context(), d.Digest.String())
		must(t, err)
		want(t, "resolve its digest", got, d)
	}
	for _, ref := range []string{"@" + strings.Repeat("0", 64), "@0123456789ab", "@", "@xyz", "v1", "@" + strings.Repeat("a", 65)} {
		_, err := src.Resolve(t.Context(), ref)
		wantErr(t, "resolve "+ref, err, image.ErrNotFound)
	}
	_, err = src.Resolve(t.Context(), "")
	wantErr(t, "resolve the only one of many", err, image.ErrNotFound)
	sink, err := h.Sink(t.Context(), "")
	must(t, err)
	must(t, sink.Delete(t.Context(), "@"+c.Digest.Encoded()))
	want(t, "docker images", r.Docker(t, "images", "--quiet", "example.com/ids"), "")
}

// refuses what does not fit, in the engine's words, and what is in use.
func (r *real) refuses(t *testing.T) {
	src, sink := r.repository(t, "refuses")
	layer := plain(tarOf(t, map[string]string{"refuses": ""}))
	layer.plain = []byte("another")
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("x")}}}
	raw, err := json.Marshal(config)
	must(t, err)
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: describe(v1.MediaTypeImageConfig, raw), Layers: []v1.Descriptor{describe(v1.MediaTypeImageLayer, layer.raw)},
	}
	manifest, err := json.Marshal(m)
	must(t, err)
	push(t, sink, m.Config, raw)
	push(t, sink, m.Layers[0], layer.raw)
	err = sink.Tag(t.Context(), describe(v1.MediaTypeImageManifest, manifest), manifest, "v1")
	wantErr(t, "tag an image whose layer is another", err, image.ErrRefused)
	if err == nil || !strings.Contains(err.Error(), "invalid diffID") {
		t.Errorf("not in the engine's words: %v", err)
	}
	_, err = src.Resolve(t.Context(), "v1")
	wantErr(t, "resolve it", err, image.ErrNotFound)
	put(t, sink, "used", v1.ImageConfig{Cmd: []string{"/bin/busybox", "sleep", "100"}}, gzipped(t, r.busybox))
	r.Docker(t, "run", "--detach", "--name", "user", "--network", "none", "example.com/refuses:used")
	wantErr(t, "delete what a container uses", sink.Delete(t.Context(), "used"), image.ErrRefused)
	r.Docker(t, "rm", "--force", "user")
	must(t, sink.Delete(t.Context(), "used"))
}
