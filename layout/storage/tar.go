//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"bufio"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"go.podman.io/storage/pkg/archive"

	"github.com/regfs/regfs/image"
)

const (
	tarStep = 512 << 10 // how many bytes are decompressed at once
	tarRoom = 4         // how many of these there are at most
)

// maxWindow is the most that a zstd layer may have its reader remember, in bytes.
const maxWindow = 128 << 20

// tarReader is a layer's tar. It is decompressed and hashed beside who reads it, and ends in io.EOF only if the layer, and its tar, are
// what they should be.
type tarReader struct {
	full, empty chan []byte
	stop        chan struct{}
	stopped     sync.WaitGroup
	once        sync.Once

	err   error  // of the decompression, for when full is closed
	buf   []byte // what empty gets back when all of it was read
	rest  []byte
	whole bool
}

// unpacked is the tar of a layer in any form. It closes what it reads.
func unpacked(layer io.ReadCloser, diffID digest.Digest) *tarReader {
	t := &tarReader{full: make(chan []byte, tarRoom), empty: make(chan []byte, tarRoom), stop: make(chan struct{})}
	for range tarRoom {
		t.empty <- make([]byte, tarStep)
	}
	t.stopped.Go(func() {
		defer close(t.full)
		defer layer.Close()
		t.err = t.decompress(layer, diffID)
	})
	return t
}

// decompress fills buffers until the end, which is io.EOF if it is the right one.
func (t *tarReader) decompress(layer io.Reader, diffID digest.Digest) error {
	plain, err := decompressed(layer)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // amid the compression's header
	}
	if err != nil {
		return err
	}
	tar, err := image.Verify(plain, image.Descriptor{Digest: diffID, Size: -1})
	if err != nil {
		return err
	}
	defer tar.Close()
	for err == nil {
		err = t.fill(tar)
	}
	if err != io.EOF {
		return err
	}
	if n, err := io.Copy(io.Discard, layer); err != nil || n > 0 {
		return fmt.Errorf("%d bytes follow on its end: %w", n, orInvalid(err))
	}
	return io.EOF
}

func orInvalid(err error) error {
	if err == nil {
		return image.ErrInvalid
	}
	return err
}

// fill fills one buffer.
func (t *tarReader) fill(r io.Reader) error {
	var buf []byte
	select {
	case <-t.stop:
		return io.ErrClosedPipe
	default:
	}
	select {
	case buf = <-t.empty:
	case <-t.stop:
		return io.ErrClosedPipe
	}
	n := 0
	var err error
	for n < len(buf) && err == nil {
		var got int
		got, err = r.Read(buf[n:])
		n += got
	}
	t.full <- buf[:n]
	return err
}

// decompressed is a layer without its compression, whatever that is.
func decompressed(layer io.Reader) (io.ReadCloser, error) {
	r := bufio.NewReaderSize(layer, spoolStep)
	start, err := r.Peek(10)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch archive.DetectCompression(start) {
	case archive.Gzip:
		return gzip.NewReader(r)
	case archive.Zstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return archive.DecompressStream(r)
}

// Read implements io.Reader.
func (t *tarReader) Read(p []byte) (int, error) {
	for len(t.rest) == 0 {
		if t.buf != nil {
			t.empty <- t.buf[:cap(t.buf)]
			t.buf = nil
		}
		buf, more := <-t.full
		if !more {
			t.whole = t.err == io.EOF
			return 0, t.err
		}
		t.buf, t.rest = buf, buf
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// Close ends the decompression.
func (t *tarReader) Close() {
	t.once.Do(func() {
		close(t.stop)
		t.stopped.Wait()
	})
}

// failure is what was wrong with the layer, if anything. It closes the reader.
func (t *tarReader) failure() error {
	t.Close()
	if t.err == io.EOF || t.err == io.ErrClosedPipe {
		return nil
	}
	return t.err
}
