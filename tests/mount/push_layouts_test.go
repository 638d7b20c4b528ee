//go:build linux

package mount_test

import (
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// layoutOf is a layout on disk of one image or index, under the name v1.
func layoutOf(t *testing.T, img any) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	l, err := layout.Write(dir, empty.Index)
	name := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"})
	if err == nil {
		switch img := img.(type) {
		case v1.Image:
			err = l.AppendImage(img, name)
		case v1.ImageIndex:
			err = l.AppendIndex(img, name)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
