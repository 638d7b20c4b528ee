package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/regfs/regfs/image"
)

// With a span come those behind it that are not here: as much as comes in about the time that a request takes in any case, in bytes.
// Spans can be as small as the smallest files. A reader that goes on from there gets twice as much each time, up to aheadBytes.
const (
	aheadMin   = 256 << 10
	aheadBytes = 8 << 20
	aheadSpans = 4096
	// aheadGap is how much that nobody wants may be between two of them.
	aheadGap = 64 << 10
)

// fetcher gets the spans of one blob from wherever they are: the blob, if it is here, or the spans that were fetched before, or
// the place it comes from.
type fetcher struct {
	store Store
	blobs image.Blobs
	name  string
	x     *index
	// spawn runs what goes on behind its caller.
	spawn func(func()) error

	mu sync.Mutex
	// flying are spans that are being fetched.
	flying map[int]chan struct{}
	// next is the span behind the last run, which had so many bytes and ended there.
	next     int
	got, end int64
}

// numbered is a span with its number.
type numbered struct {
	i int
	span
}

// decoded is the content of a span of a layer in src. The index kept the window.
func (f *fetcher) decoded(ctx context.Context, src image.Source, d image.Descriptor, s numbered, window []byte) (*decoded, error) {
	blob, err := f.blobs.Open(ctx, src, d)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	if blob.File() != nil {
		return readSpan(ctx, blob, s.span, window)
	}
	if err := f.claim(ctx, s.i); err != nil {
		return nil, err
	}
	defer f.land(s.i)
	spans, err := f.store.Spans(f.name)
	if err != nil {
		return nil, err
	}
	c, err := kept(spans, s.span, window), error(nil)
	if c == nil {
		c, err = f.fetch(ctx, src, d, spans, s, window)
	} else {
		spans.Close()
	}
	if errors.Is(err, image.ErrUnsupported) {
		return readSpan(ctx, blob, s.span, window)
	}
	return c, err
}

// readSpan reads a span from the blob.
func readSpan(ctx context.Context, blob image.Blob, s span, window []byte) (*decoded, error) {
	b := make([]byte, s.clen)
	if n, err := blob.ReadAt(ctx, b, s.coff); n < len(b) {
		return nil, fmt.Errorf("span at %d: %w", s.coff, noEOF(err))
	}
	return newDecoded(s, b, window)
}

// kept is a span that was fetched before, or nil.
func kept(spans *os.File, s span, window []byte) *decoded {
	b := make([]byte, s.clen)
	if _, err := spans.ReadAt(b, s.coff); err != nil {
		return nil
	}
	c, err := newDecoded(s, b, window)
	if err != nil {
		return nil
	}
	return c
}

// seemsKept tells whether something is there where a span would be: it has holes elsewhere.
func seemsKept(spans *os.File, s span) bool {
	var b [8]byte
	_, err := spans.ReadAt(b[:], s.coff)
	return err == nil && b != [8]byte{}
}

// claim takes the fetching of a span on, when nobody else is at it any more.
func (f *fetcher) claim(ctx context.Context, i int) error {
	for {
		f.mu.Lock()
		flying, ok := f.flying[i]
		if !ok {
			f.flying[i] = make(chan struct{})
		}
		f.mu.Unlock()
		if !ok {
			return nil
		}
		select {
		case <-flying:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fetcher) land(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.flying[i])
	delete(f.flying, i)
}

// ahead claims spans that are to be fetched with one, in the order of the blob, and says where the last one ends.
func (f *fetcher) ahead(spans *os.File, s numbered) (more []numbered, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	want, last := int64(aheadMin), s
	if s.i >= f.next && s.coff >= f.end && s.coff-f.end <= f.got {
		want = min(max(aheadMin, 2*f.got), aheadBytes)
	}
	end = s.coff + int64(s.clen)
	for i := s.i + 1; i < min(s.i+aheadSpans, f.x.count(secSpans, spanSize)); i++ {
		next, err := f.x.spanAt(i)
		if err != nil {
			break
		}
		if next.kind == spanKept || next.kind == spanZero {
			continue
		}
		ends := next.coff + int64(next.clen)
		if next.coff < last.coff || ends < end || ends-s.coff > want || next.coff-end > aheadGap {
			break
		}
		if f.flying[i] == nil && !seemsKept(spans, next) {
			f.flying[i] = make(chan struct{})
			last, end = numbered{i, next}, ends
			more = append(more, last)
		}
	}
	f.next, f.got, f.end = last.i+1, end-s.coff, end
	return more, end
}

// fetch gets a span, and some behind it that are kept as they come. It closes spans.
func (f *fetcher) fetch(ctx context.Context, src image.Source, d image.Descriptor, spans *os.File, s numbered, window []byte) (*decoded, error) {
	more, end := f.ahead(spans, s)
	rest := func() {
		for _, s := range more {
			f.land(s.i)
		}
		spans.Close()
	}
	r, err := src.FetchRange(ctx, d, s.coff, end-s.coff)
	if err != nil {
		rest()
		return nil, err
	}
	q := &sequence{r: r, at: s.coff}
	first, err := q.next(s.span)
	var c *decoded
	if err == nil {
		c, err = newDecoded(s.span, first, window)
	}
	if err == nil {
		// What can't be kept is fetched again.
		_, _ = spans.WriteAt(first, s.coff)
		err = f.spawn(func() {
			defer r.Close()
			f.keep(q, spans, more)
		})
	}
	if err != nil {
		r.Close()
		rest()
		return nil, err
	}
	return c, nil
}

// keep keeps spans as they come. Whoever reads them verifies them; those that do not come will be missed.
func (f *fetcher) keep(q *sequence, spans *os.File, more []numbered) {
	defer spans.Close()
	var err error
	for _, s := range more {
		var b []byte
		if err == nil {
			b, err = q.next(s.span)
		}
		if err == nil {
			_, _ = spans.WriteAt(b, s.coff)
		}
		f.land(s.i)
	}
}

// sequence reads spans in the order of the blob. Two may overlap, or have something between them.
type sequence struct {
	r    io.Reader
	at   int64
	last []byte // of the span before, to its end
}

func (q *sequence) next(s span) ([]byte, error) {
	b := make([]byte, s.clen)
	shared := 0
	if s.coff < q.at {
		shared = copy(b, q.last[int64(len(q.last))-(q.at-s.coff):])
	} else if _, err := io.CopyN(io.Discard, q.r, s.coff-q.at); err != nil {
		return nil, noEOF(err)
	}
	if _, err := io.ReadFull(q.r, b[shared:]); err != nil {
		return nil, noEOF(err)
	}
	q.last, q.at = b, s.coff+int64(s.clen)
	return b, nil
}
