// Package stage keeps what is written into a mount until it is an image, and pushes it then: the names, the content on disk,
// the rule that tells when an image is whole, and the push. It knows no kernel and no namespace.
//
// DESIGN.md, "Writing", says what the rules are.
package stage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// Site is where an image is being written: a tag or, with Tag "", the layout of a whole repository. It is a key.
type Site struct {
	image.Repository
	Tag string
}

// String is the site as users write it.
func (s Site) String() string {
	if s.Tag == "" {
		return s.Repository.String()
	}
	return s.Repository.String() + ":" + s.Tag
}

// Options is what a Store is made of.
type Options struct {
	// Dir is the folder that holds what is staged. One Store at a time has it.
	Dir string
	// Host opens a registry by its name. It sends nothing.
	Host func(name string) (image.Host, error)
	// Blobs opens content for reading, where a staged file refers to it.
	Blobs image.Blobs
	// Log is told of stagings that rest unfinished.
	Log *slog.Logger
	// Silence is after how long without a write an unfinished staging is told of; 0 stands for ten seconds.
	Silence time.Duration
}

// Store is all that is staged. It is safe for concurrent use.
type Store struct {
	o    Options
	lock *os.File
	ctx  context.Context // ends with the Store
	stop context.CancelFunc
	work sync.WaitGroup
	room *semaphore.Weighted // of uploads beside the writing

	mu       sync.Mutex
	stagings map[Site]*Staging
	ended    map[Site]Status // of what was pushed and is no longer staged
	order    []Site          // of ended, oldest first
	nextID   uint64
}

// How many blobs are uploaded at once before somebody waits for them, and how many finished pushes are remembered.
const (
	maxUploads = 4
	maxEnded   = 1000
)

// Open finds what an earlier Store left in the folder, or makes the folder.
func Open(o Options) (*Store, error) {
	if o.Silence <= 0 {
		o.Silence = 10 * time.Second
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{o: o, lock: lock, room: semaphore.NewWeighted(maxUploads), stagings: map[Site]*Staging{}, ended: map[Site]Status{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if err := s.recover(); err != nil {
		s.Close()
		return nil, err
	}
	s.spawn(s.watch)
	return s, nil
}

// lockDir makes the folder, for its owner alone, and takes it.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("staging folder: %w: choose another with --stage-dir", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("staging folder: %w: choose another with --stage-dir", err)
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if time.Since(start) > lockPatience {
			f.Close()
			return nil, fmt.Errorf("staging folder %s is busy, another mount uses it: choose another with --stage-dir", dir)
		}
	}
}

// lockPatience is how long a daemon that was unmounted just now may take to end.
const lockPatience = 3 * time.Second

// recover opens all stagings that are on disk. One that can't be read is left alone, and said.
func (s *Store) recover() error {
	folders, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return fmt.Errorf("staging folder: %w", err)
	}
	for _, f := range folders {
		if !f.IsDir() {
			continue
		}
		l, err := s.load(filepath.Join(s.o.Dir, f.Name()))
		if err != nil {
			s.o.Log.Warn("what is staged there can't be read and is left alone", "folder", filepath.Join(s.o.Dir, f.Name()), "error", err)
			continue
		}
		if l == nil {
			continue
		}
		s.stagings[l.site] = l
		s.o.Log.Warn("an unfinished push was found: finish it by writing the rest, or discard it", "image", l.site.String())
	}
	return nil
}

// load reads one staging; nil for one that holds nothing.
func (s *Store) load(dir string) (*Staging, error) {
	raw, err := os.ReadFile(filepath.Join(dir, siteFile))
	if err != nil {
		return nil, err
	}
	l := newStaging(s, Site{}, dir)
	if err := json.Unmarshal(raw, &l.site); err != nil {
		return nil, err
	}
	if err := l.replay(); err != nil {
		return nil, err
	}
	if !l.has(Regular) {
		l.erase()
		return nil, nil
	}
	return l, nil
}

// siteFile is the file of a staging that says which site it is of.
const siteFile = "site.json"

// Find is the staging of a site, or nil.
func (s *Store) Find(site Site) *Staging {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stagings[site]
}

// Begin is the staging of a site, made if there is none.
func (s *Store) Begin(site Site) (*Staging, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.stagings[site]; l != nil {
		return l, nil // it may have ended just now: then it says so when it is used
	}
	sum := sha256.Sum256([]byte(site.Host + "\x00" + site.Name + "\x00" + site.Tag))
	l := newStaging(s, site, filepath.Join(s.o.Dir, hex.EncodeToString(sum[:16])))
	if err := l.create(); err != nil {
		return nil, fmt.Errorf("stage %s: %w", site, err)
	}
	s.stagings[site] = l
	return l, nil
}

// Sites are the tags of a repository that something is staged for, sorted; "" is the repository's own layout.
func (s *Store) Sites(of image.Repository) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tags []string
	for site := range s.stagings {
		if site.Repository == of {
			tags = append(tags, site.Tag)
		}
	}
	slices.Sort(tags)
	return tags
}

// Statuses are those of all that is staged and of what was pushed lately, sorted by site.
func (s *Store) Statuses() []Status {
	s.mu.Lock()
	all := make([]Status, 0, len(s.stagings)+len(s.ended))
	var live []*Staging
	for _, l := range s.stagings {
		live = append(live, l)
	}
	for site, status := range s.ended {
		if s.stagings[site] == nil {
			all = append(all, status)
		}
	}
	s.mu.Unlock()
	for _, l := range live {
		all = append(all, l.Status())
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Site().String(), b.Site().String()) })
	return all
}

// Status is that of one site.
func (s *Store) Status(site Site) (Status, bool) {
	s.mu.Lock()
	l, ended := s.stagings[site], s.ended[site]
	s.mu.Unlock()
	if l != nil {
		return l.Status(), true
	}
	return ended, ended.State != ""
}

// Discard throws away what is staged for a site and what is remembered of it. ErrNotFound where there is nothing.
func (s *Store) Discard(site Site) error {
	s.mu.Lock()
	l := s.stagings[site]
	_, known := s.ended[site]
	delete(s.ended, site)
	s.mu.Unlock()
	if l == nil && !known {
		return fmt.Errorf("nothing is staged for %s: %w", site, image.ErrNotFound)
	}
	if l != nil {
		l.End()
	}
	return nil
}

// remove forgets a staging. Its status is remembered if it was pushed.
func (s *Store) remove(l *Staging, last Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stagings[l.site] == l {
		delete(s.stagings, l.site)
	}
	before, known := s.ended[l.site]
	if last.State != Pushed || known && before.Digest == last.Digest && len(last.Blobs) == 0 {
		return // what came after a push, and was part of it, has nothing to tell
	}
	if !known {
		s.order = append(s.order, l.site)
	}
	s.ended[l.site] = last
	for len(s.order) > maxEnded {
		delete(s.ended, s.order[0])
		s.order = s.order[1:]
	}
}

// id is a number that no other file of this Store has.
func (s *Store) id() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextID++
	return s.nextID
}

// watch looks after stagings that nobody writes to any more.
func (s *Store) watch() {
	tick := time.NewTicker(max(s.o.Silence/10, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		var all []*Staging
		for _, l := range s.stagings {
			all = append(all, l)
		}
		s.mu.Unlock()
		for _, l := range all {
			l.rest(s.o.Silence)
		}
	}
}

// Close ends uploads and leaves what is staged on disk. Nothing of the Store is to be used after that.
func (s *Store) Close() error {
	s.mu.Lock()
	s.stop() // nothing is spawned after this
	s.mu.Unlock()
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	var all error
	for _, l := range s.stagings {
		all = errors.Join(all, l.closeSink(), l.close())
	}
	return errors.Join(all, s.lock.Close())
}
