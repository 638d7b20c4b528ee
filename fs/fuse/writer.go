//go:build linux || freebsd || darwin

package fuse

import (
	"context"
	"errors"
	"io"
	"syscall"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/regfs/regfs/fs"
)

// writer is a file that is open for writing. It bypasses the page cache: what a program has written is here when it is told so.
type writer struct {
	n    *node
	file fs.File
}

var (
	_ gofs.FileReader   = (*writer)(nil)
	_ gofs.FileWriter   = (*writer)(nil)
	_ gofs.FileFlusher  = (*writer)(nil)
	_ gofs.FileReleaser = (*writer)(nil)
)

// openWrite opens a file for writing. One that is fixed may have another one in its place when its name is looked up again.
func (n *node) openWrite(ctx context.Context) (gofs.FileHandle, uint32, syscall.Errno) {
	var h *writer
	e := n.change(ctx, "open", "", func(ctx context.Context) error {
		file, err := n.n.OpenWrite(ctx)
		if errors.Is(err, fs.ErrFixed) && n.again(ctx) {
			return syscall.ESTALE
		}
		h = &writer{n, file}
		return err
	})
	if e != 0 {
		return nil, 0, e
	}
	return h, fuse.FOPEN_DIRECT_IO, 0
}

func (w *writer) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := w.file.ReadAt(caller(ctx), dest, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, w.n.fail("read", "", err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

func (w *writer) Write(ctx context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	if err := w.file.WriteAt(caller(ctx), p, off); err != nil {
		return 0, w.n.fail("write", "", err)
	}
	return uint32(len(p)), 0
}

// Flush is each close(2) of the file. If that completes an image, it is pushed within it.
func (w *writer) Flush(ctx context.Context) syscall.Errno { return w.n.push(ctx, "push", w.file.Flush) }

func (w *writer) Release(context.Context) syscall.Errno {
	if err := w.file.Close(); err != nil {
		return w.n.fail("close", "", err)
	}
	return 0
}
