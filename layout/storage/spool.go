//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// spoolStep is how much is written at once, in bytes.
const spoolStep = 256 << 10

// errAbandoned ends the writing of what nobody reads any more.
var errAbandoned = errors.New("nobody reads it any more")

// spool is a temporary file that one writes and others read at the same time. It has no name, so that nothing is left of it when the
// process ends. Whoever made it, and each reader, holds it; it is gone when nobody does.
type spool struct {
	file *os.File

	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, when n or err change
	n       int64
	err     error // io.EOF when it is whole
	holders int
}

// newSpool makes one on the store's own disk, in the folder where podman keeps what is on its way.
func (s *Store) newSpool() (*spool, error) {
	dir := filepath.Join(s.lib.GraphRoot(), "tmp")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(dir, "regfs-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return &spool{file: file, changed: make(chan struct{}), holders: 1}, nil
}

// Write adds to the end. It fails when nobody holds the spool.
func (p *spool) Write(b []byte) (int, error) {
	p.mu.Lock()
	off, abandoned := p.n, p.holders == 0
	p.mu.Unlock()
	if abandoned {
		return 0, errAbandoned
	}
	n, err := p.file.WriteAt(b, off)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n += int64(n)
	p.wake()
	return n, err
}

// end tells that nothing comes any more: with nil the spool is whole.
func (p *spool) end(err error) {
	if err == nil {
		err = io.EOF
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	p.wake()
	if p.holders == 0 {
		p.file.Close()
	}
}

func (p *spool) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// state is how much there is, what is closed when that changes, and why there will be no more.
func (p *spool) state() (n int64, changed <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n, p.changed, p.err
}

// wait waits for the end: nil when the spool is whole.
func (p *spool) wait(ctx context.Context) error {
	for {
		_, changed, err := p.state()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hold keeps the spool until it is released once more.
func (p *spool) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holders++
}

// release gives up the spool. While it is being written, its end closes the file.
func (p *spool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holders--
	if p.holders == 0 && p.err != nil {
		p.file.Close()
	}
}

// reader reads all of the spool from its start, and waits for what is not there yet. It ends with what ended the spool.
func (p *spool) reader(ctx context.Context) io.ReadCloser {
	p.hold()
	return &spoolReader{spool: p, ctx: ctx}
}

type spoolReader struct {
	spool *spool
	ctx   context.Context
	off   int64
	once  sync.Once
}

func (r *spoolReader) Read(b []byte) (int, error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		n, changed, err := r.spool.state()
		if there := n - r.off; there > 0 {
			got, err := r.spool.file.ReadAt(b[:min(int64(len(b)), there)], r.off)
			r.off += int64(got)
			return got, err
		}
		if err != nil {
			return 0, err
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
		}
	}
}

func (r *spoolReader) Close() error {
	r.once.Do(r.spool.release)
	return nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// counter tells how many bytes were written.
type counter struct {
	io.Writer
	n    int64
	tell func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	c.tell(c.n)
	return n, err
}
