// Package copy is the one engine behind every copy of an image: cp into a mount, regfs copy, and what comes after them. It
// moves blobs side by side, children before parents, each once, and leaves to the places at both ends how a blob gets from
// one to the other. Manifests go as they are, byte for byte.
package copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/regfs/regfs/image"
)

// Origin is where an image is copied from. It is safe for concurrent use.
type Origin interface {
	// Manifest reads the manifest or index d, whole. It matches d.
	Manifest(ctx context.Context, d image.Descriptor) ([]byte, error)
	// Content says how the blob d is had. ErrNotFound where it is not here.
	Content(ctx context.Context, d image.Descriptor) (image.Content, error)
}

// Options say how to copy.
type Options struct {
	// Tags are what the image is put under in the end; with none it is found by its digest only.
	Tags []string
	// Jobs is how many manifests and blobs are moved at once; 0 stands for DefaultJobs.
	Jobs int
	// Events is told how each manifest and blob fares, from several goroutines at once. It may be nil.
	Events func(Event)
}

// DefaultJobs is how many manifests and blobs are moved at once unless said otherwise.
const DefaultJobs = 6

// State is how far a manifest or a blob has got.
type State string

// The states, in their order. Failed stands in the place of Done.
const (
	Waiting State = "waiting"
	Moving  State = "moving"
	Done    State = "done"
	Failed  State = "failed"
)

// Event tells of one manifest or blob.
type Event struct {
	Descriptor image.Descriptor
	State      State
	Sent       int64     // of a Moving one: how many bytes the place has by now
	How        image.How // of one that is Done
	Err        error     // of one that Failed
}

// How much one image may be, so that a hostile index costs a bounded copy. Real ones stay far below.
const (
	maxDepth       = 8
	maxDescriptors = 100_000
)

// Run copies root, which is a manifest or an index, and all that it reaches, and then puts it under the tags. The first
// failure ends it, and no tag has moved then, unless it was one of several tags that failed. A foreign layer, one with URLs,
// that from does not have is left where it is.
func Run(ctx context.Context, to image.Sink, from Origin, root image.Descriptor, o Options) error {
	if o.Jobs <= 0 {
		o.Jobs = DefaultJobs
	}
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	r := &run{
		to: to, from: from, events: o.Events, jobs: int64(o.Jobs), room: semaphore.NewWeighted(int64(o.Jobs)), seen: map[digest.Digest]*once{},
	}
	return r.image(ctx, root, o.Tags)
}

// run is a copy under way.
type run struct {
	to     image.Sink
	from   Origin
	events func(Event)
	jobs   int64
	room   *semaphore.Weighted

	mu   sync.Mutex
	seen map[digest.Digest]*once
}

// once is one descriptor's copying, which all wait for that name it.
type once struct {
	done chan struct{}
	err  error
}

func (r *run) image(ctx context.Context, root image.Descriptor, tags []string) error {
	raw, err := r.below(ctx, root, 0)
	if err == nil && len(tags) == 0 {
		return r.push(ctx, root, memory(raw))
	}
	for _, tag := range tags {
		if err == nil {
			err = r.to.Tag(ctx, root, raw, tag)
		}
	}
	r.finish(root, image.Uploaded, err)
	return err
}

// below copies all that a manifest reaches, and returns the manifest itself.
func (r *run) below(ctx context.Context, d image.Descriptor, depth int) ([]byte, error) {
	r.events(Event{Descriptor: d, State: Waiting})
	raw, err := r.read(ctx, d)
	if err != nil {
		return nil, err
	}
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	if err := r.to.Expect(ctx, d, raw); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(int(2 * r.jobs))
	for _, child := range m.Children() {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return r.copyOnce(ctx, child, depth+1) })
	}
	return raw, g.Wait()
}

func (r *run) read(ctx context.Context, d image.Descriptor) ([]byte, error) {
	if err := r.room.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer r.room.Release(1)
	raw, err := r.from.Manifest(ctx, d)
	if err != nil {
		return nil, err
	}
	if d.Size >= 0 && d.Size != int64(len(raw)) {
		return nil, fmt.Errorf("manifest %s has %d bytes and not the %d it is said to have: %w", d.Digest, len(raw), d.Size, image.ErrDigest)
	}
	return raw, nil
}

// copyOnce copies what lies below a manifest, and waits for who copies the same already.
func (r *run) copyOnce(ctx context.Context, d image.Descriptor, depth int) error {
	o, mine, err := r.claim(d, depth)
	if err != nil {
		return err
	}
	if mine {
		o.err = r.copy(ctx, d, depth)
		close(o.done)
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *run) claim(d image.Descriptor, depth int) (o *once, mine bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o = r.seen[d.Digest]; o != nil {
		return o, false, nil
	}
	if len(r.seen) >= maxDescriptors || depth > maxDepth {
		return nil, false, fmt.Errorf("%s: more than %d descriptors or %d indexes deep: %w", d.Digest, maxDescriptors, maxDepth, image.ErrInvalid)
	}
	o = &once{done: make(chan struct{})}
	r.seen[d.Digest] = o
	return o, true, nil
}

func (r *run) copy(ctx context.Context, d image.Descriptor, depth int) error {
	if image.IsManifest(d.MediaType) {
		raw, err := r.below(ctx, d, depth)
		if err != nil {
			return err
		}
		return r.push(ctx, d, memory(raw))
	}
	r.events(Event{Descriptor: d, State: Waiting})
	content, err := r.from.Content(ctx, d)
	if errors.Is(err, image.ErrNotFound) && len(d.URLs) > 0 {
		r.events(Event{Descriptor: d, State: Done, How: image.Skipped})
		return nil
	}
	if err != nil {
		r.finish(d, "", err)
		return err
	}
	return r.push(ctx, d, content)
}

// push brings one manifest or blob to where it goes, when there is room for it.
func (r *run) push(ctx context.Context, d image.Descriptor, content image.Content) error {
	if err := r.room.Acquire(ctx, 1); err != nil {
		return err
	}
	defer r.room.Release(1)
	r.events(Event{Descriptor: d, State: Moving})
	told := content.Sent
	content.Sent = func(n int64) {
		r.events(Event{Descriptor: d, State: Moving, Sent: n})
		if told != nil {
			told(n)
		}
	}
	how, err := r.to.Push(ctx, d, content)
	r.finish(d, how, err)
	return err
}

func (r *run) finish(d image.Descriptor, how image.How, err error) {
	if err != nil {
		r.events(Event{Descriptor: d, State: Failed, Err: err})
		return
	}
	r.events(Event{Descriptor: d, State: Done, How: how})
}

// memory is content that is at hand.
func memory(raw []byte) image.Content {
	return image.Content{Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw[min(off, int64(len(raw))):])), nil
	}}
}
