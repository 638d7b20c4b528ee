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

// tidy removes what was not used for longest until the directory takes at most target bytes, if it takes more than limit.
// One process does so at a time.
func (s *space) tidy(limit, target int64) error {
	guard, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer guard.Close()
	for range int(patience / poll) {
		if lock(guard) {
			return s.tidyAlone(limit, target)
		}
		time.Sleep(poll)
	}
	return errors.New("another process has been at it for too long")
}

func (s *space) tidyAlone(limit, target int64) error {
	entries, err := s.list()
	used := total(entries)
	if used > limit {
		slices.SortFunc(entries, older)
		for _, e := range entries {
			if used > target && s.evict(e) {
				used -= e.bytes
			}
		}
	}
	s.used.Store(used)
	return err
}

// entry is a file that can be evicted.
type entry struct {
	path     string
	bytes    int64
	used     int64 // when, in ns since 1970
	isRecord bool
}

func total(entries []entry) int64 {
	sum := int64(0)
	for _, e := range entries {
		sum += e.bytes
	}
	return sum
}

// older sorts what goes first first. Records are small and worth most, so they go last.
func older(a, b entry) int {
	if a.isRecord != b.isRecord {
		if a.isRecord {
			return 1
		}
		return -1
	}
	return cmp.Compare(a.used, b.used)
}

// list finds all there is, and clears what killed processes left in tmp.
func (s *space) list() ([]entry, error) {
	var entries []entry
	for _, folder := range []string{"blobs", "partial", "refs"} {
		err := s.walk(folder, func(path string, info fs.FileInfo) {
			entries = append(entries, entry{path, diskUsage(info), info.ModTime().UnixNano(), folder == "refs"})
		})
		if err != nil {
			return entries, err
		}
	}
	return entries, s.walk("tmp", func(path string, info fs.FileInfo) {
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
	if e.isRecord {
		return os.Remove(e.path) == nil
	}
	file, err := os.Open(e.path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer file.Close()
	return lock(file) && samePath(file, e.path) && os.Remove(e.path) == nil
}

// diskUsage is how many bytes a file takes on disk.
func diskUsage(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512
	}
	return info.Size()
}
