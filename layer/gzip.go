package layer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"
)

var errGzip = errors.New("corrupt gzip")

// gunzip decompresses gzip members that follow one another (RFC 1952), and says where it could begin anew.
type gunzip struct {
	br *bufio.Reader
	// offset is how much of the blob went into br.
	offset func() int64
	// mark is told of places to begin, if it is not nil.
	mark func(m mark)

	member io.Reader // the deflate stream of a member that is being read
	spare  io.Reader // that of an earlier one, to be used again
	first  bool      // there was none yet
	out    int64     // bytes that came out
	crc    uint32    // of the member, if its start was read
	size   uint32
	begun  bool
}

func newGunzip(br *bufio.Reader, offset func() int64, mark func(mark)) *gunzip {
	return &gunzip{br: br, offset: offset, mark: mark, first: true}
}

// resume begins inside a member: at a bit of the next byte, after the content in window.
func (g *gunzip) resume(bit uint8, window []byte) {
	g.first = false
	g.member = flate.NewReaderOpts(g.br, flate.WithResumeFrom(flate.InflateCheckpoint{BitOffset: bit, Window: window}))
}

func (g *gunzip) Read(p []byte) (int, error) {
	for {
		if g.member == nil {
			if err := g.header(); err != nil {
				return 0, err
			}
		}
		n, err := g.member.Read(p)
		g.crc, g.size, g.out = crc32.Update(g.crc, crc32.IEEETable, p[:n]), g.size+uint32(n), g.out+int64(n)
		if err == io.EOF {
			err = g.trailer()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// position is the first byte of the blob that was not used.
func (g *gunzip) position() int64 { return g.offset() - int64(g.br.Buffered()) }

// header begins the next member, if there is one. What pads a file up with zeros is none.
func (g *gunzip) header() error {
	at := g.position()
	magic, err := g.br.ReadByte()
	if err == io.EOF && !g.first {
		return io.EOF
	}
	if magic == 0 && err == nil && !g.first {
		return g.padding()
	}
	var h [9]byte
	if err == nil {
		_, err = io.ReadFull(g.br, h[:])
	}
	if err != nil {
		return noEOF(err)
	}
	// The bits of RFC 1952 that are reserved mean nothing to Go's gzip, by which others unpack layers.
	if magic != 0x1f || h[0] != 0x8b || h[1] != 8 {
		return fmt.Errorf("no gzip header at %d: %w", at, errGzip)
	}
	if err := g.fields(h[2]); err != nil {
		return noEOF(err)
	}
	if g.mark != nil {
		g.mark(mark{kind: spanGzip, uoff: g.out, coff: at})
	}
	if err := g.deflate(); err != nil {
		return err
	}
	g.first, g.begun, g.crc, g.size = false, true, 0, 0
	return nil
}

// deflate begins a member's deflate stream. A decompressor that is used again tells no checkpoints.
func (g *gunzip) deflate() error {
	if again, ok := g.spare.(flate.Resetter); ok && g.mark == nil {
		g.member, g.spare = g.spare, nil
		return again.Reset(g.br, nil)
	}
	g.member = flate.NewReaderOpts(g.br, g.checkpoints()...)
	return nil
}

func (g *gunzip) padding() error {
	for {
		b, err := g.br.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return fmt.Errorf("more than zeros behind the end: %w", errGzip)
		}
	}
}

// fields skips the optional parts of a header.
func (g *gunzip) fields(flags byte) error {
	const hasCRC, hasExtra, hasName, hasComment = 2, 4, 8, 16
	if flags&hasExtra != 0 {
		var n [2]byte
		if _, err := io.ReadFull(g.br, n[:]); err != nil {
			return err
		}
		if _, err := g.br.Discard(int(binary.LittleEndian.Uint16(n[:]))); err != nil {
			return err
		}
	}
	for _, flag := range []byte{hasName, hasComment} {
		if flags&flag == 0 {
			continue
		}
		for {
			if b, err := g.br.ReadByte(); err != nil || b == 0 {
				if err != nil {
					return err
				}
				break
			}
		}
	}
	if flags&hasCRC != 0 {
		_, err := g.br.Discard(2)
		return err
	}
	return nil
}

// trailer checks the end of a member.
func (g *gunzip) trailer() error {
	g.member, g.spare = nil, g.member
	var t [8]byte
	if _, err := io.ReadFull(g.br, t[:]); err != nil {
		return noEOF(err)
	}
	if g.begun && (binary.LittleEndian.Uint32(t[:]) != g.crc || binary.LittleEndian.Uint32(t[4:]) != g.size) {
		return fmt.Errorf("a member's checksum or size is wrong: %w", errGzip)
	}
	return nil
}

// checkpoints has the decompressor tell where each block of a member ends.
//
// The compressed offsets it tells are too large after a stored block that began with whole bytes left in the bit buffer: these
// are counted twice (klauspost/compress v1.20.3). By how much shows when a block ends behind what was read, as every
// stored one does, whose end is no bits ahead.
func (g *gunzip) checkpoints() []flate.ReaderOpt {
	if g.mark == nil {
		return nil
	}
	base, out, drift := g.position(), g.out, int64(0)
	return []flate.ReaderOpt{flate.WithEobCallback(func(c flate.InflateCheckpoint) {
		end := c.CompressedOffset
		if c.BitOffset > 0 {
			end++
		}
		drift = max(drift, end-(g.position()-base))
		if !c.Final {
			g.mark(mark{
				kind: spanResume, uoff: out + c.UncompressedOffset, coff: base + c.CompressedOffset - drift, bit: c.BitOffset, window: c.Window,
			})
		}
	})}
}
