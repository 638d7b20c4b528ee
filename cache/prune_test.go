package cache

import (
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// TestPruneTakesWhatWasNotUsed, by its age alone, and leaves no empty folders.
func TestPruneTakesWhatWasNotUsed(t *testing.T) {
	p, dir := newPlace(), t.TempDir()
	c := open(t, Options{Dir: dir})
	blobs := aged(t, c, p, 3)
	if err := c.records.put(key{"host", "repo", "tags", "v1"}, blobs[0], time.Now()); err != nil {
		t.Fatal(err)
	}
	age(t, c.records.path(key{"host", "repo", "tags", "v1"}), 3*time.Hour)
	putIndex(t, c, "a", random(1, 1<<20))
	age(t, dir+"/layers/index/a", 3*time.Hour)
	inUse := spans(t, c, "a", random(1, 1<<20), 0)
	age(t, inUse.Name(), 3*time.Hour)
	before, err := Look(dir)
	if err != nil {
		t.Fatal(err)
	}
	removed, busy, err := Prune(dir, 90*time.Minute, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	after, err := Look(dir)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "removed", [...]int{removed.Blobs.Files, removed.Indexes.Files, removed.Records.Files, removed.Total().Files}, [...]int{2, 1, 1, 4})
	want(t, "busy", busy.Spans, after.Spans)
	want(t, "left", after.Total(), Amount{before.Total().Files - 4, before.Total().Bytes - removed.Total().Bytes})
	want(t, "hosts", c.Hosts(), []string(nil))
	if !c.has(blobs[2].Digest) {
		t.Error("it took what was used just now")
	}
	if _, err := inUse.ReadAt(make([]byte, 1<<20), 0); err != nil {
		t.Errorf("spans in use were cut: %v", err)
	}
}

// TestPruneToASize takes what was not used for longest, and what is used by nobody; the cache goes on.
func TestPruneToASize(t *testing.T) {
	p, dir := newPlace(), t.TempDir()
	c := open(t, Options{Dir: dir})
	blobs := aged(t, c, p, 4)
	b, err := c.Open(t.Context(), p, blobs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	age(t, c.blobPath(blobs[0].Digest), 5*time.Hour)
	removed, busy, err := Prune(dir, math.MaxInt64, 2<<20)
	if err != nil || removed.Total() != (Amount{2, 2 << 20}) || busy.Total() != (Amount{1, 1 << 20}) || !c.has(blobs[3].Digest) {
		t.Errorf("removed %+v, busy %+v, %v", removed, busy, err)
	}
	removed, busy, err = Prune(dir, math.MaxInt64, 0)
	if err != nil || removed.Total().Files != 1 || busy.Total().Files != 1 {
		t.Errorf("all: removed %+v, busy %+v, %v", removed, busy, err)
	}
	for i, d := range blobs {
		wantContent(t, c, p, d, random(uint64(i), 1<<20))
	}
}

// TestPruneKeepsOffOthersFolders, even those that have blobs.
func TestPruneKeepsOffOthersFolders(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/blobs/sha256", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/blobs/sha256/x", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Look(dir); err == nil || !strings.Contains(err.Error(), "no cache") {
		t.Errorf("look: %v", err)
	}
	if _, _, err := Prune(dir, 0, 0); err == nil || !strings.Contains(err.Error(), "no cache") {
		t.Errorf("prune: %v", err)
	}
	if _, err := os.Stat(dir + "/blobs/sha256/x"); err != nil {
		t.Error(err)
	}
}
