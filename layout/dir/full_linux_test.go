package dir

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// TestFullDisk: the old image stays, and the new one is written when there is room.
func TestFullDisk(t *testing.T) {
	path := t.TempDir()
	err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=300k")
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skipf("needs a file system of its own: mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	x := create(t, path)
	old, p := paint(digest.SHA256, "amd64", strings.Repeat("a", 200_000)), paint(digest.SHA256, "amd64", strings.Repeat("b", 100_000))
	must(t, old.write(t.Context(), x))
	wantErr(t, "write more than there is room for", p.write(t.Context(), x), unix.ENOSPC)
	holds(t, "after that", path, old)
	must(t, paint(digest.SHA256, "amd64").write(t.Context(), x))
	must(t, p.write(t.Context(), x))
	holds(t, "with room", path, p)
}
