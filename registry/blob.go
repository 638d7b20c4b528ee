package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"

	"github.com/regfs/regfs/image"
)

// maxStops is how often a download goes on without a byte having come in between.
const maxStops = 4

// Fetch opens a blob with one GET, and goes on where it was when the connection breaks. Manifests are read whole first.
func (s *source) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	if image.IsManifest(d.MediaType) {
		return s.fetchManifest(ctx, d)
	}
	b, err := s.open(ctx, d, 0, -1)
	if err != nil {
		return nil, err
	}
	return image.Verify(b, d)
}

// FetchRange opens n bytes of a blob, and goes on where it was when the connection breaks.
func (s *source) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	switch {
	case off < 0 || n < 0 || d.Size >= 0 && n > d.Size-off:
		return nil, fmt.Errorf("get blob %s@%s: no %d bytes at %d of %d: %w", s.name(), d.Digest, n, off, d.Size, image.ErrInvalid)
	case n == 0:
		return io.NopCloser(bytes.NewReader(nil)), nil
	case image.IsManifest(d.MediaType):
		return s.manifestRange(ctx, d, off, n)
	}
	return s.open(ctx, d, off, n)
}

func (s *source) fetchManifest(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	got, raw, err := s.Manifest(ctx, d.Digest.String())
	if err != nil {
		return nil, err
	}
	if d.Size >= 0 && got.Size != d.Size {
		return nil, fmt.Errorf("get manifest %s@%s: %d bytes came instead of %d: %w", s.name(), d.Digest, got.Size, d.Size, image.ErrDigest)
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

func (s *source) manifestRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	whole, err := s.fetchManifest(ctx, d)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, whole, off); err != nil {
		return nil, fmt.Errorf("get manifest %s@%s: ends before %d: %w", s.name(), d.Digest, off, image.ErrDigest)
	}
	return io.NopCloser(io.LimitReader(whole, n)), nil
}

// body is a blob, or n bytes of one, on its way.
type body struct {
	ctx    context.Context
	source *source
	d      image.Descriptor
	what   string
	first  int64 // where it was opened
	off    int64 // where it is
	end    int64 // where it ends; -1 for wherever the content does

	resp  io.ReadCloser
	from  target
	total int64 // how long the content is, by the registry's word; -1 when it gave none
	stops int   // how often it broke since the last byte
	err   error // the last word
}

// open sends the first request of a download.
func (s *source) open(ctx context.Context, d image.Descriptor, off, n int64) (*body, error) {
	what := "get blob " + s.name() + "@" + clean(d.Digest.String())
	b := &body{ctx: ctx, source: s, d: d, what: what, first: off, off: off, end: -1, total: -1}
	if d.Digest.Validate() != nil {
		return nil, &failure{what: b.what, words: "not a digest", kinds: []error{image.ErrNotFound}}
	}
	if n >= 0 {
		b.end = off + n
	}
	if err := b.request(s.client.deadline()); err != nil {
		return nil, fail(ctx, b.what, err)
	}
	return b, nil
}

// Read reads on, through as many broken connections as it takes.
func (b *body) Read(p []byte) (int, error) {
	if b.end >= 0 {
		p = p[:min(int64(len(p)), b.end-b.off)]
		if len(p) == 0 && b.off == b.end {
			return 0, io.EOF
		}
	}
	deadline := b.source.client.deadline()
	for b.err == nil {
		n, err := b.resp.Read(p)
		if b.off += int64(n); n > 0 {
			b.stops = 0
			return n, nil
		}
		if err != nil {
			b.err = b.broken(err, deadline)
		}
	}
	return 0, b.err
}

// broken finds out whether the content ended, and otherwise goes on with it.
func (b *body) broken(err error, deadline time.Time) error {
	want := b.d.Size
	if b.end >= 0 {
		want = b.end
	}
	if err == io.EOF {
		// What is as long as the registry said is all there is, be it too little. What it said nothing of may be cut off.
		if b.off == b.total || b.off >= want && b.total < 0 {
			return b.ended(want)
		}
		err = io.ErrUnexpectedEOF
	}
	b.resp.Close()
	b.from.setDown(!b.from.primary)
	if errors.Is(err, errStalled) {
		b.from.reset()
	}
	if b.stops++; b.ctx.Err() != nil || b.stops > maxStops {
		return fail(b.ctx, b.what, err)
	}
	_ = sleep(b.ctx, time.Duration(b.stops-1)*100*time.Millisecond) // the context speaks up in the request
	switch err = b.request(deadline); {
	case err == nil:
		return nil
	case errors.Is(err, errEnd):
		return b.ended(want)
	}
	return fail(b.ctx, b.what, err)
}

// Close gives up what has not come yet.
func (b *body) Close() error {
	b.err = fs.ErrClosed
	return b.resp.Close()
}

// ended judges the end of the content. How much a blob should be, its verifier says.
func (b *body) ended(want int64) error {
	if b.end >= 0 && b.off < want {
		return fail(b.ctx, b.what, fmt.Errorf("it ends at %d, before %d: %w", b.off, want, image.ErrDigest))
	}
	return io.EOF
}

// errEnd: the content has no bytes where the reader is.
var errEnd = errors.New("the content ends there")

// request opens what is still to come.
func (b *body) request(deadline time.Time) error {
	r := request{method: http.MethodGet, path: "blobs/" + b.d.Digest.String(), span: b.span()}
	return b.source.each(b.ctx, b.d.Digest, deadline, func(t target, deadline time.Time) error {
		resp, err := t.send(b.ctx, r, deadline)
		if statusOf(err) == http.StatusRequestedRangeNotSatisfiable && b.off > b.first && b.off >= b.total {
			return errEnd
		}
		if err != nil {
			return err
		}
		return b.accept(t, resp)
	})
}

// span is the range of what is still to come, or "" for everything. It names its end, for not every registry knows open ones.
func (b *body) span() string {
	end := b.end
	if end < 0 {
		end = max(b.d.Size, b.total)
	}
	switch {
	case b.off == 0 && (b.end < 0 || b.end == b.d.Size):
		return ""
	case end < 0:
		return fmt.Sprintf("bytes=%d-", b.off)
	}
	return fmt.Sprintf("bytes=%d-%d", b.off, max(end-1, b.off))
}

// accept makes an answer the one to read from: it must start where the reader is, or can be brought there.
func (b *body) accept(t target, resp *http.Response) error {
	err := b.position(resp)
	if err != nil {
		resp.Body.Close()
		return err
	}
	b.resp, b.from = resp.Body, t
	return nil
}

func (b *body) position(resp *http.Response) error {
	if resp.StatusCode == http.StatusPartialContent {
		start, total := contentRange(resp)
		if start != b.off {
			return fmt.Errorf("asked for bytes from %d on, got them from %d on: %w", b.off, start, image.ErrInvalid)
		}
		b.total = total
		return nil
	}
	b.total = resp.ContentLength
	if b.off == 0 {
		return nil
	}
	if b.first > 0 {
		return fmt.Errorf("the registry can't start at %d: %w", b.off, image.ErrUnsupported)
	}
	_, err := io.CopyN(io.Discard, resp.Body, b.off)
	if err == io.EOF {
		return errEnd
	}
	return err
}
