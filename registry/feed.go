package registry

import (
	"context"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/regfs/regfs/image"
)

// contentError is a failure of the content that was to be sent, and none of the registry's.
type contentError struct{ error }

func (e *contentError) Unwrap() error { return e.error }

// digester hashes content that is read in order, now and then again from some byte on: each byte counts once. Content that others
// vouch for is counted only.
type digester struct {
	vouched digest.Digest // "" for content that nobody vouches for

	mu   sync.Mutex
	alg  digest.Algorithm
	hash hash.Hash
	n    int64
}

func newDigester(d image.Descriptor, c image.Content) *digester {
	if c.Verified {
		return &digester{alg: d.Digest.Algorithm(), vouched: d.Digest}
	}
	return &digester{alg: d.Digest.Algorithm()}
}

// reset forgets all there was.
func (d *digester) reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hash, d.n = d.alg.Hash(), 0
}

func (d *digester) write(off int64, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.n - off; known >= 0 && known < int64(len(p)) {
		if d.vouched == "" {
			d.hash.Write(p[known:])
		}
		d.n = off + int64(len(p))
	}
}

// sum is the digest of what was hashed, and how much that is.
func (d *digester) sum() (digest.Digest, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.vouched != "" {
		return d.vouched, d.n
	}
	return digest.NewDigest(d.alg, d.hash), d.n
}

// feed is content on its way out, read ahead of the connection by one buffer. Its reader may block: whoever waits for it does not
// have to, and none but the feed itself touches or closes it.
type feed struct {
	ctx    context.Context
	cancel context.CancelFunc
	digest *digester
	full   chan []byte // closed when the content ended
	free   chan []byte
	err    error // how it ended; set before full is closed

	held []byte // of the buffer that is being read
	left []byte // what is left of it
	off  int64  // where that begins
}

// newFeed opens content at off.
func newFeed(ctx context.Context, c image.Content, off int64, d *digester) (*feed, error) {
	f := &feed{digest: d, full: make(chan []byte), free: make(chan []byte, 2), off: off}
	f.ctx, f.cancel = context.WithCancel(ctx)
	r, err := c.Open(f.ctx, off)
	if err != nil {
		f.cancel()
		return nil, &contentError{err}
	}
	f.free <- make([]byte, bufferSize)
	f.free <- make([]byte, bufferSize)
	go f.pump(r)
	return f, nil
}

// pump reads the content until it ends or nobody wants it.
func (f *feed) pump(r io.ReadCloser) {
	defer r.Close()
	defer close(f.full)
	for f.err == nil {
		var buf []byte
		select {
		case buf = <-f.free:
		case <-f.ctx.Done():
			f.err = context.Cause(f.ctx)
			return
		}
		var n int
		n, f.err = r.Read(buf[:cap(buf)])
		if n == 0 {
			f.free <- buf
			continue
		}
		select {
		case f.full <- buf[:n]:
		case <-f.ctx.Done():
			f.err = context.Cause(f.ctx)
		}
	}
}

// Read reads on, and hashes what was not yet. It ends with the feed.
func (f *feed) Read(p []byte) (int, error) {
	if len(f.left) == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.left)
	f.digest.write(f.off, p[:n])
	f.left, f.off = f.left[n:], f.off+int64(n)
	return n, nil
}

// next waits for the next buffer.
func (f *feed) next() error {
	if f.held != nil {
		f.free <- f.held
		f.held = nil
	}
	select {
	case buf, ok := <-f.full:
		if ok {
			f.held, f.left = buf, buf
			return nil
		}
	case <-f.ctx.Done():
		return &contentError{context.Cause(f.ctx)}
	}
	if f.err == io.EOF {
		return io.EOF
	}
	return &contentError{f.err}
}

// ended makes sure that there is no more to come.
func (f *feed) ended() error {
	if len(f.left) == 0 {
		switch err := f.next(); err {
		case nil:
		case io.EOF:
			return nil
		default:
			return err
		}
	}
	return &contentError{fmt.Errorf("the content is longer than %d bytes: %w", f.off, image.ErrDigest)}
}

func (f *feed) close() { f.cancel() }
