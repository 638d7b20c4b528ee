package conformance_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/tarball"
	"github.com/regfs/regfs/tests/conformance"
)

// made is the content of a place without a manifest of its own: the layers it is made of, where they are known, and what was made.
func made(t *testing.T, src image.Source, layers ...conformance.Entry) conformance.Content {
	t.Helper()
	other := conformance.NewContent()
	content := conformance.Content{
		Tags: map[string]image.Descriptor{}, Blobs: layers, Missing: other.Missing, MissingManifest: other.MissingManifest,
	}
	d, raw, err := src.Manifest(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil {
		t.Fatal(err)
	}
	content.Image, content.Manifests = d, []conformance.Entry{{Descriptor: d, Bytes: raw}}
	made := m.Children()
	if len(layers) > 0 {
		made = []image.Descriptor{*m.Config}
	}
	for _, d := range made {
		content.Blobs = append(content.Blobs, conformance.Entry{Descriptor: d, Bytes: fetch(t, src, d)})
	}
	return content
}

func fetch(t *testing.T, src image.Source, d image.Descriptor) []byte {
	t.Helper()
	r, err := src.Fetch(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestTarball reads the layers of an image as if they were all that is there.
func TestTarball(t *testing.T) {
	var layers []conformance.Entry
	var paths []string
	folder := t.TempDir()
	for _, e := range conformance.Images("", false).Blobs {
		if !strings.Contains(e.MediaType, "layer") {
			continue
		}
		path := filepath.Join(folder, e.Digest.Encoded())
		if err := os.WriteFile(path, e.Bytes, 0o644); err != nil {
			t.Fatal(err)
		}
		layers, paths = append(layers, e), append(paths, path)
	}
	open := func(t *testing.T) image.Source {
		src, err := tarball.Open(strings.Join(paths, ":"), tarball.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	src := open(t)
	defer src.Close()
	conformance.SourceOf(t, made(t, src, layers...), func(t *testing.T, _ conformance.Content) image.Source { return open(t) })
}
