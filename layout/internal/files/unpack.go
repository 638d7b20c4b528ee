package files

import (
	"bufio"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/regfs/regfs/image"
)

// magics are what compressed content begins with.
var magics = map[string]string{"\x1f\x8b\x08": "gzip", "\x28\xb5\x2f\xfd": "zstd", "BZh": "bzip2", "\xfd7zXZ\x00": "xz"}

// maxWindow is how much of what came before a zstd frame may refer to, in bytes, as zstd itself has it.
const maxWindow = 128 << 20

// Packed tells by its beginning how content is compressed, "" if it is not, as docker and podman do.
func Packed(r io.ReaderAt) (string, error) {
	var head [6]byte
	n, err := r.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return "", err
	}
	for magic, name := range magics {
		if strings.HasPrefix(string(head[:n]), magic) {
			return name, nil
		}
	}
	return "", nil
}

// Unpack is content without its compression, which Packed tells. ErrUnsupported where that is none we know; a reader of content
// that is damaged ends in ErrInvalid.
func Unpack(r io.Reader, packed string) (io.ReadCloser, error) {
	w := &watched{Reader: r}
	u := &unpacking{from: w, close: func() {}}
	var err error
	switch packed {
	case "":
		return io.NopCloser(r), nil
	case "gzip":
		u.Reader, err = gzip.NewReader(bufio.NewReaderSize(w, 256<<10))
	case "zstd":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(w, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			u.Reader, u.close = z, z.Close
		}
	case "bzip2":
		u.Reader = bzip2.NewReader(w)
	default:
		err = fmt.Errorf("compressed with %s, which regfs can't read: unpack it first: %w", packed, image.ErrUnsupported)
	}
	if err != nil {
		return nil, u.failed(err)
	}
	return u, nil
}

// unpacking is a decompressor.
type unpacking struct {
	io.Reader
	from  *watched
	close func()
}

func (u *unpacking) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = u.failed(err)
	}
	return n, err
}

// failed tells content that is damaged from content that could not be read.
func (u *unpacking) failed(err error) error {
	switch {
	case u.from.err != nil:
		return u.from.err
	case errors.Is(err, image.ErrUnsupported):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it is cut short: %w", image.ErrInvalid)
	}
	return fmt.Errorf("its compression is damaged: %v: %w", err, image.ErrInvalid)
}

func (u *unpacking) Close() error {
	u.close()
	return nil
}

// watched remembers what was wrong with what it reads.
type watched struct {
	io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// reader ends with its context.
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

// spoolDir is where large files go that are nobody's: /tmp is in memory on many systems.
func spoolDir() string {
	if dir := os.Getenv("TMPDIR"); dir != "" {
		return dir
	}
	if info, err := os.Stat("/var/tmp"); err == nil && info.IsDir() {
		return "/var/tmp"
	}
	return os.TempDir()
}

// nameless makes a file that goes with its closing.
func nameless(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
