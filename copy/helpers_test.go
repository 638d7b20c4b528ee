package copy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
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

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/oci"
)

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

// skopeo runs skopeo, for linux/amd64.
func skopeo(t *testing.T, arg ...string) {
	t.Helper()
	need(t, "skopeo")
	arg = append([]string{"--insecure-policy", "--override-os=linux", "--override-arch=amd64"}, arg...)
	out, err := exec.CommandContext(t.Context(), "skopeo", arg...).CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo %s: %v\n%s", strings.Join(arg, " "), err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is a layout and where it is, so that other programs find it.
type place struct {
	*oci.Layout
	dir string
}

func newPlace(t *testing.T) place {
	t.Helper()
	dir := t.TempDir()
	l, err := oci.Create(dir)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return place{l, dir}
}

// tarOf is a tar of one file with text in it.
func tarOf(name string, size int) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := []byte(strings.Repeat(fmt.Sprintf("%s has lines, and this is one of them\n", name), size/20+1))[:size]
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
		panic(err)
	}
	w.Write(text)
	w.Close()
	return b.Bytes()
}

func gzipped(plain []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(plain)
	w.Close()
	return b.Bytes()
}

// unpacked is the tar of a layer, however it is compressed.
func unpacked(t *testing.T, raw []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(raw)
	var err error
	switch {
	case bytes.HasPrefix(raw, []byte("\x1f\x8b")):
		r, err = gzip.NewReader(r)
	case bytes.HasPrefix(raw, []byte("\x28\xb5\x2f\xfd")):
		r, err = zstd.NewReader(r)
	}
	must(t, err)
	plain, err := io.ReadAll(r)
	must(t, err)
	return plain
}

// anImage puts an image of three layers into a layout, one step of which changed no file. Its config says more than the image-spec has
// names for, and its manifest has annotations.
func anImage(t *testing.T, to place, architecture, tag string) image.Descriptor {
	t.Helper()
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Annotations: map[string]string{"org.example": "of the manifest"},
	}
	var diffIDs []digest.Digest
	for i, size := range []int{100, 300_000, 1_000} {
		plain := tarOf(fmt.Sprintf("%s-%d", architecture, i), size)
		diffIDs = append(diffIDs, digest.FromBytes(plain))
		layer := put(t, to, v1.MediaTypeImageLayerGzip, gzipped(plain))
		layer.Annotations = map[string]string{"org.example": "of a layer"}
		m.Layers = append(m.Layers, layer)
	}
	config := map[string]any{
		"architecture": architecture, "os": "linux", "created": "2024-05-06T07:08:09Z", "docker_version": "24.0.1",
		"config": map[string]any{"Cmd": []string{"sh", "-c", "a && b <c"}, "Healthcheck": map[string]any{"Test": []string{"NONE"}}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
		"history": []map[string]any{
			{"created": "2024-05-06T07:08:09Z", "created_by": "ADD base"},
			{"created": "2024-05-06T07:08:09Z", "created_by": "ENV a=<b>", "empty_layer": true},
			{"created": "2024-05-06T07:08:09Z", "created_by": "RUN one"}, {"created": "2024-05-06T07:08:10Z", "created_by": "RUN two", "comment": "x"},
		},
	}
	raw, err := json.Marshal(config)
	must(t, err)
	m.Config = put(t, to, v1.MediaTypeImageConfig, raw)
	raw, err = json.Marshal(m)
	must(t, err)
	raw = bytes.Replace(raw, []byte(`{"schemaVersion"`), []byte(`{ "x-unknown" : [1, "<"] , "schemaVersion"`), 1)
	d := put(t, to, v1.MediaTypeImageManifest, raw)
	if tag != "" {
		must(t, to.Tag(t.Context(), d, raw, tag))
	}
	return d
}

// anIndex puts an image for two platforms into a layout.
func anIndex(t *testing.T, to place, tag string) image.Descriptor {
	t.Helper()
	x := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Annotations: map[string]string{"org.example": "of the index"}}
	for _, p := range []image.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64", Variant: "v8"}} {
		d := anImage(t, to, p.Architecture, "")
		d.Platform = &p
		x.Manifests = append(x.Manifests, d)
	}
	raw, err := json.Marshal(x)
	must(t, err)
	d := put(t, to, v1.MediaTypeImageIndex, raw)
	must(t, to.Tag(t.Context(), d, raw, tag))
	return d
}

// run copies an image from one layout to another, under the tag "x".
func run(t *testing.T, from, to place, root image.Descriptor, o copy.Options) image.Descriptor {
	t.Helper()
	o.Tags = []string{"x"}
	d, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), root, o)
	must(t, err)
	got, err := to.Resolve(t.Context(), "x")
	must(t, err)
	if got.Digest != d.Digest || got.MediaType != d.MediaType {
		t.Errorf("the tag is %s %s, and not %s %s", got.MediaType, got.Digest, d.MediaType, d.Digest)
	}
	return d
}

// manifest reads and parses a manifest.
func manifest(t *testing.T, src image.Source, d image.Descriptor) ([]byte, *image.Manifest) {
	t.Helper()
	_, raw, err := src.Manifest(t.Context(), d.Digest.String())
	must(t, err)
	m, err := image.ParseManifest(d.MediaType, raw)
	must(t, err)
	return raw, m
}

// content reads a blob.
func content(t *testing.T, src image.Source, d image.Descriptor) []byte {
	t.Helper()
	r, err := src.Fetch(t.Context(), d)
	must(t, err)
	defer r.Close()
	raw, err := io.ReadAll(r)
	must(t, err)
	return raw
}

// diffIDs are the digests of an image's tars.
func diffIDs(t *testing.T, src image.Source, d image.Descriptor) []digest.Digest {
	t.Helper()
	_, m := manifest(t, src, d)
	var ids []digest.Digest
	for _, l := range m.Layers {
		ids = append(ids, digest.FromBytes(unpacked(t, content(t, src, l))))
	}
	return ids
}

// dirOf is the manifest that skopeo made in a dir: place.
func dirOf(t *testing.T, dir string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	must(t, err)
	return raw
}

// mem is content that is at hand.
func mem(raw []byte) image.Content {
	return image.Content{Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw[off:])), nil
	}}
}
