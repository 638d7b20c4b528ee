package conformance_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/dir"
	"github.com/regfs/regfs/tests/conformance"
)

// dirFolder opens or makes a folder of an image.
func dirFolder(t *testing.T, path string) *dir.Dir {
	t.Helper()
	x, err := dir.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// dirContents are one image and one for several platforms, each of which is the only one.
func dirContents() map[string]conformance.Content {
	single, multi := conformance.Images("", false), conformance.Images("", true)
	single.Tags = map[string]image.Descriptor{"": single.Image}
	multi.Tags = map[string]image.Descriptor{"": multi.Index}
	return map[string]conformance.Content{"single": single, "multi": multi}
}

// TestDir reads what was pushed, and one blob that was damaged since.
func TestDir(t *testing.T) {
	path, content := t.TempDir(), dirContents()["multi"]
	x := dirFolder(t, path)
	defer x.Close()
	conformance.Fill(t, x, content)
	content.Corrupt = conformance.NewContent().Corrupt
	damaged := filepath.Join(path, content.Corrupt.Digest.Encoded())
	if err := os.WriteFile(damaged, content.Corrupt.Bytes, 0o644); err != nil {
		t.Fatal(err)
	}
	conformance.SourceOf(t, content, func(t *testing.T, _ conformance.Content) image.Source { return dirFolder(t, path) })
}

// TestDirSink writes by one Dir and reads by another of the same folder.
func TestDirSink(t *testing.T) {
	for name, content := range dirContents() {
		t.Run(name, func(t *testing.T) {
			conformance.SinkOfImages(t, content, func(t *testing.T) (image.Sink, image.Source) {
				path := t.TempDir()
				return dirFolder(t, path), dirFolder(t, path)
			})
		})
	}
}
