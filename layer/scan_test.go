package layer

import (
	"archive/tar"
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// TestModesOfSymbolicLinks: an archive may say what it likes of them.
func TestModesOfSymbolicLinks(t *testing.T) {
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	if err := w.WriteHeader(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "to", Mode: 0o4640}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	f, err := p.Layers.open(t.Context(), p.blobs, p.add(raw.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.release()
	e, err := f.lookup(f.root(), "l")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := f.stat(inode(e.Ino)); err != nil || info.Mode != unix.S_IFLNK|0o777 {
		t.Errorf("the mode is %#o, %v", info.Mode, err)
	}
}
