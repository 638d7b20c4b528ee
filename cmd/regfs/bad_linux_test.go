package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallTar is a tar of one file.
func smallTar(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	shell(t, "tar", "-cf", filepath.Join(dir, "a.tar"), "-C", dir, "file")
	return filepath.Join(dir, "a.tar")
}

// locked has somebody else lock a folder or a file, as package layout/oci does and as containers-storage does.
func locked(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		if f, err = os.Open(path); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
}

// TestLockedPlaces has another process hold the locks of places for longer than there is time for.
func TestLockedPlaces(t *testing.T) {
	needRoot(t)
	tar, dir := smallTar(t), t.TempDir()
	store := "containers-storage:[vfs@" + dir + "/root+" + dir + "/run]"
	for _, c := range []struct{ from, to, lock string }{
		{"tarball:" + tar, "oci:" + dir + "/layout:v1", "layout"},
		{"tarball:" + tar, "dir:" + dir + "/image", "image"},
		{"tarball:" + tar, store + "a", "root/storage.lock"},
		{store + "a", "dir:" + dir + "/image2", "root/vfs-layers/layers.lock"},
	} {
		if !strings.Contains(c.lock, "layers") {
			regfs(t, 0, "copy", "-q", c.from, c.to)
		}
		t.Run(c.lock, func(t *testing.T) {
			locked(t, filepath.Join(dir, c.lock))
			began := time.Now()
			said := regfs(t, 1, "copy", "-q", "--timeout", "300ms", c.from, c.to)
			if time.Since(began) > 5*time.Second || !strings.Contains(said, "locked") || strings.Count(said, "\n") != 1 {
				t.Errorf("after %v: %s", time.Since(began), said)
			}
		})
	}
}

// TestBadPlaces names places that are none, or not of that kind: one line says so.
func TestBadPlaces(t *testing.T) {
	needRoot(t)
	tar, dir := smallTar(t), t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	out := "oci:" + dir + "/out:v1"
	regfs(t, 0, "copy", "-q", "tarball:"+tar, out)
	archive := dir + "/archive.tar"
	regfs(t, 0, "copy", "-q", "tarball:"+tar, "docker-archive:"+archive+":a/b:v1")
	for _, c := range []struct {
		code     int
		from, to string
		want     string
	}{
		{1, "oci:" + fifo, out, "open image layout " + fifo + ": not a directory"},
		{1, "dir:" + fifo, out, "open image folder " + fifo + ": not a directory"},
		{1, "oci:" + dir + "/none", out, "open image layout " + dir + "/none: no such file or directory"},
		{1, "oci-archive:" + dir + "/none", out, "open image layout " + dir + "/none: no such file or directory"},
		{1, "oci:" + dir + "/no\n\x1bne", out, "\uFFFD"},
		{1, "tarball:" + tar, "oci:" + tar, "create " + tar + ": not a directory"},
		{1, "tarball:" + tar, "sif:" + dir + "/x.sif", "write sif:" + dir + "/x.sif: not supported: such a place can only be read"},
		{1, "tarball:" + fifo, out, "not a regular file"},
		{1, "tarball:" + out[4:len(out)-3] + "/index.json", out, "/index.json: it is cut short, or no tar archive: invalid content"},
		{1, "tarball:" + tar + ":" + dir + "/none", out, dir + "/none: no such file or directory"},
		{1, "oci:" + dir + "/out:@7", out, "images are counted from @0, and there are 1: not found"},
		{1, "docker-archive:" + archive + ":a/b:v2", out, "resolve docker.io/a/b:v2 in docker archive " + archive + ": no image has that name: not found"},
		{1, "containers-storage:[vfs@" + dir + "/s+" + dir + "/r]a", out, "open containers-storage:[vfs@" + dir + "/s+" + dir + "/r]"},
		{1, "containers-storage:[nope@" + dir + "/s2+" + dir + "/r2]a", out, "no such file"},
		{1, "tarball:" + tar, "containers-storage:[nope@" + dir + "/s3+" + dir + "/r3]a", `there is no storage driver "nope" that works here`},
		{2, "tarball:" + tar, out[:len(out)-3] + ":@0", "can't be written to a position"},
		{2, "tarball:" + tar, "docker-archive:" + dir + "/a.tar:@0", "can't be written to a position"},
		{2, "tarball:" + tar, "containers-storage:[vfs@" + dir + "/s+" + dir + "/r]@abcdef", "can't be written to an ID"},
		{2, "tarball:" + tar, "docker-daemon:sha256:" + strings.Repeat("a", 64), "can't be written to an ID"},
	} {
		said := regfs(t, c.code, "copy", "-q", c.from, c.to)
		said, _ = strings.CutSuffix(said, "Try 'regfs copy --help'.\n")
		if !strings.Contains(said, c.want) || strings.Count(said, "\n") != 1 {
			t.Errorf("copy %s %s:\n%swant %s", c.from, c.to, said, c.want)
		}
	}
}
