package layer

import (
	"crypto/sha256"
	"hash"
	"io"
)

// checksum is that of a span.
type checksum = [sha256.Size]byte

// inputSize is how much of a blob is read at once, in bytes.
const inputSize = 256 << 10

// lookback is how far behind the newest byte that a decompressor took a span may end: it takes a few bits more than it needs, or looks at a header.
const lookback = 64

// input reads a blob from its start, and sums up span after span of it.
type input struct {
	r     io.Reader
	chunk []byte // the last bytes that were read, of which some may be left to hash
	base  int64  // where in the blob chunk begins
	given int    // how much of chunk the reader has
	sum   hash.Hash
	next  int64 // the first byte that sum lacks
	err   error // why the blob can't be read
}

func newInput(r io.Reader) *input {
	return &input{r: r, chunk: make([]byte, 0, lookback+inputSize), sum: sha256.New()}
}

// Read reads on. Other errors than io.EOF stay in in.err, too: they are not the fault of what the blob contains.
func (in *input) Read(p []byte) (int, error) {
	if in.given == len(in.chunk) {
		if err := in.refill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.chunk[in.given:])
	in.given += n
	return n, nil
}

func (in *input) refill() error {
	drop := max(0, len(in.chunk)-lookback)
	in.hash(in.base + int64(drop))
	rest := copy(in.chunk, in.chunk[drop:])
	in.base += int64(drop)
	n, err := io.ReadAtLeast(in.r, in.chunk[rest:cap(in.chunk)], 1)
	in.chunk, in.given = in.chunk[:rest+n], rest
	if err != nil && err != io.EOF {
		in.err = err
	}
	return err
}

// toEnd reads all that is left, for nothing but the error at its end.
func (in *input) toEnd() {
	for in.err == nil {
		in.given = len(in.chunk)
		if in.refill() == io.EOF {
			return
		}
	}
}

// hash takes all before "to" into the sum.
func (in *input) hash(to int64) {
	if to > in.next {
		in.sum.Write(in.chunk[in.next-in.base : to-in.base])
		in.next = to
	}
}

// offset is how much of the blob was read.
func (in *input) offset() int64 { return in.base + int64(in.given) }

// cut ends a span at "end" and has the next one begin at "start", the same or, where they share a byte, one less.
func (in *input) cut(end, start int64) (sum checksum) {
	in.hash(end)
	in.sum.Sum(sum[:0])
	in.sum.Reset()
	in.next = start
	return sum
}
