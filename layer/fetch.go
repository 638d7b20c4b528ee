package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/regfs/regfs/image"
)

// A reader that goes from span to span gets more and more of them with one request: up to aheadSpans and aheadBytes.
const (
	aheadSpans = 32
	aheadBytes = 8 << 20
)

// fetcher gets the spans of one blob from wherever they are: the blob, if it is here, or the spans that were fetched before, or
// the place it comes from.
type fetcher struct {
	store Store
	blobs image.Blobs
	name  string
	x     *index

	mu sync.Mutex
	// flying are spans that are being fetched.
	flying map[int]chan struct{}
	// next is the span behind the last that was fetched, and ahead how many that were.
	next, ahead int
}

// packed are the verified bytes of a span in the blob, of a layer in src.
func (f *fetcher) packed(ctx context.Context, src image.Source, d image.Descriptor, i int, s span) ([]byte, error) {
	blob, err := f.blobs.Open(ctx, src, d)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	if file := blob.File(); file != nil {
		return f.read(ctx, blob, s)
	}
	spans, err := f.store.Spans(f.name)
	if err != nil {
		return nil, err
	}
	defer spans.Close()
	for {
		if b := kept(spans, s); b != nil {
			return b, nil
		}
		n, wait := f.claim(i)
		if wait == nil {
			return f.fetch(ctx, src, d, blob, spans, i, n)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// read reads a span from the blob.
func (f *fetcher) read(ctx context.Context, blob image.Blob, s span) ([]byte, error) {
	b := make([]byte, s.clen)
	if n, err := blob.ReadAt(ctx, b, s.coff); n < len(b) {
		return nil, fmt.Errorf("span at %d: %w", s.coff, noEOF(err))
	}
	return b, s.check(b)
}

// check verifies the bytes of a span.
func (s *span) check(b []byte) error {
	if s.content {
		_, err := newDecoded(*s, b, nil)
		return err
	}
	if sha256.Sum256(b) != s.sum {
		return fmt.Errorf("span at %d has another checksum: %w", s.coff, image.ErrDigest)
	}
	return nil
}

// kept is a span that was fetched before, or nil.
func kept(spans *os.File, s span) []byte {
	b := make([]byte, s.clen)
	if _, err := spans.ReadAt(b, s.coff); err != nil || s.check(b) != nil {
		return nil
	}
	return b
}

// claim takes the fetching of a span, and of some behind it, on, or says what to wait for if somebody is at it.
func (f *fetcher) claim(i int) (n int, wait <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if flying, ok := f.flying[i]; ok {
		return 0, flying
	}
	n = 1
	if i == f.next {
		n = min(2*f.ahead, aheadSpans)
	}
	landed := make(chan struct{})
	for n = min(n, f.x.count(secSpans, spanSize)-i); n > 1 && f.isFlying(i, n); n-- {
	}
	for k := range n {
		f.flying[i+k] = landed
	}
	f.next, f.ahead = i+n, n
	return n, nil
}

func (f *fetcher) isFlying(i, n int) bool {
	for k := range n {
		if f.flying[i+k] != nil {
			return true
		}
	}
	return false
}

func (f *fetcher) land(i, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.flying[i])
	for k := range n {
		delete(f.flying, i+k)
	}
}

// fetch gets n spans from i on, keeps them, and returns the first. Spans that are not the blob's, and those that are too far away,
// end them early.
func (f *fetcher) fetch(ctx context.Context, src image.Source, d image.Descriptor, blob image.Blob, spans *os.File, i, n int) ([]byte, error) {
	defer f.land(i, n)
	var all []span
	for k := range n {
		s, err := f.x.spanAt(i + k)
		if err != nil {
			return nil, err
		}
		if k > 0 && (s.kind == spanKept || s.coff+int64(s.clen)-all[0].coff > aheadBytes) {
			break
		}
		all = append(all, s)
	}
	last := all[len(all)-1]
	r, err := src.FetchRange(ctx, d, all[0].coff, last.coff+int64(last.clen)-all[0].coff)
	if errors.Is(err, image.ErrUnsupported) {
		return f.read(ctx, blob, all[0])
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return keepAll(r, spans, all)
}

// keepAll reads spans in their order, verifies and keeps them. Two may share a byte, or have something between them.
func keepAll(r io.Reader, spans *os.File, all []span) (first []byte, err error) {
	at := all[0].coff
	var b []byte
	for k, s := range all {
		next := make([]byte, s.clen)
		shared := copy(next, b[len(b)-int(min(int64(len(b)), max(0, at-s.coff))):])
		_, err := io.CopyN(io.Discard, r, max(0, s.coff-at))
		if err == nil {
			_, err = io.ReadFull(r, next[shared:])
		}
		if err == nil {
			err = s.check(next)
		}
		if err != nil && k > 0 {
			return first, nil // whoever wants it will see
		}
		if err != nil {
			return nil, noEOF(err)
		}
		// What can't be kept is fetched again.
		_, _ = spans.WriteAt(next, s.coff)
		if b, at = next, s.coff+int64(s.clen); k == 0 {
			first = b
		}
	}
	return first, nil
}
