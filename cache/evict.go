package cache

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// litter is how old a temporary file gets before it is taken for one that a killed process left.
const litter = time.Hour

// block is what a small file takes on disk, about.
const block = 4096

// patience is how long to wait for another process that makes room.
const patience = 2 * time.Second

// space keeps the directory under its limit.
type space struct {
	store
	limit int64
	used  atomic.Int64 // bytes on disk, as of the last look and what was added since
	mu    sync.Mutex
	added int64 // bytes since the last look
	known bool  // there was one
}

// grew counts n new bytes. It looks at the disk the first time, when they seem too many, and now and then, because other
// processes add too.
func (c *Cache) grew(n int64) {
	s := c.space
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added += n
	if used := s.used.Add(n); s.known && used <= s.limit && s.added < s.limit/16 {
		return
	}
	s.known, s.added = true, 0
	// Refused only when the cache is closing: the next one looks again.
	_ = c.spawn(func() {
		if err := s.tidy(s.limit, s.limit/10*9); err != nil {
			c.log.Warn("cache: make room", "err", err)
		}
	})
}

// free makes room for n bytes on a full disk.
func (s *space) free(n int64) error {
	entries, err := s.list()
	if err != nil {
		return err
	}
	target := max(0, total(entries)-n-n/8)
	return s.tidy(target, target)
}

// spareRoom is how much is to be free on a disk for temporary files, unless the disk is small.
const spareRoom = 64 << 20

// spare makes room for temporary files, if there is little.
func (s *space) spare() error {
	var disk unix.Statfs_t
	if err := unix.Statfs(s.dir, &disk); err != nil {
		return ignoreGone(err)
	}
	block := int64(disk.Bsize)
	if lack := min(spareRoom, int64(disk.Blocks)*block/16) - int64(disk.Bavail)*block; lack > 0 {
		return s.free(lack)
	}
	return nil
}

// tidy removes what was not used for longest until the directory takes at most target bytes, if it takes more than limit.
func (s *space) tidy(limit, target int64) error {
	return s.alone(func() error { return s.tidyAlone(limit, target) })
}

// alone runs fn in one process at a time.
func (s *space) alone(fn func() error) error {
	guard, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer guard.Close()
	for range int(patience / poll) {
		if lock(guard) {
			return fn()
		}
		time.Sleep(poll)
	}
	return errors.New("another process has been at it for too long")
}

func (s *space) tidyAlone(limit, target int64) error {
	s.clear()
	entries, err := s.list()
	used := total(entries)
	if used > limit {
		slices.SortFunc(entries, first)
		used = s.shrink(entries, used, target)
	}
	s.used.Store(used)
	return err
}

// shrink gives up entries, those at the front first, until they take no more than target bytes, and returns what they take then.
// Spans in use are worth more than all that is not in use, and less than the records: those are small, and when a place is
// away, nothing else can tell what it said.
func (s *space) shrink(entries []entry, used, target int64) int64 {
	give := func(entries []entry, up func(entry) bool) (kept []entry) {
		for _, e := range entries {
			if used > target && up(e) {
				used -= e.bytes
			} else {
				kept = append(kept, e)
			}
		}
		return kept
	}
	records := slices.IndexFunc(append(entries, entry{kind: ofRecord}), func(e entry) bool { return e.kind == ofRecord })
	kept := give(entries[:records], s.evict)
	give(kept, s.cut)
	give(entries[records:], s.evict)
	return used
}

// kind tells what a file has in it.
type kind int

const (
	ofBlob kind = iota
	ofPartial
	ofIndex
	ofSpans
	ofRecord
	ofTemp
)

// folders are what the directory is made of.
var folders = []struct {
	name string
	kind kind
}{
	{"blobs", ofBlob}, {"partial", ofPartial}, {"layers/index", ofIndex}, {"layers/spans", ofSpans}, {"refs", ofRecord}, {"tmp", ofTemp},
}

// entry is a file that can be evicted.
type entry struct {
	path  string
	bytes int64
	idle  time.Duration // how long nobody used it
	kind  kind
}

func total(entries []entry) int64 {
	sum := int64(0)
	for _, e := range entries {
		sum += e.bytes
	}
	return sum
}

// indexWorth is how much longer than content an index is kept. It takes about a twenty-fifth of the blob it was made from, all of which
// would have to be fetched and decompressed to make it again. It is not kept for ever, or indexes of what nobody wants would fill
// the directory in the end.
const indexWorth = 16

// first sorts what goes first first. Records go last.
func first(a, b entry) int {
	if a, b := a.kind == ofRecord, b.kind == ofRecord; a != b {
		if a {
			return 1
		}
		return -1
	}
	return cmp.Compare(b.age(), a.age())
}

// age is how long an entry was not used, counted by its worth.
func (e entry) age() time.Duration {
	if e.kind == ofIndex {
		return e.idle / indexWorth
	}
	return e.idle
}

// list finds all there is that can be evicted.
func (s *space) list() ([]entry, error) {
	var entries []entry
	for _, f := range folders {
		if f.kind == ofTemp {
			continue
		}
		err := s.walk(f.name, func(path string, info fs.FileInfo) {
			entries = append(entries, entry{path, diskUsage(info), time.Since(info.ModTime()), f.kind})
		})
		if err != nil {
			return entries, err
		}
	}
	return entries, nil
}

// clear removes what killed processes left in tmp. What can't be looked at stays.
func (s *space) clear() {
	_ = s.walk("tmp", func(path string, info fs.FileInfo) {
		if time.Since(info.ModTime()) > litter {
			os.Remove(path)
		}
	})
}

// walk visits all files of a folder. What vanishes meanwhile was evicted by another process, or got its name.
func (s *space) walk(folder string, visit func(path string, info fs.FileInfo)) error {
	return filepath.WalkDir(filepath.Join(s.dir, folder), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err == nil {
			visit(path, info)
		}
		return nil
	})
}

// evict removes a file unless somebody reads or writes it.
func (s *space) evict(e entry) bool {
	if e.kind == ofRecord {
		return os.Remove(e.path) == nil
	}
	file, err := os.Open(e.path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer file.Close()
	return lock(file) && samePath(file, e.path) && os.Remove(e.path) == nil
}

// cut takes the content of a file of spans, whoever reads it. The others must stay as they are while they are in use.
func (s *space) cut(e entry) bool { return e.kind == ofSpans && os.Truncate(e.path, 0) == nil }

// diskUsage is how many bytes a file takes on disk.
func diskUsage(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512
	}
	return info.Size()
}
