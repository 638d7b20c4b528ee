package copy

import (
	"archive/tar"
	"fmt"
	"io"
	"sync/atomic"

	"go.podman.io/storage/pkg/chunked/compressor"

	"github.com/regfs/regfs/image"
)

// maxContents is how much memory a table of contents may take while it is made, in bytes, about: a million files.
const maxContents = 512 << 20

// What an entry of the table takes, beside its name.
const perEntry = 512

// contents counts what the table of contents takes that is made of a tar on its way: an entry for each file, and one for each chunk of
// one. Both are as many as somebody wanted who made the layer.
type contents struct {
	left, name atomic.Int64
}

var errContents = fmt.Errorf("its table of contents would take too much memory: %w", image.ErrTooLarge)

func (c *contents) take(n int64) error {
	if c.left.Add(-n) < 0 {
		return errContents
	}
	return nil
}

// chunkedWriter compresses into zstd:chunked, and keeps count.
type chunkedWriter struct {
	*contents
	packed io.WriteCloser
	pipe   *io.PipeWriter
	done   chan struct{}
}

// newChunkedWriter compresses into w. Of a table of contents that takes more than most, in bytes, Write or Close is ErrTooLarge.
func newChunkedWriter(w io.Writer, level *int, annotations map[string]string, most int64) (io.WriteCloser, error) {
	c := &contents{}
	c.left.Store(most)
	packed, err := compressor.ZstdCompressor(&chunks{w, c}, annotations, level)
	if err != nil {
		return nil, err
	}
	r, pipe := io.Pipe()
	z := &chunkedWriter{c, packed, pipe, make(chan struct{})}
	go func() {
		defer close(z.done)
		r.CloseWithError(c.count(r))
	}()
	return z, nil
}

// count reads the names. What is no tar, the compressor tells.
func (c *contents) count(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err != nil {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		size := int64(len(h.Name) + len(h.Linkname))
		for name, value := range h.PAXRecords {
			size += int64(len(name) + len(value))
		}
		c.name.Store(int64(len(h.Name)))
		if err := c.take(perEntry + 2*size); err != nil {
			return err
		}
	}
}

func (z *chunkedWriter) Write(p []byte) (int, error) {
	if _, err := z.pipe.Write(p); err != nil {
		return 0, err
	}
	n, err := z.packed.Write(p)
	if err == nil && n < len(p) {
		err = fmt.Errorf("it is no tar that has an end: %w", image.ErrInvalid)
	}
	return n, err
}

func (z *chunkedWriter) Close() error {
	z.pipe.Close()
	<-z.done
	return z.packed.Close()
}

// chunks is where the compressor writes to: once or more for each chunk.
type chunks struct {
	io.Writer
	*contents
}

func (c *chunks) Write(p []byte) (int, error) {
	if err := c.take(perEntry + c.name.Load()); err != nil {
		return 0, err
	}
	return c.Writer.Write(p)
}
