package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// fillKey tells transfers apart. The size counts too: who names content with a wrong size must not spoil it for the others.
type fillKey struct {
	digest digest.Digest
	size   int64
}

var errIdle = errors.New("nobody reads it any more")

// fill is one transfer into the store, shared by all its readers in this process.
//
// The file it goes to is only appended to until it is complete or thrown away, by whatever process. So the bytes that
// readers were given are the bytes that are verified at the end.
type fill struct {
	c      *Cache
	src    image.Source
	d      image.Descriptor
	ctx    context.Context
	cancel context.CancelCauseFunc
	// stall ends the transfer when no byte moved for the cache's timeout.
	stall *time.Timer

	mu       sync.Mutex
	file     *os.File
	have     int64 // how many of file's bytes are there
	served   bool  // bytes of file were given to a reader
	complete bool  // all of file was verified, and it has its name
	err      error // why it never will
	running  bool
	readers  int
	idle     *time.Timer
	// changed is closed when have reaches wanted, and at the end.
	changed chan struct{}
	wanted  int64
}

func newFill(c *Cache, src image.Source, d image.Descriptor) *fill {
	f := &fill{c: c, src: src, d: d, running: true, changed: make(chan struct{}), wanted: math.MaxInt64}
	f.ctx, f.cancel = context.WithCancelCause(c.ctx)
	f.stall = time.AfterFunc(c.timeout, f.stalled)
	// Never, until leave says when.
	f.idle = time.AfterFunc(math.MaxInt64, f.abandon)
	return f
}

// run is the life of a fill.
func (f *fill) run() {
	err := f.transfer(f.ctx)
	if f.ctx.Err() != nil && err != nil {
		err = fmt.Errorf("fetch %s: %w", f.d.Digest, context.Cause(f.ctx))
	}
	f.settle(err)
	f.cancel(nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && f.file != nil {
		// Others may go on at once, even while readers of the failed transfer keep the file open.
		unlock(f.file)
	}
	f.running = false
	f.idle.Stop()
	f.release()
}

// settle ends the waiting of all readers, in err unless it is nil. The first verdict stays.
func (f *fill) settle(err error) {
	f.c.forget(f)
	f.stall.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.complete || f.err != nil {
		return
	}
	f.complete, f.err = err == nil, err
	close(f.changed)
}

func (f *fill) stalled() {
	err := fmt.Errorf("fetch %s: no byte came for %v: %w", f.d.Digest, f.c.timeout, context.DeadlineExceeded)
	f.cancel(err)
	f.settle(err)
}

// moved tells that the transfer is alive.
func (f *fill) moved() { f.stall.Reset(f.c.timeout) }

// publish lets the readers have the first n bytes, which are on disk.
func (f *fill) publish(n int64) {
	f.moved()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have = max(f.have, n)
	if f.have >= f.wanted && !f.complete && f.err == nil {
		f.wanted = math.MaxInt64
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// adopt makes file the one that is read, instead of one that another process gave up. It is too late for that when bytes
// of the other were read: nobody vouches for those any more.
func (f *fill) adopt(file *os.File) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.served {
		file.Close()
		return fmt.Errorf("fetch %s: another process gave up on it: %w", f.d.Digest, image.ErrUnavailable)
	}
	if f.file != nil {
		f.file.Close()
	}
	f.file, f.have = file, 0
	return nil
}

// await waits until all bytes below end can be read, and gives the file to read them from. The last byte is there
// only when the content is verified.
func (f *fill) await(ctx context.Context, end int64) (*os.File, error) {
	for {
		file, changed, err := f.ready(end)
		if file != nil || err != nil {
			return file, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("read %s: %w", f.d.Digest, ctx.Err())
		}
	}
}

func (f *fill) ready(end int64) (*os.File, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, nil, f.err
	}
	if f.complete || end <= f.have && end < f.d.Size {
		f.served = true
		return f.file, nil, nil
	}
	if end < f.d.Size {
		f.wanted = min(f.wanted, end)
	}
	return nil, f.changed, nil
}

// whole is the file once it is complete, and nil before.
func (f *fill) whole() *os.File {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.complete {
		return nil
	}
	return f.file
}

// enter counts one more reader. The caller holds the cache's lock.
func (f *fill) enter() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers++
	f.idle.Stop()
}

// leave counts one reader less. Without any, the transfer goes on for a short while.
func (f *fill) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers--
	if f.readers == 0 && f.running {
		f.idle.Reset(f.c.grace)
	}
	f.release()
}

// abandon stops a transfer that nobody came back to.
func (f *fill) abandon() {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers == 0 {
		f.c.drop(f)
		f.cancel(errIdle)
	}
}

// release closes the file when neither the transfer nor a reader needs it.
func (f *fill) release() {
	if !f.running && f.readers == 0 && f.file != nil {
		f.file.Close()
		f.file = nil
	}
}
