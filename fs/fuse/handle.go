//go:build linux || freebsd || darwin

package fuse

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/regfs/regfs/fs"
	"github.com/regfs/regfs/image"
)

// handle is an open file.
type handle struct {
	n    *node
	blob image.Blob
	// past is the file that the kernel may read without the daemon, or nil.
	past *os.File
}

var (
	_ gofs.FileReader          = (*handle)(nil)
	_ gofs.FileReleaser        = (*handle)(nil)
	_ gofs.FilePassthroughFder = (*handle)(nil)
)

func (n *node) Open(ctx context.Context, flags uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EROFS
	}
	attr, err := n.n.Attr(caller(ctx))
	if err != nil {
		return nil, 0, n.fail("open", "", err)
	}
	blob, err := n.n.Open(caller(ctx))
	if err != nil {
		return nil, 0, n.fail("open", "", err)
	}
	return n.newHandle(blob), n.openFlags(attr, blob), 0
}

// openFlags says what the kernel may keep: what is whole and verified, and nothing of content that is still on its way. Should
// that turn out corrupt, its pages must not be served again, not even those that a mapping brought in; and without the
// page cache its bytes are copied once less.
func (n *node) openFlags(attr fs.Attr, blob image.Blob) uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if attr.Made || blob.File() == nil {
		n.unverified = true
		return fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	}
	if n.unverified {
		n.unverified = false
		return fuse.FOPEN_NOFLUSH
	}
	return fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
}

// newHandle decides whether the kernel may read past the daemon.
func (n *node) newHandle(blob image.Blob) *handle {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &handle{n: n, blob: blob}
	if n.plain == 0 {
		h.past = blob.File()
	}
	if h.past == nil {
		n.plain++
	}
	return h
}

// PassthroughFd is asked for when the file is opened.
func (h *handle) PassthroughFd() (int, bool) {
	if h.past == nil {
		return 0, false
	}
	return int(h.past.Fd()), true
}

// Read answers with the file itself where all of it is on disk, so that the kernel moves the bytes.
func (h *handle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f, err := h.blob.Ready(ctx, off, len(dest))
	if err != nil {
		return nil, h.n.fail("read", "", err)
	}
	if f != nil {
		return fuse.ReadResultFd(f.Fd(), off, len(dest)), 0
	}
	n, err := h.blob.ReadAt(ctx, dest, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, h.n.fail("read", "", err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

func (h *handle) Release(context.Context) syscall.Errno {
	h.n.mu.Lock()
	if h.past == nil {
		h.n.plain--
	}
	h.n.mu.Unlock()
	if err := h.blob.Close(); err != nil {
		return h.n.fail("close", "", err)
	}
	return 0
}

// listing is an open folder: its entries are drawn from the tree beside the kernel's asking for them, a few ahead. An interrupt
// ends the waiting and loses none.
type listing struct {
	n       *node
	cancel  context.CancelFunc
	entries chan drawn
	// pending are entries to give before those that come.
	pending []fs.Entry
	err     error // how the listing broke off
}

// drawn is an entry, or why there are no more.
type drawn struct {
	fs.Entry
	err error
}

// ahead is how many entries are drawn before they are asked for.
const ahead = 256

var (
	_ gofs.FileReaddirenter = (*listing)(nil)
	_ gofs.FileSeekdirer    = (*listing)(nil)
	_ gofs.FileReleasedirer = (*listing)(nil)
)

// OpendirHandle begins the listing, so that a folder that can't be listed can't be opened: the C library takes ENOENT later
// on for the end of the folder.
func (n *node) OpendirHandle(ctx context.Context, _ uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	l := &listing{n: n}
	l.start(ctx)
	first, ok, err := l.next(ctx)
	if err != nil {
		l.end()
		return nil, 0, n.fail("list", "", err)
	}
	if ok {
		l.pending = append(l.pending, first)
	}
	return l, 0, 0
}

// start begins the listing. It goes on from request to request, so it lives in a context of its own, for the same caller.
func (l *listing) start(ctx context.Context) {
	own, cancel := context.WithCancel(detach(ctx))
	l.cancel, l.entries, l.err = cancel, make(chan drawn, ahead), nil
	go draw(own, l.n.n, l.entries)
	self, above := l.n.dots()
	l.pending = []fs.Entry{{Name: ".", Ino: self, Dir: true}, {Name: "..", Ino: above, Dir: true}}
}

// draw lists a folder into a channel, until the end or the context's.
func draw(ctx context.Context, n fs.Node, entries chan<- drawn) {
	defer close(entries)
	for e, err := range n.List(ctx) {
		select {
		case entries <- drawn{e, err}:
		case <-ctx.Done():
			return
		}
	}
}

// next waits for an entry. A listing that broke off stays so.
func (l *listing) next(ctx context.Context) (fs.Entry, bool, error) {
	if l.err != nil {
		return fs.Entry{}, false, l.err
	}
	select {
	case d, ok := <-l.entries:
		l.err = d.err
		return d.Entry, ok, d.err
	case <-ctx.Done():
		return fs.Entry{}, false, context.Canceled
	}
}

// dots are the inodes of a folder and the one above, which every listing has.
func (n *node) dots() (self, above uint64) {
	self = n.StableAttr().Ino
	if _, parent := n.Parent(); parent != nil {
		return self, parent.StableAttr().Ino
	}
	return self, self
}

// detach keeps of a request's context who asked. go-fuse uses the rest again for other requests.
func detach(ctx context.Context) context.Context {
	if c, ok := fuse.FromContext(ctx); ok {
		return fs.WithCaller(context.Background(), c.Pid)
	}
	return context.Background()
}

// Readdirent is the next entry.
func (l *listing) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	if len(l.pending) > 0 {
		e := l.pending[0]
		l.pending = l.pending[1:]
		return dirEntry(e), 0
	}
	e, ok, err := l.next(ctx)
	if err != nil {
		return nil, midway(l.n.fail("list", "", err))
	}
	if !ok {
		return nil, 0
	}
	return dirEntry(e), 0
}

func dirEntry(e fs.Entry) *fuse.DirEntry {
	mode := uint32(syscall.S_IFREG)
	if e.Dir {
		mode = syscall.S_IFDIR
	}
	return &fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: mode}
}

// midway is the errno of a listing that breaks off, which must not look like its end.
func midway(e syscall.Errno) syscall.Errno {
	if e == syscall.ENOENT {
		return syscall.EIO
	}
	return e
}

// Seekdir goes to the entry after the first off: back to the start and forward again, as rewinddir(3) mostly wants.
func (l *listing) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	l.end()
	l.start(ctx)
	for range off {
		if e, errno := l.Readdirent(ctx); e == nil || errno != 0 {
			return errno // who seeks past the end finds the end
		}
	}
	return 0
}

// end stops the drawing and waits for its end.
func (l *listing) end() {
	l.cancel()
	for range l.entries {
	}
}

func (l *listing) Releasedir(context.Context, uint32) { l.end() }
