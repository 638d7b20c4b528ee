package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/regfs/regfs/image"
)

// Layers opens layers as trees. It is safe for concurrent use.
type Layers struct {
	o     Options
	pool  *pagePool
	spans *contents
	// unzip unpacks what indexes keep.
	unzip *zstd.Decoder
	// turns limits how many layers are indexed at once.
	turns chan struct{}

	ctx  context.Context
	stop context.CancelCauseFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	live   map[string]*opened
	idle   int // how many of these nobody uses
	builds map[string]*build
	broken map[string]error // layers that can't be understood
	worn   map[string]int   // how often the index of a layer was found damaged
	stale  map[string]bool  // indexes that are kept, and damaged
}

// What stays open or is remembered, though nobody uses it.
const (
	pagesMemory = 8 << 20
	maxIdle     = 64
	maxBroken   = 1000
)

// grace is how long an index is made after the last one left who waited for it.
const grace = 5 * time.Second

var errClosed = fmt.Errorf("layers: %w", os.ErrClosed)

// New makes Layers. It reads nothing.
func New(o Options) *Layers {
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	l := &Layers{
		o: o, pool: newPagePool(pagesMemory), spans: newContents(o.Memory), turns: make(chan struct{}, max(2, runtime.GOMAXPROCS(0))),
		live: map[string]*opened{}, builds: map[string]*build{}, broken: map[string]error{}, worn: map[string]int{}, stale: map[string]bool{},
	}
	l.unzip, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(keepFrom)) // only options can fail
	l.ctx, l.stop = context.WithCancelCause(context.Background())
	return l
}

// Close ends what is being indexed or fetched, and waits for it. No File is to be used after that.
func (l *Layers) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.stop(errClosed)
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, o := range l.live {
		o.x.close()
		delete(l.live, name)
	}
	l.unzip.Close()
	return nil
}

// spawn runs fn beside its caller, and has Close wait for it.
func (l *Layers) spawn(fn func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	l.wg.Go(fn)
	return nil
}

// Index makes the index of a layer, unless there is one; made tells which. It calls progress now and then, from another goroutine,
// with how many bytes of the blob are done.
func (l *Layers) Index(ctx context.Context, src image.Source, d image.Descriptor, progress func(done int64)) (made bool, err error) {
	f, made, err := l.acquire(ctx, src, d, progress)
	if err == nil {
		f.release()
	}
	return made, err
}

// opened is an index that is open, with how many use it.
type opened struct {
	*fetcher
	users int
	gone  bool      // it is not live any more
	idle  time.Time // since when nobody does
}

// used is a layer's files, of which one user reads.
type used struct {
	*index
	o   *opened
	l   *Layers
	src image.Source
	d   image.Descriptor
}

// open is a layer's files, to be released; it waits until there is an index.
func (l *Layers) open(ctx context.Context, src image.Source, d image.Descriptor) (files, error) {
	u, _, err := l.acquire(ctx, src, d, func(int64) {})
	if err != nil {
		return nil, layerError(d, err)
	}
	return u, nil
}

// layerError is an error that has to do with a layer. For its files, a layer that is missing is no missing file.
func layerError(d image.Descriptor, err error) error {
	if errors.Is(err, image.ErrNotFound) {
		return fmt.Errorf("layer %s: %w: %v", d.Digest, image.ErrUnavailable, err)
	}
	return fmt.Errorf("layer %s: %w", d.Digest, err)
}

func (l *Layers) acquire(ctx context.Context, src image.Source, d image.Descriptor, progress func(int64)) (u *used, made bool, err error) {
	if strings.HasSuffix(d.MediaType, encrypted) {
		return nil, false, fmt.Errorf("it is encrypted: %w", image.ErrDenied)
	}
	name := indexName(d)
	if u := l.use(name, src, d); u != nil {
		return u, false, nil
	}
	if err := d.Digest.Validate(); err != nil {
		return nil, false, fmt.Errorf("%q: %w: %w", d.Digest, err, image.ErrInvalid)
	}
	for {
		b, u, err := l.join(name, src, d, progress)
		if u != nil || err != nil {
			return u, made, err
		}
		if err := b.wait(ctx); err != nil {
			return nil, false, err
		}
		made = b.made
	}
}

// use gives the files of an index that is open, or nil. It comes before all else, as each lookup does it for some layers.
func (l *Layers) use(name string, src image.Source, d image.Descriptor) *used {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.useLocked(name, src, d)
}

func (l *Layers) useLocked(name string, src image.Source, d image.Descriptor) *used {
	o := l.live[name]
	if o == nil {
		return nil
	}
	if o.users++; o.users == 1 {
		l.idle--
	}
	return &used{o.x, o, l, src, d}
}

// join gives the files of an index that is open, or has somebody open it.
func (l *Layers) join(name string, src image.Source, d image.Descriptor, progress func(int64)) (*build, *used, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u := l.useLocked(name, src, d); u != nil {
		return nil, u, nil
	}
	if err := l.broken[name]; err != nil {
		return nil, nil, err
	}
	if l.closed {
		return nil, nil, errClosed
	}
	b := l.builds[name]
	if b == nil {
		b = newBuild(l, name, src, d)
		l.builds[name] = b
		l.wg.Go(b.run)
	}
	b.enter(progress)
	return b, nil, nil
}

// finished takes what became of a build.
func (l *Layers) finished(b *build, x *index, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.builds[b.name] == b {
		delete(l.builds, b.name)
	}
	switch {
	case errors.As(err, new(*contentError)):
		if len(l.broken) >= maxBroken {
			clear(l.broken)
		}
		l.broken[b.name] = err
	case err != nil:
	case l.closed || l.live[b.name] != nil:
		x.close()
	default:
		l.live[b.name] = &opened{
			fetcher: &fetcher{store: l.o.Store, blobs: l.o.Blobs, name: b.name, x: x, spawn: l.spawn, flying: map[int]chan struct{}{}},
			idle:    time.Now(),
		}
		l.idle++
		l.trim()
	}
}

// trim closes what nobody uses, if there is too much of it. The lock is held.
func (l *Layers) trim() {
	for ; l.idle > maxIdle; l.idle-- {
		oldest := ""
		for name, o := range l.live {
			if o.users == 0 && (oldest == "" || o.idle.Before(l.live[oldest].idle)) {
				oldest = name
			}
		}
		l.live[oldest].x.close()
		delete(l.live, oldest)
	}
}

func (u *used) release() {
	u.l.mu.Lock()
	defer u.l.mu.Unlock()
	switch u.o.users--; {
	case u.o.users > 0:
	case u.o.gone:
		u.o.x.close()
	default:
		u.o.idle = time.Now()
		u.l.idle++
		u.l.trim()
	}
}

// isOpen tells whether a layer's index is open.
func (l *Layers) isOpen(d image.Descriptor) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.live[indexName(d)] != nil
}
