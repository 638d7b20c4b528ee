package files

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

const (
	// tempPrefix begins the names of files on their way.
	tempPrefix = ".regfs-"
	// draftPrefix begins the names of drafts, which their writers hold a lock on.
	draftPrefix = tempPrefix + "tar-"
)

// draft is a tar on its way to be an archive: members with gaps between them, where others are being written.
type draft struct {
	file    *os.File
	end     int64 // where the next member goes
	members map[string]member
	unused  []room
}

// room is what a member takes in a tar: its header, content, and zeros up to a whole block.
type room struct {
	start, off, size int64
}

func (r room) end() int64 { return roundUp(r.off + r.size) }

// newDraft makes a file that whoever cleans up leaves alone.
func newDraft(dir string) (*draft, error) {
	for {
		file, err := os.OpenFile(filepath.Join(dir, draftPrefix+rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return nil, err
		}
		var stat unix.Stat_t
		err = errors.Join(flock(file), unix.Fstat(int(file.Fd()), &stat))
		if err == nil && stat.Nlink > 0 {
			return &draft{file: file, members: map[string]member{}}, nil
		}
		file.Close()
		if err != nil {
			os.Remove(file.Name())
			return nil, err
		} // else somebody cleaned up before the lock was there
	}
}

// removeStale removes drafts that nobody holds. They are in nobody's way if they stay.
func removeStale(dir string) {
	names, _ := filepath.Glob(filepath.Join(globQuote(dir), draftPrefix+"*"))
	for _, name := range names {
		file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.Remove(name)
		}
		file.Close()
	}
}

func globQuote(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

func (d *draft) discard() {
	os.Remove(d.file.Name())
	d.file.Close()
}

// reserve is room for a member.
func (d *draft) reserve(name string, size int64) (room, error) {
	header, err := tarHeader(name, "", size)
	if err != nil {
		return room{}, err
	}
	n := int64(len(header))
	for i, r := range d.unused {
		if r.size == size && r.off-r.start == n {
			d.unused = slices.Delete(d.unused, i, i+1)
			return r, nil
		}
	}
	r := room{d.end, d.end + n, size}
	if r.end() < d.end {
		return room{}, fmt.Errorf("%d bytes more do not fit a tar: %w", size, image.ErrTooLarge)
	}
	d.end = r.end()
	return r, nil
}

// release gives room back to who wants as much.
func (d *draft) release(r room) {
	d.unused = append(d.unused, r)
	for {
		i := slices.IndexFunc(d.unused, func(r room) bool { return r.end() == d.end })
		if i < 0 {
			return
		}
		d.end = d.unused[i].start
		d.unused = slices.Delete(d.unused, i, i+1)
	}
}

// tarHeader is the header of a file or, with the member it leads to, of a link. No two archives of the same files differ.
func tarHeader(name, link string, size int64) ([]byte, error) {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}
	if link != "" {
		h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
		h.Linkname, _ = filepath.Rel(path.Dir(name), link) // both are relative
	}
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", Clean(name), err, image.ErrInvalid)
	}
	return b.Bytes(), nil
}

// Write implements Files.
func (a *Archive) Write(ctx context.Context, name string, size int64, fn func(io.Writer) error) error {
	if err := a.writing.Acquire(ctx, 1); err != nil {
		return err
	}
	defer a.writing.Release(1)
	if size < 0 {
		return a.writeUnknown(ctx, name, fn)
	}
	return a.write(name, size, fn)
}

// writeUnknown writes to a file of its own first, since only the last member of a tar could grow.
func (a *Archive) writeUnknown(ctx context.Context, name string, fn func(io.Writer) error) error {
	spool, err := nameless(filepath.Dir(a.path))
	if err != nil {
		return err
	}
	defer spool.Close()
	if err := fn(spool); err != nil {
		return err
	}
	size, err := spool.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	return a.write(name, size, func(w io.Writer) error {
		_, err := io.Copy(w, &reader{ctx, io.NewSectionReader(spool, 0, size)})
		return err
	})
}

func (a *Archive) write(name string, size int64, fn func(io.Writer) error) error {
	d, r, err := a.reserve(name, size)
	if err != nil {
		return err
	}
	w := &roomWriter{d.file, r.off, r.size}
	if err = fn(w); err == nil && w.left > 0 {
		err = fmt.Errorf("%d bytes of %d are missing: %w", w.left, size, image.ErrDigest)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, twice := d.members[name]; err != nil || twice {
		d.release(r)
		return err
	}
	d.members[name] = member{off: r.off, size: r.size}
	return nil
}

func (a *Archive) reserve(name string, size int64) (*draft, room, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.startDraft(); err != nil {
		return nil, room{}, err
	}
	r, err := a.draft.reserve(name, size)
	return a.draft, r, err
}

func (a *Archive) startDraft() error {
	switch {
	case a.closed:
		return os.ErrClosed
	case !a.writable:
		return fmt.Errorf("it is open for reading only: %w", image.ErrUnsupported)
	case a.draft != nil:
		return nil
	}
	var err error
	a.draft, err = newDraft(filepath.Dir(a.path))
	return err
}

// roomWriter writes to a room of a draft, and no further.
type roomWriter struct {
	file      *os.File
	off, left int64
}

func (w *roomWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		return 0, fmt.Errorf("more comes than was said: %w", image.ErrDigest)
	}
	n, err := w.file.WriteAt(p, w.off)
	writeBack(w.file, w.off, int64(n))
	w.off += int64(n)
	w.left -= int64(n)
	return n, err
}
