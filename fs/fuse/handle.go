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
		return n.openWrite(ctx)
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
	if attr.Sealed {
		return fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	}
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
