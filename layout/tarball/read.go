package tarball

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// maxWindow is how much of a zstd stream is remembered, at most, in bytes: what the zstd program can be told to need.
const maxWindow = 128 << 20

// compressions are told by how they begin. Those without an opener are no layer's.
var compressions = []struct {
	name, magic, mediaType string
	open                   func(io.Reader) (io.ReadCloser, error)
}{
	{"gzip", "\x1f\x8b\x08", v1.MediaTypeImageLayerGzip, func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"zstd", "\x28\xb5\x2f\xfd", v1.MediaTypeImageLayerZstd, openZstd},
	{"bzip2", "BZh", "", nil},
	{"xz", "\xfd7zXZ\x00", "", nil},
}

func openZstd(r io.Reader) (io.ReadCloser, error) {
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return dec.IOReadCloser(), nil
}

// readArchive reads an archive once, to its end, and tells what it is as a layer: as it comes, and the digest of the tar in it. What
// is no whole tar is ErrInvalid, what is compressed as no layer can be ErrUnsupported.
func readArchive(r io.Reader) (image.Descriptor, digest.Digest, error) {
	blob, plain := digest.Canonical.Digester(), digest.Canonical.Digester()
	counted := &counter{r: io.TeeReader(r, blob.Hash())}
	buffered := bufio.NewReaderSize(counted, 64<<10)
	mediaType, content, err := decompress(buffered)
	if err != nil {
		return image.Descriptor{}, "", err
	}
	defer content.Close()
	if err := readTar(io.TeeReader(content, plain.Hash())); err != nil {
		return image.Descriptor{}, "", counted.blame(err)
	}
	if _, err := io.Copy(io.Discard, buffered); err != nil {
		return image.Descriptor{}, "", err
	}
	return image.Descriptor{MediaType: mediaType, Digest: blob.Digest(), Size: counted.n}, plain.Digest(), nil
}

// decompress decompresses an archive, and tells what a layer of such content is.
func decompress(r *bufio.Reader) (mediaType string, content io.ReadCloser, err error) {
	first, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return "", nil, err
	}
	for _, c := range compressions {
		if !bytes.HasPrefix(first, []byte(c.magic)) {
			continue
		}
		if c.open == nil {
			return "", nil, fmt.Errorf("it is compressed with %s, as no layer can be: decompress it first (%s -d): %w",
				c.name, c.name, image.ErrUnsupported)
		}
		content, err := c.open(r)
		if err != nil {
			err = fmt.Errorf("%s: %w: %w", c.name, err, image.ErrInvalid)
		}
		return c.mediaType, content, err
	}
	return v1.MediaTypeImageLayer, io.NopCloser(r), nil
}

// readTar reads a tar to its end, and on to the end of what it is in.
func readTar(r io.Reader) error {
	for t := tar.NewReader(r); ; {
		_, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// counter counts what was read, and remembers why it could not be.
type counter struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// blame tells what an error of reading the tar comes from: the file, or what is in it.
func (c *counter) blame(err error) error {
	if c.err != nil {
		return c.err
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it is cut short, or no tar archive: %w", image.ErrInvalid)
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("it is no tar archive, or damaged: %w", image.ErrInvalid)
	}
	return fmt.Errorf("it is no whole tar archive: %w: %w", err, image.ErrInvalid)
}
