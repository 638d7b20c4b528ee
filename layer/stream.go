package layer

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// stream is the decompressed content of a blob, read once from its start, while spans are made of it.
type stream struct {
	r     io.Reader
	spans *spanner
	off   int64
	err   error // stays: a reader that got all it wanted may not look at the error that came with it

	// raw is what was read from rawFrom on, as long as there is a limit to it.
	raw      []byte
	rawFrom  int64
	rawLimit int
}

// maxRaw is how much may be read of an archive before an entry is known, in bytes: archive/tar takes 1 MiB for each header.
const maxRaw = 8 << 20

func (s *stream) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if s.err = err; n == 0 {
		return n, err
	}
	if from := max(0, s.rawFrom-s.off); s.rawLimit > 0 && from < int64(n) {
		s.raw = append(s.raw, p[from:n]...)
		if len(s.raw) > s.rawLimit {
			return 0, fmt.Errorf("an entry's headers have more than %d bytes: %w", s.rawLimit, errTooMuch)
		}
	}
	s.off += int64(n)
	if err := s.spans.content(p[:n]); err != nil {
		return 0, err
	}
	return n, err
}

// record keeps what is read from an offset on, until it is called again.
func (s *stream) record(from int64) { s.raw, s.rawFrom, s.rawLimit = s.raw[:0], from, maxRaw }

// stop ends the recording.
func (s *stream) stop() { s.rawLimit = 0 }

// decompress finds out by its first bytes how a blob is compressed: media types are wrong too often. offset is how much of the blob went
// into br. The marks go to mark.
func decompress(br *bufio.Reader, offset func() int64, mark func(mark)) (r io.Reader, done func(), err error) {
	none := func() {}
	magic, err := br.Peek(6)
	if len(magic) == 0 && err != io.EOF {
		return nil, none, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return newGunzip(br, offset, mark), none, nil
	case isZstd(magic):
		z, err := newUnzstd(br, offset, mark)
		if err != nil {
			return nil, none, err
		}
		return z, z.close, nil
	case bytes.HasPrefix(magic, []byte("BZh")), bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return nil, none, fmt.Errorf("it is compressed with bzip2 or xz, which no layer is")
	}
	return &plain{br, offset, mark}, none, nil
}

// isZstd tells a frame of zstd, or one to be skipped, which zstd:chunked layers can begin with.
func isZstd(magic []byte) bool {
	return bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(magic) >= 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18})
}

// plain is a blob that is not compressed.
type plain struct {
	br     *bufio.Reader
	offset func() int64
	mark   func(mark)
}

func (p *plain) Read(b []byte) (int, error) {
	at := p.offset() - int64(p.br.Buffered())
	p.mark(mark{kind: spanRaw, uoff: at, coff: at})
	return p.br.Read(b)
}
