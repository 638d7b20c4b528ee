package conformance_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/oci"
	"github.com/regfs/regfs/tests/conformance"
)

// ociLayout opens or makes a layout.
func ociLayout(t *testing.T, dir string) *oci.Layout {
	t.Helper()
	l, err := oci.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestOCILayout reads what was pushed, and one blob that was damaged since.
func TestOCILayout(t *testing.T) {
	dir := t.TempDir()
	l := ociLayout(t, dir)
	defer l.Close()
	content := conformance.NewContent()
	conformance.Fill(t, l, content)
	damaged := filepath.Join(dir, "blobs", "sha256", content.Corrupt.Digest.Encoded())
	if err := os.WriteFile(damaged, content.Corrupt.Bytes, 0o644); err != nil {
		t.Fatal(err)
	}
	conformance.Source(t, func(t *testing.T, _ conformance.Content) image.Source { return ociLayout(t, dir) })
}

// TestOCILayoutSink writes by one Layout and reads by another of the same folder.
func TestOCILayoutSink(t *testing.T) {
	conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
		dir := t.TempDir()
		return ociLayout(t, dir), ociLayout(t, dir)
	})
}
