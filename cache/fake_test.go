package cache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// place is a Host and a Source whose faults are made to order, and which counts what it is asked.
type place struct {
	mu        sync.Mutex
	blobs     map[digest.Digest][]byte
	manifests map[string]image.Descriptor // by tag
	tags      []string
	referrers []image.Descriptor
	calls     []string
	err       error                                     // what each question gets instead of an answer
	body      func(content []byte, off int64) io.Reader // what a transfer brings
	noRange   bool
}

func newPlace() *place {
	return &place{blobs: map[digest.Digest][]byte{}, manifests: map[string]image.Descriptor{}}
}

// asked counts a call, and says what is wrong with the place.
func (p *place) asked(format string, args ...any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, fmt.Sprintf(format, args...))
	return p.err
}

// take is what was asked since the last time.
func (p *place) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := p.calls
	p.calls = nil
	return calls
}

func (p *place) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *place) add(content []byte) image.Descriptor {
	d := image.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(content), Size: int64(len(content))}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blobs[d.Digest] = content
	return d
}

func (p *place) tag(tag, manifest string) image.Descriptor {
	d := p.add([]byte(manifest))
	d.MediaType = image.MediaTypeDockerManifest
	p.mu.Lock()
	defer p.mu.Unlock()
	p.manifests[tag] = d
	p.manifests[d.Digest.String()] = d
	return d
}

func (p *place) resolve(ref string) (image.Descriptor, []byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, ok := p.manifests[ref]
	if !ok {
		return d, nil, fmt.Errorf("%s: %w", ref, image.ErrNotFound)
	}
	return d, p.blobs[d.Digest], nil
}

func (p *place) Repositories(context.Context, string) iter.Seq2[string, error] {
	return failed[string](p.asked("repositories"))
}
func (p *place) Sink(context.Context, string) (image.Sink, error)     { return sinkPlace{p}, nil }
func (p *place) Source(context.Context, string) (image.Source, error) { return p, nil }
func (p *place) Close() error                                         { return nil }

func (p *place) Resolve(_ context.Context, ref string) (image.Descriptor, error) {
	if err := p.asked("resolve %s", ref); err != nil {
		return image.Descriptor{}, err
	}
	d, _, err := p.resolve(ref)
	return d, err
}

func (p *place) Manifest(_ context.Context, ref string) (image.Descriptor, []byte, error) {
	if err := p.asked("manifest %s", ref); err != nil {
		return image.Descriptor{}, nil, err
	}
	return p.resolve(ref)
}

func (p *place) content(dgst digest.Digest) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	content, ok := p.blobs[dgst]
	if !ok {
		return nil, fmt.Errorf("%s: %w", dgst, image.ErrNotFound)
	}
	return content, nil
}

func (p *place) Stat(_ context.Context, dgst digest.Digest) (image.Descriptor, error) {
	if err := p.asked("stat"); err != nil {
		return image.Descriptor{}, err
	}
	content, err := p.content(dgst)
	return image.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: int64(len(content))}, err
}

func (p *place) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	r, err := p.transfer(ctx, "fetch", d, 0, d.Size)
	if err != nil {
		return nil, err
	}
	return image.Verify(r, d)
}

func (p *place) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	if p.noRange && off > 0 {
		return nil, fmt.Errorf("range: %w", image.ErrUnsupported)
	}
	return p.transfer(ctx, fmt.Sprintf("range %d", off), d, off, n)
}

func (p *place) transfer(ctx context.Context, call string, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	if err := p.asked("%s", call); err != nil {
		return nil, err
	}
	content, err := p.content(d.Digest)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.body == nil {
		return io.NopCloser(bytes.NewReader(content[off : off+n])), nil
	}
	return io.NopCloser(&ending{ctx, p.body(content, off)}), nil
}

// ending is a reader that ends with its context, as the contract wants it.
type ending struct {
	ctx context.Context
	r   io.Reader
}

type result struct {
	n   int
	err error
}

func (e *ending) Read(p []byte) (int, error) {
	done := make(chan result, 1)
	buf := make([]byte, len(p))
	go func() {
		n, err := e.r.Read(buf)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		copy(p, buf[:r.n])
		return r.n, r.err
	case <-e.ctx.Done():
		return 0, e.ctx.Err()
	}
}

func (p *place) Tags(_ context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := p.asked("tags"); err != nil {
			yield("", err)
			return
		}
		for _, name := range p.tags {
			if name > after && !yield(name, nil) {
				return
			}
		}
	}
}

func (p *place) Referrers(context.Context, image.Descriptor, string) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		if err := p.asked("referrers"); err != nil {
			yield(image.Descriptor{}, err)
			return
		}
		for _, d := range p.referrers {
			if !yield(d, nil) {
				return
			}
		}
	}
}

// stopping brings the first n bytes of what is left and then err; with a nil err it brings nothing more and never ends.
func stopping(n int, err error) func([]byte, int64) io.Reader {
	return func(content []byte, off int64) io.Reader {
		left := content[off:]
		return io.MultiReader(bytes.NewReader(left[:min(n, len(left))]), &verdict{err})
	}
}

type verdict struct{ err error }

func (v *verdict) Read([]byte) (int, error) {
	if v.err == nil {
		select {}
	}
	return 0, v.err
}

// random is content that differs with its seed.
func random(seed uint64, n int) []byte {
	content := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(content)
	return content
}

func open(t *testing.T, o Options) *Cache {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// readAll reads a blob from its start to its end.
func readAll(ctx context.Context, b image.Blob) ([]byte, error) {
	return io.ReadAll(&reader{Blob: b, ctx: ctx})
}

// fetch opens d and reads it.
func fetch(t *testing.T, c *Cache, src image.Source, d image.Descriptor) ([]byte, error) {
	t.Helper()
	b, err := c.Open(t.Context(), src, d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return readAll(t.Context(), b)
}

func wantRead(t *testing.T, r io.ReadCloser, content []byte) {
	t.Helper()
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v; want %d bytes that are right", len(got), err, len(content))
	}
}
