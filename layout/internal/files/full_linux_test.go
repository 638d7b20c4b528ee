package files

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// small mounts a file system of n bytes.
func small(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", n))
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("mount: %v", err)
	}
	if err != nil {
		t.Skipf("needs a file system of its own: mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestFullDisk: what does not fit, as it comes or with all that was there, leaves the archive as it was, and nothing beside it.
func TestFullDisk(t *testing.T) {
	const room = 4 << 20
	name := filepath.Join(small(t, room), "archive.tar")
	a := open(t, name, true)
	write(t, a, "blobs/a", strings.Repeat("x", room/4))
	edit(t, a, put("index", "1"))
	for what, size := range map[string]int{"one that fits not": room, "one that fits, and not twice": room / 8 * 5} {
		err := a.Write(t.Context(), "blobs/b", int64(size), func(w io.Writer) error {
			for range size / 1024 {
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = a.Edit(t.Context(), func() (Change, error) { return put("index", "2"), nil })
		}
		wantErr(t, what, err, unix.ENOSPC)
		want(t, "index", read(t, open(t, name, false), "index"), "1")
		must(t, a.Close())
		onlyHere(t, name)
		a = open(t, name, true)
	}
}

func TestFilesAreClosed(t *testing.T) {
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	name, before := filepath.Join(t.TempDir(), "archive.tar"), descriptors()
	a := open(t, name, true)
	other := open(t, name, true)
	for i := range 20 {
		write(t, a, fmt.Sprint("blobs/", i), "x")
		edit(t, a, put("index", fmt.Sprint(i)))
		want(t, "index", read(t, other, "index"), fmt.Sprint(i))
		file, _, err := a.Open(t.Context(), "index")
		must(t, err)
		write(t, other, "blobs/x", "y")
		edit(t, other, Change{Remove: []string{"blobs/x"}})
		must(t, file.Close())
	}
	must(t, a.Close())
	must(t, other.Close())
	want(t, "open files", descriptors(), before)
}
