package layer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

var errZstd = errors.New("corrupt zstd")

// maxWindow is the largest window of a zstd frame that is decompressed, in bytes: what the zstd tool takes by default.
const maxWindow = 128 << 20

// unzstd decompresses zstd frames that follow one another (RFC 8878), and says where each begins.
type unzstd struct {
	frames frames
	mark   func(mark)
	dec    *zstd.Decoder
	open   bool // a frame is being read
	out    int64
}

func newUnzstd(br *bufio.Reader, offset func() int64, mark func(mark)) (*unzstd, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	return &unzstd{frames: frames{br: br, offset: offset}, mark: mark, dec: dec}, err
}

func (z *unzstd) Read(p []byte) (int, error) {
	for {
		if !z.open {
			if err := z.begin(); err != nil {
				return 0, err
			}
		}
		n, err := z.dec.Read(p)
		z.out += int64(n)
		if err == io.EOF {
			z.open, err = false, z.frames.ended()
		}
		if n > 0 || err != nil {
			return n, z.blame(err)
		}
	}
}

// blame is the error of what comes in, or else of what it is.
func (z *unzstd) blame(err error) error {
	if z.frames.err != nil {
		return z.frames.err
	}
	return err
}

// begin begins the next frame, or is io.EOF.
func (z *unzstd) begin() error {
	at, err := z.frames.next()
	if err != nil {
		return err
	}
	z.mark(mark{kind: spanZstd, uoff: z.out, coff: at})
	z.open = true
	return z.dec.Reset(&z.frames)
}

func (z *unzstd) close() { z.dec.Close() }

// frames reads one frame after the other, each of which ends in io.EOF: it follows their structure without decompressing.
type frames struct {
	br     *bufio.Reader
	offset func() int64
	plain  int64 // bytes of the frame to hand on without a look at them
	state  frameState
	sum    bool   // the frame ends in a checksum
	head   []byte // a header to hand on first
	err    error
}

type frameState byte

const (
	frameEnd   frameState = iota
	frameBlock            // a block's header comes next
	frameSum              // the checksum
)

func (f *frames) position() int64 { return f.offset() - int64(f.br.Buffered()) }

// next finds the header of the next frame that has content and where it is, or io.EOF.
func (f *frames) next() (at int64, err error) {
	for {
		at = f.position()
		// A header has at most 18 bytes, and a frame at least as many as the shortest header with a block.
		peek, err := f.br.Peek(zstd.HeaderMaxSize)
		if len(peek) == 0 {
			return 0, err
		}
		var h zstd.Header
		if err := h.Decode(peek); err != nil {
			return 0, fmt.Errorf("no frame at %d: %w: %w", at, err, errZstd)
		}
		if !h.Skippable {
			f.head = append(f.head[:0], peek[:h.HeaderSize]...)
			f.state, f.sum, f.plain = frameBlock, h.HasCheckSum, 0
			_, err := f.br.Discard(h.HeaderSize)
			return at, err
		}
		if err := f.skip(int64(h.HeaderSize) + int64(h.SkippableSize)); err != nil {
			return 0, err
		}
	}
}

func (f *frames) skip(n int64) error {
	_, err := io.CopyN(io.Discard, f.br, n)
	return noEOF(err)
}

// ended tells whether the frame was read to its end.
func (f *frames) ended() error {
	if f.err == nil && (f.state != frameEnd || f.plain > 0 || len(f.head) > 0) {
		return fmt.Errorf("a frame ends too early: %w", errZstd)
	}
	return f.err
}

func (f *frames) Read(p []byte) (int, error) {
	for len(f.head) == 0 && f.plain == 0 {
		if f.state == frameEnd {
			return 0, io.EOF
		}
		if err := f.advance(); err != nil {
			f.err = noEOF(err)
			return 0, f.err
		}
	}
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err := f.br.Read(p[:min(int64(len(p)), f.plain)])
	f.plain -= int64(n)
	if err != nil {
		f.err = noEOF(err)
	}
	return n, f.err
}

// advance reads the header of the next block, or goes on to the checksum.
func (f *frames) advance() error {
	if f.state == frameSum {
		f.state, f.plain = frameEnd, 4
		return nil
	}
	var b [4]byte
	if _, err := io.ReadFull(f.br, b[:3]); err != nil {
		return err
	}
	header := binary.LittleEndian.Uint32(b[:])
	f.head = append(f.head[:0], b[:3]...)
	f.plain = int64(header >> 3)
	if header>>1&3 == 1 { // a run of one byte
		f.plain = 1
	}
	if header&1 != 0 {
		f.state = frameEnd
		if f.sum {
			f.state = frameSum
		}
	}
	return nil
}
