package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

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

// create makes or opens a layout.
func create(t *testing.T, dir string) *Layout {
	t.Helper()
	l, err := Create(dir)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func push(t *testing.T, l *Layout, mediaType string, data []byte) image.Descriptor {
	t.Helper()
	d := describe(mediaType, data)
	_, err := l.Push(t.Context(), d, memory(data, nil))
	must(t, err)
	return d
}

func describe(mediaType string, data []byte) image.Descriptor {
	return image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// pushImage pushes an image with one layer, which has one file, and returns its manifest too.
func pushImage(t *testing.T, l *Layout, text string) (image.Descriptor, []byte) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	must(t, w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: int64(len(text))}))
	_, err := io.WriteString(w, text)
	must(t, errors.Join(err, w.Close()))
	config := marshal(v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}},
	})
	raw, err := json.MarshalIndent(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: push(t, l, v1.MediaTypeImageConfig, config),
		Layers: []image.Descriptor{push(t, l, v1.MediaTypeImageLayer, layer.Bytes())},
	}, "", "    ")
	must(t, err)
	return push(t, l, v1.MediaTypeImageManifest, raw), raw
}

// tagImage pushes an image and tags it.
func tagImage(t *testing.T, l *Layout, text, tag string) image.Descriptor {
	t.Helper()
	d, raw := pushImage(t, l, text)
	must(t, l.Tag(t.Context(), d, raw, tag))
	return d
}

func resolve(t *testing.T, l *Layout, ref string, d image.Descriptor) {
	t.Helper()
	got, err := l.Resolve(t.Context(), ref)
	must(t, err)
	want(t, "resolve "+ref, got, d)
}

func tags(ctx context.Context, l *Layout) ([]string, error) {
	var names []string
	for name, err := range l.Tags(ctx, "") {
		if err != nil {
			return names, err
		}
		names = append(names, name)
	}
	return names, nil
}

func writeFile(t *testing.T, content string, name ...string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(name...), []byte(content), 0o644))
}

func readFile(t *testing.T, name ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(name...))
	must(t, err)
	return string(raw)
}

// tarOf is a tar of one file.
func tarOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
	_, err := io.WriteString(w, content)
	must(t, errors.Join(err, w.Close()))
	return b.Bytes()
}
