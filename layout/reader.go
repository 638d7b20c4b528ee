package layout

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// keepOpen is how many blobs an archive nobody is reading holds open.
const keepOpen = 4

// Open is the archive to be read at any offset, with content from src through blobs, which must outlive it. A blob is opened
// when a read reaches it, and a few stay open for the next read. The last byte of a blob comes only after the whole blob was
// verified; the end of the archive says nothing about members that were not read. There is no File.
func (t *Tar) Open(src image.Source, blobs image.Blobs) image.Blob {
	return &reader{tar: t, src: src, blobs: blobs}
}

// reader is a Tar with a place its content comes from.
type reader struct {
	tar   *Tar
	src   image.Source
	blobs image.Blobs

	mu     sync.Mutex
	idle   []handle // the one used last stands last
	closed bool
}

// handle is an open blob. While somebody reads from it it is his alone, so that nobody waits for another's request.
type handle struct {
	digest digest.Digest
	image.Blob
}

func (r *reader) Size() int64 { return r.tar.size }

// Ready has no file: the tar is nowhere.
func (r *reader) Ready(context.Context, int64, int) (*os.File, error) { return nil, nil }

func (r *reader) File() *os.File { return nil }

func (r *reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at offset %d: %w", off, image.ErrInvalid)
	}
	n := 0
	for n < len(p) {
		if off+int64(n) >= r.tar.size {
			return n, io.EOF
		}
		k, err := r.readSome(ctx, p[n:], off+int64(n))
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readSome reads at least a byte of what is at off, and no further than one header, content or run of zeros goes.
func (r *reader) readSome(ctx context.Context, p []byte, off int64) (int, error) {
	m := r.tar.at(off)
	if m == nil {
		return zero(p, r.tar.size-off), nil
	}
	off -= m.off
	switch {
	case off < m.content:
		return copy(p, m.header()[off:]), nil
	case off >= m.content+m.Size():
		return zero(p, m.length()-off), nil
	case m.Blob == nil:
		return copy(p, m.Data[off-m.content:]), nil
	}
	p = p[:min(int64(len(p)), m.content+m.Size()-off)]
	n, err := r.readBlob(ctx, *m.Blob, p, off-m.content)
	if err != nil {
		err = fmt.Errorf("%s: %w", m.Name, err)
	}
	return n, err
}

// zero fills p with up to n zeros.
func zero(p []byte, n int64) int {
	p = p[:min(int64(len(p)), n)]
	clear(p)
	return len(p)
}

// readBlob fills p, all of it or with an error.
func (r *reader) readBlob(ctx context.Context, d image.Descriptor, p []byte, off int64) (int, error) {
	h, err := r.take(ctx, d)
	if err != nil {
		return 0, err
	}
	defer r.putBack(h)
	n, err := h.ReadAt(ctx, p, off)
	switch {
	case n == len(p) && err == io.EOF:
		return n, nil
	case n < len(p) && (err == nil || err == io.EOF):
		return n, fmt.Errorf("%s ends before byte %d: %w", d.Digest, off+int64(len(p)), image.ErrDigest)
	}
	return n, err
}

// take is an open blob for the caller alone: one that lay idle, or a new one.
func (r *reader) take(ctx context.Context, d image.Descriptor) (handle, error) {
	r.mu.Lock()
	for i, h := range r.idle {
		if h.digest == d.Digest {
			r.idle = slices.Delete(r.idle, i, i+1)
			r.mu.Unlock()
			return h, nil
		}
	}
	r.mu.Unlock()
	b, err := r.blobs.Open(ctx, r.src, d)
	return handle{d.Digest, b}, err
}

// putBack leaves h to the next reader, in the place of the one that was idle longest. What closing a blob says is of no use to
// a reader: its content was verified.
func (r *reader) putBack(h handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idle = append(r.idle, h)
	if r.closed || len(r.idle) > keepOpen {
		r.idle[0].Close()
		r.idle = slices.Delete(r.idle, 0, 1)
	}
}

// Close closes the blobs. Reads under way end as if it had not been called, and close theirs.
func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	for _, h := range r.idle {
		if e := h.Close(); err == nil {
			err = e
		}
	}
	r.idle, r.closed = nil, true
	return err
}
