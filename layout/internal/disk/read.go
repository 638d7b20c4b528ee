package disk

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// Open opens a regular file for reading, and tells its size. A fifo in its place does not make anybody wait: it is ErrInvalid.
func Open(name string) (*os.File, int64, error) {
	return regular(os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0))
}

// regular is an opened file, if it is one and not something else.
func regular(file *os.File, err error) (*os.File, int64, error) {
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file: %w", file.Name(), image.ErrInvalid)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// Content is what can be read at any offset: a file, or bytes at hand.
type Content interface {
	io.ReaderAt
	io.Closer
}

// Whole reads content of a size from its start, and closes it in the end. It ends with its context; it does not verify.
func Whole(ctx context.Context, c Content, size int64) io.ReadCloser {
	return &section{ctx, c, io.NewSectionReader(c, 0, size), size}
}

// Range reads n bytes at off of content of a size, and closes it in the end, or at once if that can't be: ErrInvalid. What was cut
// off since ends in io.ErrUnexpectedEOF.
func Range(ctx context.Context, c Content, size, off, n int64) (io.ReadCloser, error) {
	if off < 0 || n < 0 || n > size-off {
		c.Close()
		return nil, fmt.Errorf("no %d bytes at %d of %d: %w", n, off, size, image.ErrInvalid)
	}
	return &section{ctx, c, io.NewSectionReader(c, off, n), n}, nil
}

// section is a part of some content. It ends early only with an error.
type section struct {
	ctx context.Context
	io.Closer
	part io.Reader
	left int64
}

func (s *section) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.part.Read(p)
	if s.left -= int64(n); err == io.EOF && s.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Reader reads r until its context ends.
func Reader(ctx context.Context, r io.Reader) io.Reader { return &reader{ctx, r} }

type reader struct {
	ctx context.Context
	io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
