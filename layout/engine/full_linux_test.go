package engine

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/regfs/regfs/image"
)

// small is a folder with that much room.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("mount: %v", err)
	}
	if err != nil {
		t.Skipf("needs a file system of its own: mount: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// TestFullDisk: what does not fit is told, and what takes no room any more can be followed by something smaller.
func TestFullDisk(t *testing.T) {
	dir := small(t, "1m")
	s, large, fits := newShop(t, Options{TempDir: dir}), save(t, strings.Repeat("x", 2<<20)), save(t, "hello")
	s.has(large, "docker.io/library/hello:large")
	s.has(fits, "docker.io/library/hello:fits")
	src, sink := at(t, s.Engine, "docker.io", "hello")
	_, err := src.Resolve(t.Context(), "large")
	wantErr(t, "fetch what does not fit", err, syscall.ENOSPC)
	_, err = sink.Push(t.Context(), describe("", large.layer), bring(large.layer))
	wantErr(t, "push what does not fit", err, syscall.ENOSPC)
	_, err = sink.Push(t.Context(), describe("", fits.layer), bring(fits.layer))
	must(t, err)
	d, err := src.Resolve(t.Context(), "fits")
	must(t, err)
	want(t, "media type", d.MediaType, image.MediaTypeDockerManifest)
}
