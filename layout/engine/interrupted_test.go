package engine_test

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/engine"
)

// large is an image of one layer, pushed but for its manifest.
func large(t *testing.T, sink image.Sink, layer []byte) (image.Descriptor, []byte) {
	t.Helper()
	raw, err := json.Marshal(v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	must(t, err)
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: describe(v1.MediaTypeImageConfig, raw), Layers: []v1.Descriptor{describe(v1.MediaTypeImageLayer, layer)},
	}
	push(t, sink, m.Config, raw)
	push(t, sink, m.Layers[0], layer)
	manifest, err := json.Marshal(m)
	must(t, err)
	return describe(v1.MediaTypeImageManifest, manifest), manifest
}

// undisturbed tests that whatever fn does to a tag changes nothing in the engine, and that then it can be moved.
func (r *real) undisturbed(t *testing.T, repository string, fn func()) {
	t.Helper()
	src, sink := r.repository(t, repository)
	layer := tarOf(t, map[string]string{repository: strings.Repeat(repository, 500_000)})
	put(t, sink, "v1", v1.ImageConfig{User: "before"}, plain(tarOf(t, map[string]string{"a": "1"})))
	before, err := src.Resolve(t.Context(), "v1")
	must(t, err)
	images := r.images(t)
	fn()
	want(t, "images", r.images(t), images)
	after, err := src.Resolve(t.Context(), "v1")
	must(t, err)
	want(t, "the tag", after, before)
	d, manifest := large(t, sink, layer)
	must(t, sink.Tag(t.Context(), d, manifest, "v1"))
	if after, err = src.Resolve(t.Context(), "v1"); err != nil || after.Digest == before.Digest {
		t.Errorf("the second try changed nothing: %v", err)
	}
}

// images are the IDs of all.
func (r *real) images(t *testing.T) []string {
	t.Helper()
	return slices.Sorted(strings.FieldsSeq(r.Docker(t, "images", "--all", "--quiet")))
}

// interrupted by a connection that breaks in the middle of an image.
func (r *real) interrupted(t *testing.T) {
	r.undisturbed(t, "interrupted", func() {
		err := load(t, cutting(t, r.Host, func(conn net.Conn) { conn.Close() }), "interrupted")
		wantErr(t, "tag by a connection that breaks", err, image.ErrUnavailable)
	})
}

// load puts an image into an engine, as another process would.
func load(t *testing.T, host, repository string) error {
	t.Helper()
	e, err := engine.Open(engine.Options{Host: host, TempDir: t.TempDir()})
	must(t, err)
	defer e.Close()
	_, sink := (&real{engine: e}).repository(t, repository)
	d, manifest := large(t, sink, tarOf(t, map[string]string{repository: strings.Repeat(repository, 500_000)}))
	return sink.Tag(t.Context(), d, manifest, "v1")
}

// killed in the middle of an image, with kill -9.
func (r *real) killed(t *testing.T) {
	r.undisturbed(t, "killed", func() {
		middle, dir := make(chan struct{}), t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run", "^TestVictim$")
		cmd.Env = append(os.Environ(), victim+"="+cutting(t, r.Host, func(net.Conn) { close(middle) }), "TMPDIR="+dir)
		must(t, cmd.Start())
		<-middle
		must(t, cmd.Process.Kill())
		cmd.Wait()
		left, err := filepath.Glob(filepath.Join(dir, "regfs-engine-*"))
		must(t, err)
		want(t, "files", len(left), 0)
	})
}

// victim is the variable that makes TestVictim the process to be killed, and says which engine it uses.
const victim = "REGFS_TEST_VICTIM"

// TestVictim is killed by another test.
func TestVictim(t *testing.T) {
	if host := os.Getenv(victim); host != "" {
		t.Fatalf("it ends by itself: %v", load(t, host, "killed"))
	}
}

// cutting is a socket that leads to an engine, until one connection has sent a MiB.
func cutting(t *testing.T, host string, then func(net.Conn)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go lead(conn, strings.TrimPrefix(host, "unix://"), then)
		}
	}()
	return "unix://" + filepath.Join(dir, "sock")
}

func lead(conn net.Conn, socket string, then func(net.Conn)) {
	defer conn.Close()
	to, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer to.Close()
	go io.Copy(conn, to)
	if n, _ := io.CopyN(to, conn, 1<<20); n == 1<<20 {
		then(conn)
		io.Copy(io.Discard, conn) // which ends with who sends
	}
}
