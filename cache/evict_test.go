package cache

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// aged fetches blobs of 1 MiB each and makes them older, the first the oldest.
func aged(t *testing.T, c *Cache, p *place, n int) []image.Descriptor {
	t.Helper()
	var blobs []image.Descriptor
	for i := range n {
		content := random(uint64(i), 1<<20)
		d := p.add(content)
		wantContent(t, c, p, d, content)
		age(t, c.blobPath(d.Digest), time.Duration(n-i)*time.Hour)
		blobs = append(blobs, d)
	}
	return blobs
}

func age(t *testing.T, path string, by time.Duration) {
	t.Helper()
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-by)); err != nil {
		t.Fatal(err)
	}
}

func (c *Cache) has(d digest.Digest) bool {
	_, err := os.Stat(c.blobPath(d))
	return err == nil
}

func TestEvictsWhatWasNotUsedForLongest(t *testing.T) {
	p, dir := newPlace(), t.TempDir()
	c := open(t, Options{Dir: dir, Size: 100 << 20})
	blobs := aged(t, c, p, 10)
	// Reading the oldest makes it the one used last; another process keeps the next one open.
	wantContent(t, c, p, blobs[0], random(0, 1<<20))
	other := open(t, Options{Dir: dir})
	b, err := other.Open(t.Context(), p, blobs[1])
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	age(t, c.blobPath(blobs[1].Digest), 20*time.Hour)
	c.Close()

	c = open(t, Options{Dir: dir, Size: 5 << 20})
	last := p.add(random(99, 1<<20))
	wantContent(t, c, p, last, random(99, 1<<20))
	c.Close()
	var kept []int
	for i, d := range append(blobs, last) {
		if c.has(d.Digest) {
			kept = append(kept, i)
		}
	}
	// 90 % of 5 MiB hold four.
	want(t, "kept", kept, []int{0, 1, 9, 10})
	if used := c.Stats().BytesOnDisk; used > 5<<20 {
		t.Errorf("%d bytes on disk", used)
	}
}

func TestEvictsHalfFetchedOnesThatNobodyFetches(t *testing.T) {
	p, dir := newPlace(), t.TempDir()
	c := open(t, Options{Dir: dir, Size: 2 << 20})
	left, active := p.add(random(1, 3<<20)), p.add(random(2, 3<<20))
	p.body = stopping(2<<20, image.ErrUnavailable)
	_, err := fetch(t, c, p, left)
	wantErr(t, "a drop", err, image.ErrUnavailable)
	p.body = stopping(2<<20, nil)
	b, err := c.Open(t.Context(), p, active)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.ReadAt(t.Context(), make([]byte, 10), 2<<20-10); err != nil {
		t.Fatal(err)
	}
	if err := c.space.tidy(2<<20, 2<<20); err != nil {
		t.Fatal(err)
	}
	want(t, "partial files", files(t, c, "partial"), []string{filepath.Base(c.partialPath(active))})
}

func TestRecordsGoLast(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	d := p.tag("v1", `{"a":1}`)
	src := decorated(t, c, p)
	readManifest(t, src, "v1", `{"a":1}`)
	for _, name := range []string{"v1", d.Digest.String()} {
		age(t, c.records.path(src.(*source).refKey(name)), 24*time.Hour)
	}
	before := len(files(t, c, "refs"))
	entries, err := c.space.list()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.space.tidy(0, total(entries)-1); err != nil {
		t.Fatal(err)
	}
	want(t, "blobs", files(t, c, "blobs"), []string(nil))
	want(t, "records", len(files(t, c, "refs")), before)
	if err := c.space.tidy(0, 0); err != nil {
		t.Fatal(err)
	}
	want(t, "records", files(t, c, "refs"), []string(nil))
	readManifest(t, src, "v1", `{"a":1}`)
}

func TestClearsWhatKilledProcessesLeft(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir()})
	for range 2 {
		temp, err := c.temp()
		if err != nil {
			t.Fatal(err)
		}
		temp.Close()
	}
	names := files(t, c, "tmp")
	age(t, c.dir+"/tmp/"+names[0], 2*litter)
	if err := c.space.tidy(1<<30, 1<<30); err != nil {
		t.Fatal(err)
	}
	want(t, "left", files(t, c, "tmp"), slices.Delete(names, 0, 1))
}

func TestDirIsPrivate(t *testing.T) {
	dir := t.TempDir() + "/a/b"
	open(t, Options{Dir: dir})
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v; want 0700", info.Mode(), err)
	}
	if _, err := New(Options{}); err == nil {
		t.Error("a cache without a directory")
	}
	if _, err := New(Options{Dir: "/dev/null/x"}); errors.Is(err, nil) {
		t.Error("a cache in a file")
	}
}
