package layer

import "fmt"

// maxChunk is how large a chunk may be, and what is decompressed before it, in bytes: it is verified as a whole, in memory.
const maxChunk = maxSpan

// maxChunks is how many there may be, and maxWaiting how many that begin at the same place in the blob.
const (
	maxChunks  = 1 << 21
	maxWaiting = 1 << 16
)

// chunker makes spans of the chunks of a table, in its order, and puts their contents one behind the other.
type chunker struct {
	spans *section
	kind  spanKind
	limit int64 // where the last chunk ends in the blob, at the latest
	off   int64 // the end of the contents so far
	count int

	// file is the entry of the file whose chunks come, and have how much of it they are so far.
	file tocEntry
	have int64

	// waiting are chunks, all from one place on, of which it is not known where they end, and zeros between them.
	waiting []span
}

// begin takes a file's entry, with its first chunk, and says where its content begins.
func (c *chunker) begin(e *tocEntry) (data int64, err error) {
	if err := c.endFile(); err != nil {
		return 0, err
	}
	c.file, c.have = tocEntry{}, 0
	if e.Type != "reg" || e.Size == 0 {
		return c.off, nil
	}
	if e.Size < 0 || e.Size > maxContent-c.off {
		return 0, fmt.Errorf("%d bytes: %w", e.Size, errTooMuch)
	}
	c.file, data = *e, c.off
	return data, c.chunk(e)
}

// chunk takes a chunk: the file must have room for it, just behind the one before.
func (c *chunker) chunk(e *tocEntry) error {
	left := c.file.Size - c.have
	size := e.ChunkSize
	if size == 0 {
		size = left
	}
	if size <= 0 || size > left || e.ChunkOffset != c.have {
		return fmt.Errorf("%d bytes at %d of %d: %w", size, e.ChunkOffset, c.file.Size, errChunk)
	}
	if c.count++; c.count > maxChunks {
		return fmt.Errorf("more than %d chunks: %w", maxChunks, errTooMuch)
	}
	var err error
	switch e.ChunkType {
	case "":
		err = c.data(e, size)
	case tocZeros:
		err = c.zeros(e, size)
	default:
		err = fmt.Errorf("of the unknown type %.20q: %w", e.ChunkType, errChunk)
	}
	c.have += size
	c.off += size
	return err
}

// data is a chunk that is in the blob.
func (c *chunker) data(e *tocEntry, size int64) error {
	if size > maxChunk || e.InnerOffset < 0 || e.InnerOffset > maxChunk-size {
		return fmt.Errorf("%d bytes behind %d others: %w", size, e.InnerOffset, errTooMuch)
	}
	if e.Offset <= 0 || e.Offset >= c.limit {
		return fmt.Errorf("it begins at %d of %d: %w", e.Offset, c.limit, errChunk)
	}
	sum, err := e.sum(size == c.file.Size)
	if err != nil {
		return err
	}
	if err := c.place(e.Offset); err != nil {
		return err
	}
	return c.wait(span{
		kind: c.kind, content: true, uoff: c.off, ulen: uint32(size), coff: e.Offset, skip: uint32(e.InnerOffset), sum: sum,
	})
}

// zeros is a chunk that need not be read, in spans that are as long as spans can be.
func (c *chunker) zeros(e *tocEntry, size int64) error {
	if e.Offset > 0 {
		if err := c.place(e.Offset); err != nil {
			return err
		}
	}
	for off := int64(0); off < size; {
		n := min(size-off, maxSpan)
		if err := c.wait(span{kind: spanZero, uoff: c.off + off, ulen: uint32(n)}); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// place says that something else begins at an offset in the blob, where what waits must have ended.
func (c *chunker) place(off int64) error {
	if len(c.waiting) > 0 && c.waiting[0].coff != off {
		return c.flush(off)
	}
	return nil
}

// wait takes a span behind those that wait. The first of these is in the blob.
func (c *chunker) wait(s span) error {
	if s.kind == spanZero && len(c.waiting) == 0 {
		return c.write(s)
	}
	if c.waiting = append(c.waiting, s); len(c.waiting) > maxWaiting {
		return fmt.Errorf("more than %d chunks at %d: %w", maxWaiting, c.waiting[0].coff, errTooMuch)
	}
	return nil
}

func (c *chunker) write(s span) error {
	_, err := c.spans.append(s.encode())
	return err
}

// flush writes what waited, now that it is known where that ends at the latest.
func (c *chunker) flush(end int64) error {
	for _, s := range c.waiting {
		if s.kind != spanZero {
			if end <= s.coff || end > c.limit {
				return fmt.Errorf("it begins at %d, and ends at %d: %w", s.coff, end, errChunk)
			}
			if s.clen = clamp(min(end-s.coff, s.need())); s.clen > maxSpan {
				return fmt.Errorf("a chunk of %d bytes in the blob: %w", s.clen, errTooMuch)
			}
		}
		if err := c.write(s); err != nil {
			return err
		}
	}
	c.waiting = c.waiting[:0]
	return nil
}

// need is how many bytes a chunk can have in the blob, if its compressor is the worst. What is behind it there is not its own, and can
// be a lot. It is a power of two, so that chunks from the same place on have mostly the same bytes, which are fetched once.
func (s *span) need() int64 {
	n := int64(64 << 10)
	for n < 64<<10+2*(int64(s.skip)+int64(s.ulen)) {
		n *= 2
	}
	return n
}

// endFile ends a file, all of whose chunks must have come.
func (c *chunker) endFile() error {
	if c.have != c.file.Size {
		return fmt.Errorf("chunks for %d of %d bytes: %w", c.have, c.file.Size, errChunk)
	}
	if c.file.EndOffset != 0 {
		return c.flush(c.file.EndOffset)
	}
	return nil
}

// end ends the last file.
func (c *chunker) end() error {
	if err := c.endFile(); err != nil {
		return err
	}
	return c.flush(c.limit)
}
