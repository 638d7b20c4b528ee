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
func (b *stored) Size() int64    { return b.size }
func (b *stored) File() *os.File { return b.file }
func (b *stored) Close() error   { return b.file.Close() }

// filling is a Blob on its way.
type filling struct {
	fill  *fill
	close sync.Once
}

func (b *filling) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s: offset %d: %w", b.fill.d.Digest, off, os.ErrInvalid)
	}
	end := b.Size()
	if off < end-int64(len(p)) {
		end = off + int64(len(p))
	}
	file, err := b.fill.await(ctx, end)
	if err != nil {
		return 0, err
	}
	n := max(0, min(int64(len(p)), end-off))
	got, err := file.ReadAt(p[:n], off)
	if errors.Is(err, io.EOF) {
		// What was there before is gone: somebody cut the file.
		return got, fmt.Errorf("read %s: %w", b.fill.d.Digest, io.ErrUnexpectedEOF)
	}
	if err == nil && got < len(p) {
		err = io.EOF
	}
	return got, err
}

func (b *filling) Size() int64 { return b.fill.d.Size }

func (b *filling) File() *os.File {
	b.fill.mu.Lock()
	defer b.fill.mu.Unlock()
	if !b.fill.complete {
		return nil
	}
	return b.fill.file
}

func (b *filling) Close() error {
	b.close.Do(b.fill.leave)
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
