// Package cache is a Source that remembers: verified content on disk, under a size limit, and one fetch however many read.
// Several processes may share one directory, and any of them may be killed at any moment.
//
// The directory:
//
//	blobs/<algorithm>/<2 hex>/<hex>     content that matched its digest, and nothing else
//	partial/<algorithm>-<hex>-<size>    content on its way; only ever appended to, by who holds the lock on it
//	refs/<host>/<repository>/…          what a place said, see records
//	layers/index/<name>                 what was found out about a layer, whole
//	layers/spans/<name>                 single spans of a layer's blob, at their places, between holes; may be cut at any moment
//	tmp/                                files that get their name when they are whole
//	lock                                held by the one process that makes room
package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/regfs/regfs/image"
)

// What Options mean where they are zero.
const (
	DefaultSize    = 10 << 30
	DefaultTimeout = 30 * time.Second
)

// grace is how long a transfer goes on after its last reader left, so that a loop of head -c1 does not start it anew each time.
const grace = 5 * time.Second

// Options say how a Cache behaves.
type Options struct {
	// Dir is where it lives, made with permissions 0700 unless it is there. Required.
	Dir string
	// Size is how many bytes the directory may take on disk; 0 is DefaultSize. Content that is being read or fetched may exceed it.
	Size int64
	// TTL is how long a tag and a list of referrers are believed without asking; 0 asks each time.
	TTL time.Duration
	// Timeout is how long a reader waits without a byte moving, and how long a question may take in all; 0 is DefaultTimeout.
	// Either ends in context.DeadlineExceeded.
	Timeout time.Duration
	// Offline answers from what is here and asks nobody. What is not here is image.ErrUnavailable.
	Offline bool
	// Log is told what could not be kept; nil is slog.Default.
	Log *slog.Logger
}

// Stats counts since New. All but BytesOnDisk only grow.
type Stats struct {
	Hits         int64 // blobs and manifests that were complete on disk
	Misses       int64 // those that were not
	Fetches      int64 // transfers of blobs begun; readers that join one begin none
	BytesFetched int64 // bytes of blobs that came from elsewhere
	BytesOnDisk  int64 // what the directory takes, approximately; 0 before the first transfer
}

// Cache is the directory, and what this process fetches into it. It is safe for concurrent use.
type Cache struct {
	store
	records records
	space   *space
	spans   spanFiles
	offline bool
	ttl     time.Duration
	timeout time.Duration
	grace   time.Duration
	log     *slog.Logger

	ctx     context.Context
	stop    context.CancelCauseFunc
	wg      sync.WaitGroup
	flights singleflight.Group

	mu     sync.Mutex
	closed bool
	fills  map[fillKey]*fill

	hits, misses, fetches, bytesFetched atomic.Int64
}

var errClosed = fmt.Errorf("cache: %w", os.ErrClosed)

// New opens the cache in o.Dir and makes it where there is none. It looks at nothing in it, but fails if it can't write there.
func New(o Options) (*Cache, error) {
	if o.Dir == "" {
		return nil, errors.New("cache: no directory")
	}
	if o.Size == 0 {
		o.Size = DefaultSize
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := store{dir: o.Dir}
	if err := s.init(); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err := s.writable(); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &Cache{
		store: s, records: records{s, newChanges(10 * o.Timeout)}, space: &space{store: s, limit: o.Size}, offline: o.Offline, ttl: o.TTL, timeout: o.Timeout,
		grace: grace, log: o.Log, fills: map[fillKey]*fill{}, spans: spanFiles{bytes: map[string]int64{}},
	}
	c.ctx, c.stop = context.WithCancelCause(context.Background())
	return c, nil
}

// Close ends all transfers and waits for them. What was half fetched goes on with the next New. Blobs already
// complete stay readable until they are closed.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop(errClosed)
	c.wg.Wait()
	return nil
}

// Stats tells what was done so far.
func (c *Cache) Stats() Stats {
	return Stats{
		Hits: c.hits.Load(), Misses: c.misses.Load(), Fetches: c.fetches.Load(),
		BytesFetched: c.bytesFetched.Load(), BytesOnDisk: c.space.used.Load(),
	}
}

// spawn runs fn beside its caller, and has Close wait for it.
func (c *Cache) spawn(fn func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	c.wg.Go(fn)
	return nil
}

// Open implements image.Blobs. Nothing is fetched before the first read: a copy by reference opens a blob and reads none of it.
// It waits for nothing but for src.Stat, where d does not say its size, and for manifests: that src
// does not have d is found out by reading. src may be a Source of this cache or any other, of a type that == works for, as pointers are.
func (c *Cache) Open(ctx context.Context, src image.Source, d image.Descriptor) (image.Blob, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("open blob %q: %v: %w", d.Digest, err, image.ErrInvalid)
	}
	if image.IsManifest(d.MediaType) {
		return c.openManifest(ctx, src, d)
	}
	d, err := c.sized(ctx, src, d)
	if err != nil {
		return nil, err
	}
	file, err := c.openBlob(d)
	if err == nil {
		c.hits.Add(1)
		return newStored(file)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open blob %s: %w", d.Digest, err)
	}
	c.misses.Add(1)
	if c.offline {
		return nil, offline("open blob " + d.Digest.String())
	}
	return &filling{c: c, src: src, d: d}, nil
}

// sized is d with its size. Offline, only the store can tell it.
func (c *Cache) sized(ctx context.Context, src image.Source, d image.Descriptor) (image.Descriptor, error) {
	if d.Size >= 0 || c.offline {
		return d, nil
	}
	stat, err := src.Stat(ctx, d.Digest)
	if err == nil && stat.Size < 0 {
		err = fmt.Errorf("open blob %s: its size is not known: %w", d.Digest, image.ErrUnsupported)
	}
	d.Size = stat.Size
	return d, err
}

// openManifest opens a manifest, which comes whole: the digest of some of them is not that of their bytes.
func (c *Cache) openManifest(ctx context.Context, src image.Source, d image.Descriptor) (image.Blob, error) {
	if _, err := c.manifest(d); err == nil {
		c.hits.Add(1)
	} else {
		c.misses.Add(1)
		if err := c.fetchManifest(ctx, src, d); err != nil {
			return nil, err
		}
	}
	file, err := os.Open(c.blobPath(d.Digest))
	if err != nil {
		return nil, fmt.Errorf("open manifest %s: %w", d.Digest, err)
	}
	shareLock(file)
	return newStored(file)
}

func (c *Cache) fetchManifest(ctx context.Context, src image.Source, d image.Descriptor) error {
	if c.offline {
		return offline("open manifest " + d.Digest.String())
	}
	_, raw, err := src.Manifest(ctx, d.Digest.String())
	if err != nil {
		return err
	}
	if d.Size >= 0 && d.Size != int64(len(raw)) {
		return fmt.Errorf("manifest %s: %d bytes instead of %d: %w", d.Digest, len(raw), d.Size, image.ErrDigest)
	}
	return c.putManifest(d.Digest, raw)
}

// offline is the error of a question that Options.Offline forbids.
func offline(what string) error {
	return fmt.Errorf("%s: not in the cache, and offline: %w", what, image.ErrUnavailable)
}

// join starts the transfer of d, or takes part in the one that is under way. Both happen under one lock, as does a
// transfer's end: a reader gets a transfer's error only if it was there before.
func (c *Cache) join(src image.Source, d image.Descriptor) (*fill, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	key := fillKey{d.Digest, d.Size}
	f := c.fills[key]
	if f == nil {
		f = newFill(c, src, d)
		c.fills[key] = f
		c.fetches.Add(1)
		c.wg.Go(f.run)
	}
	f.enter()
	return f, nil
}

// forget takes f from the transfers that can be joined.
func (c *Cache) forget(f *fill) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(f)
}

func (c *Cache) drop(f *fill) {
	key := fillKey{f.d.Digest, f.d.Size}
	if c.fills[key] == f {
		delete(c.fills, key)
	}
}

// share runs fn once for all who ask for the same key at the same time. It runs on a context of its own, so that only
// the waiting ends with ctx.
func share[T any](ctx context.Context, c *Cache, key string, fn func(context.Context) (T, error)) (T, error) {
	answer := c.flights.DoChan(key, func() (any, error) {
		var value T
		var err error
		done := make(chan struct{})
		if err := c.spawn(func() {
			defer close(done)
			ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
			defer cancel()
			value, err = fn(ctx)
		}); err != nil {
			return value, err
		}
		<-done
		return value, err
	})
	var none T
	select {
	case <-ctx.Done():
	case r := <-answer:
		if r.Err == nil {
			return r.Val.(T), nil
		}
		if ctx.Err() == nil {
			return none, r.Err
		}
	}
	return none, ctx.Err()
}

var _ image.Blobs = (*Cache)(nil)
var _ io.Closer = (*Cache)(nil)
