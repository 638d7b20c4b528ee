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
	return n.newHandle(blob), openFlags(attr, blob), 0
}

// openFlags says what the kernel may keep. Pages of content that is still on its way are dropped at the next open: should it
// turn out corrupt, they must not be served again.
func openFlags(attr fs.Attr, blob image.Blob) uint32 {
	switch {
	case attr.Made:
		return fuse.FOPEN_DIRECT_IO
	case blob.File() != nil:
		return fuse.FOPEN_KEEP_CACHE
	}
	return 0
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
	if f := h.blob.File(); f != nil {
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
	ctx    context.Context
	cancel context.CancelFunc
	next   func() (fs.Entry, error, bool)
	stop   func()
}

var (
	_ gofs.FileReaddirenter = (*listing)(nil)
	_ gofs.FileSeekdirer    = (*listing)(nil)
	_ gofs.FileReleasedirer = (*listing)(nil)
)

func (n *node) OpendirHandle(ctx context.Context, _ uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	l := &listing{n: n}
	l.start(ctx)
	return l, 0, 0
}

// start begins the listing. It goes on from request to request, so it lives in a context of its own, for the same caller.
func (l *listing) start(ctx context.Context) {
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(detach(ctx)))
	l.next, l.stop = iter.Pull2(l.n.withDots(l.n.n.List(l.ctx)))
}

// withDots puts the two entries before a folder's own that every folder has.
func (n *node) withDots(entries iter.Seq2[fs.Entry, error]) iter.Seq2[fs.Entry, error] {
	self := n.StableAttr().Ino
	above := self
	if _, parent := n.Parent(); parent != nil {
		above = parent.StableAttr().Ino
	}
	return func(yield func(fs.Entry, error) bool) {
		if yield(fs.Entry{Name: ".", Ino: self, Dir: true}, nil) && yield(fs.Entry{Name: "..", Ino: above, Dir: true}, nil) {
			entries(yield)
		}
	}
}

// detach keeps of a request's context who asked. go-fuse uses the rest again for other requests.
func detach(ctx context.Context) context.Context {
	if c, ok := fuse.FromContext(ctx); ok {
		return fs.WithCaller(context.Background(), c.Pid)
	}
	return context.Background()
}

// Readdirent is the next entry. An interrupt of the request it waits in ends the whole listing.
func (l *listing) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	defer context.AfterFunc(ctx, l.cancel)()
	e, err, ok := l.next()
	if err != nil {
		return nil, l.n.fail("list", "", err)
	}
	if !ok {
		return nil, 0
	}
	mode := uint32(syscall.S_IFREG)
	if e.Dir {
		mode = syscall.S_IFDIR
	}
	return &fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: mode}, 0
}

// Seekdir goes to the entry after the first off: back to the start and forward again, as rewinddir(3) mostly wants.
func (l *listing) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	l.end()
	l.start(ctx)
	for range off {
		if _, e := l.Readdirent(ctx); e != 0 {
			return e
		}
	}
	return 0
}

func (l *listing) end() {
	l.cancel()
	l.stop()
}

func (l *listing) Releasedir(context.Context, uint32) { l.end() }
