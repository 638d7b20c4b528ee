package layer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/regfs/regfs/image"
)

// decoded is a span's verified content, which is made as far as it is asked for.
type decoded struct {
	mu   sync.Mutex
	buf  []byte // what came out so far, with room for all
	r    io.Reader
	done func()
	err  error
}

// newDecoded makes a span's content of its bytes in the blob, which it verifies, and of what the index kept of it, unpacked: its
// window or all of it. It fails with ErrDigest for bytes that are not the span's.
func newDecoded(s span, packed, kept []byte) (*decoded, error) {
	if !s.content && s.kind != spanKept && sha256.Sum256(packed) != s.sum {
		return nil, fmt.Errorf("span at %d has another checksum: %w", s.coff, image.ErrDigest)
	}
	c := &decoded{done: func() {}}
	switch s.kind {
	case spanRaw:
		c.buf = packed
	case spanKept:
		c.buf = kept
	default:
		if err := c.unzip(s, packed, kept); err != nil {
			return nil, err
		}
	}
	if c.r == nil && len(c.buf) != int(s.ulen) {
		return nil, fmt.Errorf("%d bytes instead of %d: %w", len(c.buf), s.ulen, errDamaged)
	}
	if s.content {
		return c, c.verify(s)
	}
	return c, nil
}

// unzip begins to decompress.
func (c *decoded) unzip(s span, packed, window []byte) error {
	c.buf = make([]byte, 0, s.ulen)
	if s.kind == spanZstd {
		dec, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err == nil {
			c.r, c.done = dec, dec.Close
		}
		return err
	}
	// The decompressor looks some bits ahead, into the next block, of which it is known that it is there.
	r := io.MultiReader(bytes.NewReader(packed), bytes.NewReader(make([]byte, lookback)))
	g := newGunzip(bufio.NewReaderSize(r, 32<<10), func() int64 { return 0 }, nil)
	if s.kind == spanResume {
		g.resume(s.bit, window)
	}
	c.r = g
	return nil
}

// verify makes all of a chunk's content, and sums it up. That nothing can be made of the bytes shows as well that they are others.
func (c *decoded) verify(s span) error {
	var err error
	if s.skip > 0 {
		_, err = io.CopyN(io.Discard, c.r, int64(s.skip))
	}
	var b []byte
	if err == nil {
		b, err = c.upTo(int(s.ulen))
	}
	if err != nil {
		c.done()
		return fmt.Errorf("chunk at %d: %v: %w", s.coff, err, image.ErrDigest)
	}
	if sha256.Sum256(b) != s.sum {
		return fmt.Errorf("chunk at %d has another digest: %w", s.coff, image.ErrDigest)
	}
	return nil
}

// upTo is the content up to an offset, which is not behind its end.
func (c *decoded) upTo(end int) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if end > len(c.buf) && c.err == nil {
		from := len(c.buf)
		n, err := io.ReadFull(c.r, c.buf[from:end])
		c.buf = c.buf[:from+n]
		if err != nil {
			c.err = fmt.Errorf("decompress: %w: %w", noEOF(err), image.ErrInvalid)
		}
		if err != nil || len(c.buf) == cap(c.buf) {
			c.done()
			c.r, c.done = nil, func() {}
		}
	}
	if end > len(c.buf) {
		return nil, c.err
	}
	return c.buf[:end], nil
}
