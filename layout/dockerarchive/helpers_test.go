package dockerarchive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// run runs a client of images, if it is here, and returns what it printed. On CI it must be.
func run(t *testing.T, name string, arg ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(name, arg...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(arg, " "), err, out, &stderr)
	}
	return string(out)
}

// create opens an archive for writing, too.
func create(t *testing.T, file string) *Archive {
	t.Helper()
	a, err := Create(t.Context(), file)
	must(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

// at is a repository of an archive, "" for the whole.
func at(t *testing.T, a *Archive, name string) *repository {
	t.Helper()
	host, path, _ := strings.Cut(name, "/")
	h, err := a.Host(host)
	must(t, err)
	src, err := h.Source(t.Context(), path)
	must(t, err)
	return src.(*repository)
}

func describe(mediaType string, data []byte) image.Descriptor {
	return image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func memory(raw []byte) image.Content {
	return image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw)), nil
	}}
}

func push(t *testing.T, r *repository, mediaType string, data []byte) image.Descriptor {
	t.Helper()
	d := describe(mediaType, data)
	_, err := r.Push(t.Context(), d, memory(data))
	must(t, err)
	return d
}

func marshal(t *testing.T, document any) []byte {
	t.Helper()
	raw, err := json.MarshalIndent(document, "", "    ")
	must(t, err)
	return raw
}

// layerOf is a tar of one file.
func layerOf(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(1, 0)}))
	_, err := io.WriteString(w, text)
	must(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

func zipped(t *testing.T, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(plain)
	must(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

func configOf(t *testing.T, architecture string, layers ...[]byte) []byte {
	t.Helper()
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: architecture}, RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		config.History = append(config.History, v1.History{CreatedBy: "a test"})
	}
	return marshal(t, config)
}

// pushImage pushes an image with one gzipped layer.
func pushImage(t *testing.T, r *repository, text, architecture string) (image.Descriptor, []byte) {
	t.Helper()
	plain := layerOf(t, text)
	raw := marshal(t, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: push(t, r, v1.MediaTypeImageConfig, configOf(t, architecture, plain)),
		Layers: []image.Descriptor{push(t, r, v1.MediaTypeImageLayerGzip, zipped(t, plain))},
	})
	return push(t, r, v1.MediaTypeImageManifest, raw), raw
}

// tagImage pushes an image for this machine and tags it.
func tagImage(t *testing.T, r *repository, text, tag string) image.Descriptor {
	t.Helper()
	d, raw := pushImage(t, r, text, runtime.GOARCH)
	must(t, r.Tag(t.Context(), d, raw, tag))
	return d
}

// tagIndex pushes an image for two platforms and tags it.
func tagIndex(t *testing.T, r *repository, text, tag string) image.Descriptor {
	t.Helper()
	var entries []image.Descriptor
	for _, architecture := range []string{"s390x", runtime.GOARCH} {
		d, _ := pushImage(t, r, text+architecture, architecture)
		d.Platform = &image.Platform{OS: "linux", Architecture: architecture}
		entries = append(entries, d)
	}
	raw := marshal(t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: entries})
	d := describe(v1.MediaTypeImageIndex, raw)
	must(t, r.Tag(t.Context(), d, raw, tag))
	return d
}

func resolve(t *testing.T, r *repository, ref string, d image.Descriptor) {
	t.Helper()
	got, err := r.Resolve(t.Context(), ref)
	must(t, err)
	want(t, "resolve "+ref, got, d)
}

// configDigest is that of the config of an image.
func configDigest(t *testing.T, r *repository, d image.Descriptor) string {
	t.Helper()
	_, raw, err := r.Manifest(t.Context(), d.Digest.String())
	must(t, err)
	m, err := image.ParseManifest(d.MediaType, raw)
	must(t, err)
	if m.IsIndex() {
		here, ok := image.Select(m.Manifests, image.Platform{OS: "linux", Architecture: runtime.GOARCH})
		if !ok {
			t.Fatal("no image for this machine")
		}
		return configDigest(t, r, here)
	}
	return m.Config.Digest.Encoded()
}

// file is a member of an archive to be made.
type file struct{ name, content string }

// link is a symlink, by what it begins with.
const link = "-> "

// tarOf makes an archive.
func tarOf(t *testing.T, members ...file) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content))}
		if to, ok := strings.CutPrefix(m.content, link); ok {
			h.Typeflag, h.Linkname, h.Size, m.content = tar.TypeSymlink, to, 0, ""
		}
		must(t, w.WriteHeader(h))
		_, err := io.WriteString(w, m.content)
		must(t, err)
	}
	must(t, w.Close())
	name := filepath.Join(t.TempDir(), "archive.tar")
	must(t, os.WriteFile(name, b.Bytes(), 0o644))
	return name
}

func collect(t *testing.T, seq func(func(string, error) bool)) []string {
	t.Helper()
	var all []string
	for name, err := range seq {
		must(t, err)
		all = append(all, name)
	}
	return all
}
