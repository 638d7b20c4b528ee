package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// Archive is the files of a tar, read where they lie. Links are followed as long as they lead to other members. An archive that was
// compressed is unpacked to a temporary file first, and can't be written.
//
// What is written goes to a file beside the archive, with room for several at once, and Edit makes that file the new archive:
// what is new, then what was there before. Who reads the archive meanwhile, and other programs, see the old one or the new one.
// A file ".regfs-tar-…" that a killed process left is removed by the next one that opens an archive in its folder for writing.
type Archive struct {
	path     string
	writable bool
	loading  *semaphore.Weighted // who reads the list of members
	writing  *semaphore.Weighted // a Write has one, an Edit all

	mu     sync.Mutex
	now    *snapshot // the archive as it was when last looked at
	draft  *draft    // what was written since the last Edit, nil for nothing
	turn   int       // how often now has changed
	closed bool      // nothing can be had of it any more
}

// writers is more than there are writes at the same time.
const writers = 1 << 20

// snapshot is an archive that does not change.
type snapshot struct {
	*listing
	file   *os.File    // nil where there is none yet
	info   fs.FileInfo // what the archive was then, nil where there was none
	packed string      // how it is compressed, "" if not
}

// Open opens an archive. A writable one need not be there yet, and is not made before the first Edit.
func Open(ctx context.Context, path string, writable bool) (*Archive, error) {
	path, err := resolve(path, writable)
	if err != nil {
		return nil, err
	}
	a := &Archive{path: path, writable: writable, loading: semaphore.NewWeighted(1), writing: semaphore.NewWeighted(writers)}
	if err := a.refresh(ctx); err != nil {
		return nil, err
	}
	if writable && a.now.packed != "" {
		a.Close()
		return nil, fmt.Errorf("it is compressed with %s, and can only be read: unpack it first: %w", a.now.packed, image.ErrUnsupported)
	}
	if writable {
		removeStale(filepath.Dir(path))
	}
	return a, nil
}

// resolve follows links, so that what they lead to is what is replaced.
func resolve(path string, writable bool) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil || !writable || !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// refresh looks at the archive again if it has changed.
func (a *Archive) refresh(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := os.Stat(a.path)
	if errors.Is(err, fs.ErrNotExist) && a.writable {
		info, err = nil, nil
	}
	if err != nil || a.current(info) {
		return err
	}
	if err := a.loading.Acquire(ctx, 1); err != nil {
		return err
	}
	defer a.loading.Release(1)
	if a.current(info) {
		return nil
	}
	s, err := load(ctx, a.path, info)
	if err == nil {
		a.replace(s)
	}
	return err
}

// current tells whether the archive is known as it is.
func (a *Archive) current(info fs.FileInfo) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.now == nil || a.now.info == nil || info == nil {
		return a.now != nil && a.now.info == nil && info == nil
	}
	was := a.now.info
	return os.SameFile(was, info) && was.Size() == info.Size() && was.ModTime().Equal(info.ModTime()) && was.Mode() == info.Mode()
}

func (a *Archive) replace(s *snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.now != nil && a.now.file != nil {
		a.now.file.Close() // who reads from it has one of his own
	}
	a.now = s
	a.turn++
}

// load reads what an archive has; none has nothing.
func load(ctx context.Context, path string, info fs.FileInfo) (*snapshot, error) {
	if info == nil {
		return &snapshot{listing: &listing{}}, nil
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s := &snapshot{file: file}
	if err := s.load(ctx); err != nil {
		s.file.Close()
		return nil, err
	}
	return s, nil
}

func (s *snapshot) load(ctx context.Context) error {
	var err error
	if s.info, err = s.file.Stat(); err != nil {
		return err
	}
	if !s.info.Mode().IsRegular() {
		return fmt.Errorf("no regular file: %w", image.ErrInvalid)
	}
	if s.packed, err = Packed(s.file); err != nil {
		return err
	}
	size := s.info.Size()
	if s.packed != "" {
		if size, err = s.unpack(ctx); err != nil {
			return err
		}
	}
	s.listing, err = scan(ctx, s.file, size)
	return err
}

// unpack puts what the archive is compressed of into a file that goes with its closing, in the archive's place.
func (s *snapshot) unpack(ctx context.Context) (int64, error) {
	r, err := Unpack(&reader{ctx, io.NewSectionReader(s.file, 0, s.info.Size())}, s.packed)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	spool, err := nameless(spoolDir())
	if err != nil {
		return 0, err
	}
	size, err := io.Copy(spool, r)
	if err != nil {
		spool.Close()
		return 0, fmt.Errorf("unpack it: %w", err)
	}
	s.file.Close()
	s.file = spool
	return size, nil
}

// None tells that there is no archive yet, or one of nothing.
func (a *Archive) None() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.now.members) == 0
}

// Turn is a number that changes when the archive does.
func (a *Archive) Turn(ctx context.Context) (int, error) {
	if err := a.refresh(ctx); err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.turn, nil
}

// Open implements Files.
func (a *Archive) Open(ctx context.Context, name string) (File, int64, error) {
	if err := a.refresh(ctx); err != nil {
		return nil, 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, 0, fs.ErrClosed
	}
	file, m, err := a.find(name)
	if err != nil {
		return nil, 0, err
	}
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, 0, os.NewSyscallError("dup", err)
	}
	own := os.NewFile(uintptr(fd), a.path)
	return &opened{io.NewSectionReader(own, m.off, m.size), own}, m.size, nil
}

// opened is a member, and an open archive for it alone.
type opened struct {
	*io.SectionReader
	io.Closer
}

// maxLinks is how many links lead from one to the next.
const maxLinks = 8

// find is a member, and the file it is in: the draft's go before the archive's.
func (a *Archive) find(name string) (*os.File, member, error) {
	at := name
	for range maxLinks {
		if a.draft != nil {
			if m, ok := a.draft.members[at]; ok {
				return a.draft.file, m, nil
			}
		}
		m, ok := a.now.members[at]
		switch {
		case !ok:
			return nil, m, a.missing(at)
		case m.odd != "":
			return nil, m, fmt.Errorf("%s is %s: %w", Clean(at), m.odd, image.ErrInvalid)
		case m.link == "":
			return a.now.file, m, nil
		}
		at = m.link
	}
	return nil, member{}, fmt.Errorf("%s is a link with no end: %w", Clean(name), image.ErrInvalid)
}

func (a *Archive) missing(name string) error {
	if a.now.cut {
		return &cutError{name}
	}
	return &fs.PathError{Op: "open", Path: Clean(name), Err: fs.ErrNotExist}
}

// cutError is the error of what may have been in the part of an archive that is missing.
type cutError struct{ name string }

func (e *cutError) Error() string {
	return fmt.Sprintf("%s is missing, and so is the end of the archive: it is cut short", Clean(e.name))
}

func (e *cutError) Unwrap() []error { return []error{fs.ErrNotExist, image.ErrInvalid} }

// Close closes the archive. What was written since the last Edit is gone; what is being read stays readable.
func (a *Archive) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draft != nil {
		a.draft.discard()
		a.draft = nil
	}
	if a.closed {
		return nil
	}
	a.closed = true
	if a.now != nil && a.now.file != nil {
		return a.now.file.Close()
	}
	return nil
}
