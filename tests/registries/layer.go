package registries

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Created is the time that images and the files in them carry.
var Created = time.Date(2026, time.March, 14, 15, 9, 26, 0, time.UTC)

// Files are the contents of files by path, for a layer. A path that ends in a slash is a folder.
type Files map[string]string

// Layer is a gzipped tar of files, the same bytes for the same files.
func Layer(t TB, files Files) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	w := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		addFile(t, w, name, files[name])
	}
	if err := w.Close(); err != nil {
		t.Fatalf("layer: %v", err)
	}
	if err := zip.Close(); err != nil {
		t.Fatalf("layer: %v", err)
	}
	return LayerOf(t, buf.Bytes())
}

func addFile(t TB, w *tar.Writer, name, content string) {
	t.Helper()
	header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: Created, Format: tar.FormatPAX}
	if strings.HasSuffix(name, "/") {
		header.Mode, header.Typeflag = 0o755, tar.TypeDir
	} else if path.Base(path.Dir(name)) == "bin" {
		header.Mode = 0o755
	}
	if err := w.WriteHeader(header); err != nil {
		t.Fatalf("layer: %s: %v", name, err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatalf("layer: %s: %v", name, err)
	}
}

// LayerOf is a layer of bytes that are a tar already, gzipped or not. They are pushed as they are.
func LayerOf(t TB, raw []byte) v1.Layer {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatalf("layer: %v", err)
	}
	return layer
}

// TarEntry is an entry of a layer's tar. Its header is written as it is, but for the size, which is the content's, and the type: 0 is
// a regular file.
type TarEntry struct {
	tar.Header
	Content string
}

// TarLayer is a gzipped tar of entries, in the order given.
func TarLayer(t TB, entries ...TarEntry) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	w := tar.NewWriter(zip)
	for _, e := range entries {
		header := e.Header
		header.Format, header.Size = tar.FormatPAX, int64(len(e.Content))
		err := w.WriteHeader(&header)
		if err == nil {
			_, err = io.WriteString(w, e.Content)
		}
		if err != nil {
			t.Fatalf("layer: %s: %v", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatalf("layer: %v", err)
	}
	if err := zip.Close(); err != nil {
		t.Fatalf("layer: %v", err)
	}
	return LayerOf(t, buf.Bytes())
}
