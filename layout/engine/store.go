package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// How long a blob is kept that nobody used: one that an image is still to be made of, and one that is part of an image already and
// saves who puts another one a transfer.
const (
	keepPushed = 24 * time.Hour
	keepLoaded = 10 * time.Minute
)

// store keeps the blobs that were pushed until there is an image made of them.
type store struct {
	dir string

	mu     sync.Mutex
	blobs  map[digest.Digest]*blob
	closed bool
}

// blob is content in a file, verified.
type blob struct {
	file    *os.File
	size    int64
	users   int
	used    time.Time
	pending int  // how often it was pushed for an image that is not there yet
	loose   bool // nobody but its user knows of it
}

// stale tells whether it has been kept for long enough.
func (b *blob) stale() bool {
	keep := keepPushed
	if b.pending == 0 {
		keep = keepLoaded
	}
	return b.users == 0 && time.Since(b.used) > keep
}

func newStore(dir string) *store { return &store{dir: dir, blobs: map[digest.Digest]*blob{}} }

// take is the blob of a digest, if it is here and of that size. -1 is for any. A release has to follow.
func (s *store) take(dgst digest.Digest, size int64) (*blob, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blobs[dgst]
	if b == nil || size >= 0 && b.size != size {
		return nil, false
	}
	b.users++
	b.used = time.Now()
	return b, true
}

// expect tells whether the blob d is here, and keeps it for an image that is to come.
func (s *store) expect(d image.Descriptor) bool {
	b, ok := s.take(d.Digest, d.Size)
	if ok {
		defer s.release(b)
		s.mu.Lock()
		defer s.mu.Unlock()
		b.pending++
	}
	return ok
}

// settle takes note of an image that came to be, and gives up what nobody wants any more.
func (s *store) settle(parts []image.Descriptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[digest.Digest]bool{}
	for _, d := range parts {
		if b := s.blobs[d.Digest]; b != nil && !seen[d.Digest] {
			b.pending = max(b.pending-1, 0)
		}
		seen[d.Digest] = true
	}
	s.sweep()
}

func (s *store) sweep() {
	for dgst, b := range s.blobs {
		if b.stale() {
			b.file.Close()
			delete(s.blobs, dgst)
		}
	}
}

func (s *store) release(b *blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.users--
	if (s.closed || b.loose) && b.users == 0 {
		b.file.Close()
	}
}

// put keeps what r reads, if it is what d says.
func (s *store) put(ctx context.Context, d image.Descriptor, content image.Content) error {
	r, err := content.Open(ctx, 0)
	if err != nil {
		return err
	}
	v, err := image.Verify(r, d)
	if err != nil {
		return err
	}
	defer v.Close()
	file, size, err := s.fill(ctx, v, content.Sent)
	if err != nil {
		return err
	}
	return s.add(d.Digest, &blob{file: file, size: size, used: time.Now(), pending: 1})
}

// fill writes what r reads into a new file.
func (s *store) fill(ctx context.Context, r io.Reader, sent func(int64)) (*os.File, int64, error) {
	file, err := temp(s.dir)
	if err != nil {
		return nil, 0, err
	}
	var w io.Writer = file
	if sent != nil {
		w = &counter{Writer: file, tell: sent}
	}
	size, err := io.CopyBuffer(struct{ io.Writer }{w}, &reader{ctx, r}, make([]byte, 256<<10))
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, size, nil
}

// counter tells how many bytes were written.
type counter struct {
	io.Writer
	n    int64
	tell func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	c.tell(c.n)
	return n, err
}

// add takes a blob in, unless somebody was faster. Those that nobody wants any more go.
func (s *store) add(dgst digest.Digest, b *blob) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		b.file.Close()
		return fmt.Errorf("it was closed: %w", context.Canceled)
	}
	s.sweep()
	if other := s.blobs[dgst]; other != nil {
		other.pending++
		b.file.Close()
		return nil
	}
	s.blobs[dgst] = b
	return nil
}

// close gives up all that nobody uses now, and what is used when that ends.
func (s *store) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, b := range s.blobs {
		if b.users == 0 {
			b.file.Close()
		}
	}
	clear(s.blobs)
}

// open reads the blob from its start.
func (b *blob) open() io.Reader { return io.NewSectionReader(b.file, 0, b.size) }
