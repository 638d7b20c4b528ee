package cache

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
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

func TestFullDisk(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: small(t, 8<<20)})
	old, large, huge := random(1, 5<<20), random(2, 6<<20), random(3, 20<<20)
	wantContent(t, c, p, p.add(old), old)
	// The old one makes way.
	wantContent(t, c, p, p.add(large), large)
	want(t, "requests", p.take(), []string{"range 0", "range 0"})

	d := p.add(huge)
	_, err := fetch(t, c, p, d)
	wantErr(t, "more than the disk holds", err, unix.ENOSPC)
	want(t, "kept of what did not fit", append(files(t, c, "partial"), files(t, c, "blobs")...), []string(nil))
	p.tag("v1", `{"a":1}`)
	src := decorated(t, c, p)
	readManifest(t, src, "v1", `{"a":1}`)
	wantContent(t, c, p, p.add(old), old)
}

// TestFullDiskAndIndexes: an index is worth a blob.
func TestFullDiskAndIndexes(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: small(t, 8<<20)})
	wantContent(t, c, p, p.add(random(1, 5<<20)), random(1, 5<<20))
	index, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	if _, err := index.Write(random(2, 6<<20)); err != nil {
		t.Fatal(err)
	}
	if err := c.PutIndex("a", index); err != nil {
		t.Fatal(err)
	}
	wantIndex(t, c, "a", random(2, 6<<20))
	if _, err := index.Write(random(3, 6<<20)); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "more than the disk holds", c.PutIndex("b", index), unix.ENOSPC)
	want(t, "left of that", append(files(t, c, "tmp"), files(t, c, "layers")...), []string(nil))
}

// TestFullDiskAndTemp: a temporary file finds some room.
func TestFullDiskAndTemp(t *testing.T) {
	p, dir := newPlace(), small(t, 16<<20)
	c := open(t, Options{Dir: dir})
	aged(t, c, p, 15)
	fill := spans(t, c, "a", nil, 0) // what it can't hold of this is a short write
	if n, err := fill.Write(random(1, 4<<20)); n == 0 || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %d, %v", n, err)
	}
	file := temp(t, c, random(2, 1<<20))
	if err := c.PutIndex("a", file); err != nil {
		t.Fatal(err)
	}
	wantIndex(t, c, "a", random(2, 1<<20))
	usage, err := Look(dir)
	if err != nil || usage.Blobs.Files < 10 {
		t.Errorf("too much made way: %+v, %v", usage, err)
	}
}

func TestFilesAreClosed(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	p.tag("v1", `{"a":1}`)
	src := decorated(t, c, p)
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := descriptors()
	for i := range 50 {
		content := random(uint64(i), 1000)
		d := p.add(content)
		p.body = stopping(10, image.ErrUnavailable)
		_, err := fetch(t, c, src, d)
		wantErr(t, "a drop", err, image.ErrUnavailable)
		p.body = nil
		wantContent(t, c, src, d, content)
		wantContent(t, c, src, d, content)
		readManifest(t, src, "v1", `{"a":1}`)
		d.Size++
		_, err = fetch(t, c, src, d)
		wantErr(t, "a wrong size", err, image.ErrDigest)
	}
	c.Close()
	if after := descriptors(); after > before {
		t.Errorf("%d files are open, %d were", after, before)
	}
}
