package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantErr(t *testing.T, what string, got error, want ...error) {
	t.Helper()
	for _, kind := range want {
		if !errors.Is(got, kind) {
			t.Errorf("%s: %v, want %v", what, got, kind)
		}
	}
}

// open is an engine of the test's own.
func open(t *testing.T, o Options) *Engine {
	t.Helper()
	if o.TempDir == "" {
		o.TempDir = t.TempDir()
	}
	e, err := Open(o)
	must(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

// listen makes a socket with a short name.
func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", path)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l, "unix://" + path
}

// answers are what an engine of the test's making says to a method and a path, without its version.
type answers map[string]http.HandlerFunc

// says is an answer of that status.
func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// serve is an engine of the test's making. What it has no answer to is not found.
func serve(t *testing.T, o Options, a answers) *Engine {
	t.Helper()
	l, host := listen(t)
	mux := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if strings.HasPrefix(path, "/v1.") {
			_, path, _ = strings.Cut(path[1:], "/")
			path = "/" + path
		}
		switch answer := a[r.Method+" "+path]; {
		case answer != nil:
			answer(w, r)
		case path == "/version":
			io.WriteString(w, `{"ApiVersion":"1.41","MinAPIVersion":"1.12"}`)
		default:
			says(http.StatusNotFound, fmt.Sprintf(`{"message":"No such image: %s"}`, path))(w, r)
		}
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	o.Host = host
	return open(t, o)
}

// at opens a repository.
func at(t *testing.T, e *Engine, host, repository string) (image.Source, image.Sink) {
	t.Helper()
	h, err := e.Host(host)
	must(t, err)
	src, err := h.Source(t.Context(), repository)
	must(t, err)
	sink, err := h.Sink(t.Context(), repository)
	must(t, err)
	return src, sink
}

// bring is content that is at hand.
func bring(raw []byte) image.Content {
	return image.Content{Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw[off:])), nil
	}}
}

func describe(mediaType string, raw []byte) image.Descriptor {
	return image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

// layer is a tar of one file.
func layer(t *testing.T, name string, mode int64, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(1, 0)}))
	_, err := w.Write(content)
	must(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

// pushed is an image with one layer that was pushed, but for its manifest.
type pushed struct {
	image.Descriptor
	raw    []byte
	config image.Descriptor
}

// push pushes an image of layers, each as pack packs it, under a media type that ends so.
func push(t *testing.T, sink image.Sink, config v1.ImageConfig, suffix string, pack func([]byte) []byte, layers ...[]byte) pushed {
	t.Helper()
	doc := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, Config: config, RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, plain := range layers {
		doc.RootFS.DiffIDs = append(doc.RootFS.DiffIDs, digest.FromBytes(plain))
		packed := pack(plain)
		d := describe(v1.MediaTypeImageLayer+suffix, packed)
		_, err := sink.Push(t.Context(), d, bring(packed))
		must(t, err)
		m.Layers = append(m.Layers, d)
	}
	raw, err := json.Marshal(doc)
	must(t, err)
	m.Config = describe(v1.MediaTypeImageConfig, raw)
	_, err = sink.Push(t.Context(), m.Config, bring(raw))
	must(t, err)
	manifest, err := json.Marshal(m)
	must(t, err)
	return pushed{describe(v1.MediaTypeImageManifest, manifest), manifest, m.Config}
}

func unpacked(plain []byte) []byte { return plain }

// prompt is how long what ends at once may take on a busy machine.
const prompt = 10 * time.Second

// ends tests that fn ends at once, and how.
func ends(t *testing.T, what string, fn func() error, want ...error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		wantErr(t, what, err, want...)
	case <-time.After(prompt):
		t.Errorf("%s does not end", what)
	}
}
