package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/regfs/regfs/image"
)

// stored is a Blob that is complete on disk.
type stored struct {
	file *os.File
	size int64
}

func newStored(file *os.File) (image.Blob, error) {
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &stored{file, info.Size()}, nil
}

func (b *stored) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return b.file.ReadAt(p, off)
}
func (b *stored) Ready(context.Context, int64, int) (*os.File, error) { return b.file, nil }

func (b *stored) Size() int64    { return b.size }
func (b *stored) File() *os.File { return b.file }
func (b *stored) Close() error   { return b.file.Close() }

// filling is a Blob on its way.
type filling struct {
	c   *Cache
	src image.Source

	d image.Descriptor

	mu     sync.Mutex
	fill   *fill // nil until the first read
	former *fill // the one that failed before: a read may still be using its file
	served bool  // bytes of fill were given to the reader
	closed bool
}

func (b *filling) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read blob: offset %d: %w", off, os.ErrInvalid)
	}
	file, err := b.Ready(ctx, off, len(p))
	if err != nil {
		return 0, err
	}
	n := max(0, min(int64(len(p)), b.Size()-off))
	got, err := file.ReadAt(p[:n], off)
	if errors.Is(err, io.EOF) {
		// What was there before is gone: somebody cut the file.
		return got, fmt.Errorf("read %s: %w", file.Name(), io.ErrUnexpectedEOF)
	}
	if err == nil && got < len(p) {
		err = io.EOF
	}
	return got, err
}

// Ready waits for all bytes below off+n, or for the verified end.
func (b *filling) Ready(ctx context.Context, off int64, n int) (*os.File, error) {
	end := b.Size()
	if off < end-int64(n) {
		end = off + int64(n)
	}
	return b.await(ctx, end)
}

// await waits for all bytes below end.
func (b *filling) await(ctx context.Context, end int64) (*os.File, error) {
	for {
		f, err := b.begin()
		if err != nil {
			return nil, err
		}
		file, err := f.await(ctx, end)
		if err == nil {
			b.mu.Lock()
			b.served = true
			b.mu.Unlock()
		}
		if err == nil || ctx.Err() != nil || !b.turn(f) {
			return file, err
		}
	}
}

// turn leaves a transfer that failed for one from the reader's own Source: that another place is away, or serves something
// else, is no reason to fail. It is too late for that when bytes were read.
func (b *filling) turn(failed *fill) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fill != failed {
		return true
	}
	if b.served || b.closed || failed.src == b.src {
		return false
	}
	next, err := b.c.join(b.src, failed.d)
	if err != nil {
		return false
	}
	b.former, b.fill = failed, next
	return true
}

// begin has the transfer going, if it is not.
func (b *filling) begin() (*fill, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fill != nil {
		return b.fill, nil
	}
	if b.closed {
		return nil, os.ErrClosed
	}
	f, err := b.c.join(b.src, b.d)
	b.fill = f
	return f, err
}

func (b *filling) Size() int64 { return b.d.Size }

func (b *filling) File() *os.File {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fill == nil {
		return nil
	}
	return b.fill.whole()
}

func (b *filling) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		if b.fill != nil {
			b.fill.leave()
		}
		if b.former != nil {
			b.former.leave()
		}
	}
	return nil
}

// reader reads a Blob from its start.
type reader struct {
	image.Blob
	ctx context.Context
	off int64
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadAt(r.ctx, p, r.off)
	r.off += int64(n)
	return n, err
}
