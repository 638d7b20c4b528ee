package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Usage is what a cache keeps, or what of it was removed.
type Usage struct {
	Blobs      Amount `json:"blobs"`      // whole, manifests too
	Unfinished Amount `json:"unfinished"` // blobs that were not fetched to the end, or are being fetched
	Indexes    Amount `json:"indexes"`    // of layers
	Spans      Amount `json:"spans"`      // single spans of layers
	Records    Amount `json:"records"`    // what places said: tags and lists
}

// Amount is how many files there are, and how many bytes they take on disk.
type Amount struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// Total is all of it.
func (u Usage) Total() Amount {
	var sum Amount
	for _, a := range []Amount{u.Blobs, u.Unfinished, u.Indexes, u.Spans, u.Records} {
		sum.Files += a.Files
		sum.Bytes += a.Bytes
	}
	return sum
}

func (u *Usage) add(e entry) {
	a := map[kind]*Amount{
		ofBlob: &u.Blobs, ofPartial: &u.Unfinished, ofIndex: &u.Indexes, ofSpans: &u.Spans, ofRecord: &u.Records,
	}[e.kind]
	a.Files++
	a.Bytes += e.bytes
}

// Look tells what the cache in a folder keeps. It changes nothing. fs.ErrNotExist where there is no such folder; one that is
// something else is an error, too.
func Look(dir string) (Usage, error) {
	var u Usage
	s, err := existing(dir)
	if err != nil {
		return u, fmt.Errorf("cache: %w", err)
	}
	entries, err := s.list()
	if err != nil {
		return u, fmt.Errorf("cache: %w", err)
	}
	for _, e := range entries {
		u.add(e)
	}
	return u, nil
}

// Prune removes from the cache in a folder what was not used for longer than idle, and then what was not used for longest until the
// rest takes at most size bytes. What is in use stays, by whatever process; busy is what stayed for that. It may run beside all who use the
// cache. Errors are those of Look.
func Prune(dir string, idle time.Duration, size int64) (removed, busy Usage, err error) {
	s, err := existing(dir)
	if err == nil {
		err = errors.Join(s.init(), s.writable())
	}
	p := &pruning{space: s}
	if err == nil {
		err = s.alone(func() error { return p.run(idle, size) })
	}
	if err != nil {
		err = fmt.Errorf("cache: %w", err)
	}
	return p.removed, p.busy, err
}

// existing is the cache in a folder, if that is one: whatever else has files there does not want them removed.
func existing(dir string) (*space, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	for _, name := range []string{"blobs", "partial", "refs", "tmp"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("%s is no cache of regfs", dir)
		}
	}
	return &space{store: store{dir}}, nil
}

// pruning is a Prune under way.
type pruning struct {
	*space
	used          int64
	removed, busy Usage
}

func (p *pruning) run(idle time.Duration, size int64) error {
	p.clear()
	entries, err := p.list()
	if err != nil {
		return err
	}
	p.used = total(entries)
	slices.SortFunc(entries, first)
	for _, e := range slices.DeleteFunc(entries, func(e entry) bool { return e.idle > idle && p.remove(e) }) {
		if p.used > size {
			p.remove(e)
		}
	}
	return p.sweep()
}

// remove removes a file or finds it in use, and so is done with it.
func (p *pruning) remove(e entry) (done bool) {
	if p.evict(e) {
		p.removed.add(e)
		p.used -= e.bytes
	} else {
		p.busy.add(e)
	}
	return true
}

// sweep removes empty folders: a record's folder tells that there is something recorded.
func (s *space) sweep() error {
	var all []string
	for _, top := range []string{"blobs", "refs"} {
		err := filepath.WalkDir(filepath.Join(s.dir, top), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != filepath.Join(s.dir, top) {
				all = append(all, path)
			}
			return ignoreGone(err)
		})
		if err != nil {
			return err
		}
	}
	for _, path := range slices.Backward(all) {
		os.Remove(path) // which fails where something is in it
	}
	return nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
