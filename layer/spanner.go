package layer

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"
)

// spacing is how much a span has at least, in bytes, compressed or not. More of them make the index larger, fewer of them
// make a read of a few bytes slower: at 1 MiB, about 2 ms and three to five percent of the blob (docs/BENCHMARKS.md).
const spacing = 1 << 20

// A span of more than keepFrom bytes is not decompressed from its start for a few of them: what comes out is kept, in pieces of
// keepSize.
const (
	keepFrom = 4 << 20
	keepSize = 1 << 20
)

// maxFetch is how long the compressed form of a span may be, in bytes; of a longer one, which is mostly nothing, the content is kept.
const maxFetch = 8 << 20

// maxSpan is more than any span has, in bytes, compressed or not.
const maxSpan = 64 << 20

// What an index keeps of a blob may have keepRatio times its bytes, and keepFree: a blob can be made so that a few bytes of it ask for
// many to be kept.
const (
	keepRatio = 4
	keepFree  = 16 << 20
)

// maxContent is the most that a layer may expand to, in bytes.
const maxContent = 1 << 40

// spanKind is how a span's content is made.
type spanKind byte

const (
	spanRaw    spanKind = iota // it is the blob's
	spanGzip                   // from where a gzip member begins
	spanResume                 // from inside a gzip member
	spanZstd                   // from where a zstd frame begins
	spanKept                   // it is in the index
	spanZero                   // it is zeros
)

// mark is a place where a span can begin.
type mark struct {
	kind spanKind
	bit  uint8 // which bit of the byte at coff is the first
	uoff int64 // where its content begins in the decompressed stream
	coff int64 // where it begins in the blob
	// window is what came out before it, for spanResume; valid only while the mark is told.
	window []byte
}

// span is a part of the decompressed stream that can be made alone.
type span struct {
	kind spanKind
	bit  uint8
	// content tells that sum is that of the content, not of the blob's bytes.
	content bool
	uoff    int64
	ulen    uint32
	coff    int64
	clen    uint32
	// ref is what the index keeps for it: the window, or the content, compressed.
	ref    int64
	refLen uint32
	// skip is how much comes out before the content.
	skip uint32
	sum  checksum
}

// spanSize is how long a span is in an index.
const spanSize = 8 + 8 + 8 + 4*5 + len(checksum{})

func (s *span) encode() []byte {
	b := make([]byte, 0, spanSize)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.uoff))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.coff))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.ref))
	b = binary.LittleEndian.AppendUint32(b, s.ulen)
	b = binary.LittleEndian.AppendUint32(b, s.clen)
	b = binary.LittleEndian.AppendUint32(b, s.refLen)
	flags := uint32(s.kind) | uint32(s.bit)<<8
	if s.content {
		flags |= 1 << 16
	}
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = binary.LittleEndian.AppendUint32(b, s.skip)
	return append(b, s.sum[:]...)
}

func decodeSpan(b []byte) (s span) {
	s.uoff = int64(binary.LittleEndian.Uint64(b))
	s.coff = int64(binary.LittleEndian.Uint64(b[8:]))
	s.ref = int64(binary.LittleEndian.Uint64(b[16:]))
	s.ulen = binary.LittleEndian.Uint32(b[24:])
	s.clen = binary.LittleEndian.Uint32(b[28:])
	s.refLen = binary.LittleEndian.Uint32(b[32:])
	flags := binary.LittleEndian.Uint32(b[36:])
	s.kind, s.bit, s.content = spanKind(flags), uint8(flags>>8), flags>>16 != 0
	s.skip = binary.LittleEndian.Uint32(b[40:])
	copy(s.sum[:], b[44:])
	return s
}

// spanner cuts a blob into spans while it is decompressed.
type spanner struct {
	in    *input
	spans *section
	data  *section // windows, and content that is kept
	zip   *zstd.Encoder

	// open are the spans whose content has not all come out. All but the last are complete but for that.
	open []span
	// held is the content of the first of them, as far as it came out and is not kept.
	held    []byte
	heldOff int64 // where that begins in the stream
	keeping bool  // the first one's content is kept
	err     error
}

func newSpanner(in *input, spans, data *section) (*spanner, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithLowerEncoderMem(true))
	return &spanner{in: in, spans: spans, data: data, zip: zip}, err
}

// mark is told by a decompressor where a span could begin.
func (s *spanner) mark(m mark) {
	if len(s.open) == 0 {
		s.in.cut(m.coff, m.coff) // there may be something before it
		s.begin(m)
		return
	}
	last := &s.open[len(s.open)-1]
	grown := m.coff - last.coff
	if m.uoff == last.uoff {
		if grown >= spacing { // nothing came of it: there is no need to begin so early
			s.in.cut(m.end(), m.coff)
			s.open = s.open[:len(s.open)-1]
			s.begin(m)
		}
		return
	}
	if m.uoff-last.uoff < spacing && grown < spacing {
		return
	}
	s.complete(last, m.uoff, m.end(), m.coff)
	s.begin(m)
}

// end is the first byte behind what is before the mark.
func (m *mark) end() int64 {
	if m.bit > 0 {
		return m.coff + 1
	}
	return m.coff
}

func (s *spanner) complete(last *span, uoff, end, next int64) {
	last.sum = s.in.cut(end, next)
	last.ulen, last.clen = clamp(uoff-last.uoff), clamp(end-last.coff)
}

// clamp makes a length fit in a span. One that does not is kept, and needs none.
func clamp(n int64) uint32 { return uint32(min(n, math.MaxUint32)) }

// begin begins a span.
func (s *spanner) begin(m mark) {
	begun := span{kind: m.kind, bit: m.bit, uoff: m.uoff, coff: m.coff}
	if m.kind == spanResume {
		begun.ref, begun.refLen = s.store(m.window)
	}
	s.open = append(s.open, begun)
}

// store keeps bytes in the index, compressed.
func (s *spanner) store(b []byte) (int64, uint32) {
	packed := s.zip.EncodeAll(b, nil)
	off, err := s.data.append(packed)
	if err == nil && s.data.size > keepFree+keepRatio*s.in.offset() {
		err = fmt.Errorf("of %d bytes %d are to be kept: %w", s.in.offset(), s.data.size, errTooMuch)
	}
	if s.err == nil {
		s.err = err
	}
	return off, uint32(len(packed))
}

// content takes what came out next.
func (s *spanner) content(p []byte) error {
	s.held = append(s.held, p...)
	out := s.heldOff + int64(len(s.held))
	if out > maxContent {
		return fmt.Errorf("it expands to more than %d bytes: %w", int64(maxContent), errTooMuch)
	}
	for len(s.open) > 1 && s.open[1].uoff <= out {
		s.close(s.open[1].uoff)
	}
	if len(s.held) > keepFrom {
		s.keeping = true
	}
	for s.keeping && len(s.held) >= keepSize {
		s.keep(keepSize)
	}
	return s.err
}

// close ends the first span at uoff, where its content ends.
func (s *spanner) close(uoff int64) {
	if s.keeping || s.open[0].clen > maxFetch {
		for s.heldOff < uoff {
			s.keep(int(min(keepSize, uoff-s.heldOff)))
		}
	} else if s.open[0].ulen > 0 {
		s.write(s.open[0])
	}
	s.release(int(uoff - s.heldOff))
	s.open, s.keeping = s.open[1:], false
}

func (s *spanner) write(sp span) {
	if _, err := s.spans.append(sp.encode()); s.err == nil {
		s.err = err
	}
}

// keep makes a span of the first n bytes that are held.
func (s *spanner) keep(n int) {
	kept := span{kind: spanKept, uoff: s.heldOff, ulen: uint32(n)}
	kept.ref, kept.refLen = s.store(s.held[:n])
	s.write(kept)
	s.release(n)
}

func (s *spanner) release(n int) {
	s.held = append(s.held[:0], s.held[n:]...)
	s.heldOff += int64(n)
}

// finish ends the last span. All of the blob was read, and all content came out.
func (s *spanner) finish() error {
	if len(s.open) > 0 {
		uoff, coff := s.heldOff+int64(len(s.held)), s.in.offset()
		s.complete(&s.open[len(s.open)-1], uoff, coff, coff)
		for len(s.open) > 0 {
			end := uoff
			if len(s.open) > 1 {
				end = s.open[1].uoff
			}
			s.close(end)
		}
	}
	return s.err
}
