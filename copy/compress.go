package copy

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"

	"github.com/regfs/regfs/image"
)

// maxWindow is how far back a zstd layer may refer, in bytes, for that is held in memory: what zstd itself reads unless told
// otherwise (--long=27).
const maxWindow = 128 << 20

// magics are what compressed content begins with. A tar begins with a name.
var magics = []struct {
	prefix string
	open   func(io.Reader) (io.ReadCloser, error)
}{
	{"\x1f\x8b\x08", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"\x28\xb5\x2f\xfd", openZstd},
	{"\x50\x2a\x4d\x18", openZstd}, // a frame to skip, before all others
	{"BZh", func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
	{"\xfd7zXZ\x00", func(io.Reader) (io.ReadCloser, error) {
		return nil, fmt.Errorf("it is compressed with xz: %w", image.ErrUnsupported)
	}},
}

func openZstd(r io.Reader) (io.ReadCloser, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

// decompress opens a tar, whatever it is compressed with: the content says that itself, and media types have been wrong.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 256<<10)
	head, err := b.Peek(8)
	if err != nil && err != io.EOF {
		return nil, err
	}
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.prefix)) {
			tar, err := m.open(b)
			if err != nil && !errors.Is(err, image.ErrUnsupported) {
				err = fmt.Errorf("decompress: %w: %w", err, image.ErrInvalid)
			}
			return tar, err
		}
	}
	return io.NopCloser(b), nil
}

// compress opens what compresses into w. What a manifest has to say of the result is in annotations after Close.
func compress(w io.Writer, c Compression, annotations map[string]string) (io.WriteCloser, error) {
	switch c.To {
	case Gzip:
		level := pgzip.DefaultCompression
		if c.Level != nil {
			level = *c.Level
		}
		return pgzip.NewWriterLevel(w, level)
	case Zstd:
		level := zstd.SpeedDefault
		if c.Level != nil {
			level = zstd.EncoderLevelFromZstd(*c.Level)
		}
		return zstd.NewWriter(w, zstd.WithEncoderLevel(level))
	case ZstdChunked:
		return newChunkedWriter(w, c.Level, annotations, maxContents)
	}
	return nopWriteCloser{w}, nil
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

// ahead reads from r in a goroutine of its own, some buffers ahead, so that decompression and compression have a core each. Close
// ends it, and waits for it.
type ahead struct {
	cancel context.CancelFunc
	full   chan chunk
	empty  chan []byte
}

type chunk struct {
	buffer []byte
	n      int
	err    error
}

// What ahead holds, at the most.
const (
	aheadBuffers = 4
	aheadBuffer  = 512 << 10
)

func readAhead(ctx context.Context, r io.Reader) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{cancel: cancel, full: make(chan chunk, aheadBuffers+1), empty: make(chan []byte, aheadBuffers)}
	for range aheadBuffers {
		a.empty <- make([]byte, aheadBuffer)
	}
	go a.run(ctx, r)
	return a
}

func (a *ahead) run(ctx context.Context, r io.Reader) {
	defer close(a.full)
	for {
		var c chunk
		select {
		case c.buffer = <-a.empty:
		case <-ctx.Done():
			a.full <- chunk{err: ctx.Err()}
			return
		}
		for c.n < len(c.buffer) && c.err == nil {
			var n int
			n, c.err = r.Read(c.buffer[c.n:])
			c.n += n
		}
		if c.err != nil && c.err != io.EOF {
			c.err = fmt.Errorf("decompress: %w: %w", c.err, image.ErrInvalid)
		}
		a.full <- c
		if c.err != nil {
			return
		}
	}
}

// WriteTo writes all that is read to w, which io.Copy makes use of.
func (a *ahead) WriteTo(w io.Writer) (n int64, err error) {
	for c := range a.full {
		written, err := w.Write(c.buffer[:c.n])
		n += int64(written)
		if err != nil {
			return n, err
		}
		if c.err == io.EOF {
			return n, nil
		}
		if c.err != nil {
			return n, c.err
		}
		a.empty <- c.buffer
	}
	return n, io.ErrUnexpectedEOF
}

// Close ends the reading; r is left alone from then on.
func (a *ahead) Close() {
	a.cancel()
	for range a.full {
	}
}
