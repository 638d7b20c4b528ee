//go:build linux || freebsd || darwin

package fuse

import (
	"context"
	"errors"
	"io"
	"iter"
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

// listing is an open folder: its entries are drawn from the tree as the kernel asks for them.
type listing struct {
	n      *node
	cancel context.CancelFunc
	// pending are entries to give before those that next draws.
	pending []fs.Entry
	next    func() (fs.Entry, error, bool)
	stop    func()
	// request is the one whose interrupt ends the listing, as long as unwatch is not called.
	request context.Context
	unwatch func() bool
}

var (
	_ gofs.FileReaddirenter = (*listing)(nil)
	_ gofs.FileSeekdirer    = (*listing)(nil)
	_ gofs.FileReleasedirer = (*listing)(nil)
)

// OpendirHandle begins the listing, so that a folder that can't be listed can't be opened: the C library takes ENOENT later
// on for the end of the folder.
func (n *node) OpendirHandle(ctx context.Context, _ uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	l := &listing{n: n}
	if err := l.start(ctx); err != nil {
		l.end()
		return nil, 0, n.fail("list", "", err)
	}
	return l, 0, 0
}

// start begins the listing and draws its first entry. It goes on from request to request, so it lives in a context of its
// own, for the same caller.
func (l *listing) start(ctx context.Context) error {
	own, cancel := context.WithCancel(detach(ctx))
	l.cancel = cancel
	l.watch(ctx)
	l.next, l.stop = iter.Pull2(l.n.n.List(own))
	self, above := l.n.dots()
	l.pending = []fs.Entry{{Name: ".", Ino: self, Dir: true}, {Name: "..", Ino: above, Dir: true}}
	first, err, ok := l.next()
	if ok && err == nil {
		l.pending = append(l.pending, first)
	}
	return err
}

// watch has an interrupt of the request that waits end the whole listing.
func (l *listing) watch(ctx context.Context) {
	if l.request == ctx {
		return
	}
	if l.unwatch != nil {
		l.unwatch()
	}
	l.request, l.unwatch = ctx, context.AfterFunc(ctx, l.cancel)
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
	l.watch(ctx)
	e, err, ok := l.next()
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
	if err := l.start(ctx); err != nil {
		return midway(l.n.fail("list", "", err))
	}
	for range off {
		if _, e := l.Readdirent(ctx); e != 0 {
			return e
		}
	}
	return 0
}

func (l *listing) end() {
	l.unwatch()
	l.request = nil
	l.cancel()
	l.stop()
}

func (l *listing) Releasedir(context.Context, uint32) { l.end() }
