//go:build linux

package mount_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/regfs/regfs/tests/registries"
)

// realImage is an image that is made by the tools that people make images with.
type realImage struct {
	name string
	// make makes it in a folder that is there and empty.
	make func(ctx context.Context, dir string) (layouts, error)
}

func realImages(t *testing.T) []realImage {
	for _, program := range []string{"umoci", "debootstrap", "setcap", "setfattr", "pigz", "zstd"} {
		registries.Program(t, program)
	}
	d := newDebians(t.Context(), t.TempDir())
	return []realImage{
		{"bookworm", d.bookwormImage},
		{"trixie", d.trixieImage},
		{"links", linksImage},
	}
}

// TestRootfsIsWhatUmociUnpacks compares all that the system tells of all files.
func TestRootfsIsWhatUmociUnpacks(t *testing.T) {
	needRoot(t)
	for _, image := range realImages(t) {
		t.Run(image.name, func(t *testing.T) {
			t.Parallel()
			made := image.in(t)
			want := walk(t, unpacked(t, made.umoci))
			if os.Getenv("TWICE") != "" {
				sameTree(t, want, walk(t, unpacked(t, made.umoci)))
			}
			fmt.Println(filepath.Base(made.pushed), len(want))
		})
	}
}

// in makes the image for the length of a test.
func (r realImage) in(t *testing.T) layouts {
	t.Helper()
	made, err := r.make(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return made
}
