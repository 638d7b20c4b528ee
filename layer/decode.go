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

// decoded is a span's content, which is made as far as it is asked for.
type decoded struct {
	mu   sync.Mutex
	buf  []byte // what came out so far, with room for all
	r    io.Reader
	done func()
	err  error
}

// newDecoded makes a span's content of its bytes in the blob, or of what the index kept of it, unpacked: its window or all of it.
// The bytes must be verified.
func newDecoded(s span, packed, kept []byte) (*decoded, error) {
	c := &decoded{done: func() {}}
	switch s.kind {
	case spanRaw:
		c.buf = packed
	case spanKept:
		c.buf = kept
	case spanGzip, spanResume:
		// The decompressor looks some bits ahead, into the next block, of which it is known that it is there.
		r := io.MultiReader(bytes.NewReader(packed), bytes.NewReader(make([]byte, lookback)))
		g := newGunzip(bufio.NewReaderSize(r, 32<<10), func() int64 { return 0 }, nil)
		if s.kind == spanResume {
			g.resume(s.bit, kept)
		}
		c.r = g
	case spanZstd:
		dec, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		c.r, c.done = dec, dec.Close
	}
	if c.r == nil && len(c.buf) != int(s.ulen) {
		return nil, fmt.Errorf("%d bytes instead of %d: %w", len(c.buf), s.ulen, errDamaged)
	}
	if c.r != nil {
		c.buf = make([]byte, 0, s.ulen)
	}
	if s.content {
		return c, c.verify(int(s.ulen), s.sum)
	}
	return c, nil
}

// verify makes all of the content, and sums it up.
func (c *decoded) verify(size int, sum checksum) error {
	b, err := c.upTo(size)
	if err != nil {
		return err
	}
	if sha256.Sum256(b) != sum {
		return fmt.Errorf("a chunk's content has another checksum: %w", image.ErrDigest)
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
