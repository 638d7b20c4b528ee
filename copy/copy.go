// Package copy is the one engine behind every copy of an image: cp into a mount, regfs copy, and what comes after them. It
// moves blobs side by side, children before parents, each once, and leaves to the places at both ends how a blob gets from
// one to the other. Manifests go as they are, byte for byte, unless a conversion was asked for or is due.
package copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
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
	Sent       int64     // of a Moving one: how many bytes the place has by now; of a layer that is converted, how many were read
	How        image.How // of one that is Done
	Err        error     // of one that Failed
}

// How much one image may be, so that a hostile index costs a bounded copy. Real ones stay far below.
const (
	maxDepth       = 8
	maxDescriptors = 100_000
)

// Run copies root, which is a manifest or an index, and all that it reaches, puts it under the tags, and returns what it is
// there: root itself, unless it was converted or a part of it was copied. The first failure ends it, and no tag has moved then,
// unless it was one of several tags that failed. A foreign layer, one with URLs, that from does not have is left where it is.
//
// What the destination can't hold (ErrUnsupported of its Expect) is converted to what it can: the other format, layers that are
// not compressed. One that says only when a manifest comes that it takes none of the kind (ErrRefused, ErrUnsupported) gets the
// other format. If nothing fits, the error is that of what was asked for. A layer that the source has only in another form
// (FormError) is taken in that one and compressed with gzip, unless the destination has the layer that was asked for.
func Run(ctx context.Context, to image.Sink, from Origin, root image.Descriptor, o Options) (image.Descriptor, error) {
	if err := o.complete(); err != nil {
		return image.Descriptor{}, err
	}
	r := &run{
		Options: o, to: to, from: from, room: semaphore.NewWeighted(int64(o.Jobs)), mills: semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0))),
		seen: map[task]*once{},
	}
	return r.image(ctx, root)
}

// run is a copy under way.
type run struct {
	Options
	to   image.Sink
	from Origin
	room *semaphore.Weighted
	// mills bounds how many layers are converted at once: each takes a core or more, and tens of megabytes.
	mills *semaphore.Weighted

	mu   sync.Mutex
	seen map[task]*once
}

// task is a descriptor, and what it is made into.
type task struct {
	digest digest.Digest
	work   work
}

// once is the copying of one descriptor, which all wait for that name it.
type once struct {
	done chan struct{}
	as   result
	err  error
}

// result is what a descriptor became at the destination. Of a layer, the annotations are only those that its new form brings along.
type result struct {
	image.Descriptor
	// diffID is the digest of a layer's tar, where it was computed.
	diffID digest.Digest
}

// made is a manifest or an index as the destination gets it.
type made struct {
	image.Descriptor
	raw []byte
	// was is what it was at the origin, by which the events call it.
	was image.Descriptor
	// next makes the same image in the next best form; nil where there is none.
	next func(context.Context) (made, error)
}

// source is a manifest or an index as the origin has it.
type source struct {
	made
	*image.Manifest
}

func (r *run) image(ctx context.Context, root image.Descriptor) (image.Descriptor, error) {
	m, err := r.below(ctx, root, 0)
	if err != nil {
		r.finish(root, "", err)
		return image.Descriptor{}, err
	}
	m, err = r.put(ctx, m, func(m made) (how image.How, err error) {
		if len(r.Tags) == 0 {
			return r.to.Push(ctx, m.Descriptor, memory(m.raw))
		}
		for _, tag := range r.Tags {
			if err == nil {
				err = r.to.Tag(ctx, m.Descriptor, m.raw, tag)
			}
		}
		return image.Uploaded, err
	})
	return m.Descriptor, err
}

// put has fn store a manifest. If the place, which could not tell beforehand, refuses it, it gets the next form that there is of it;
// if it refuses all, the error is that of the first.
func (r *run) put(ctx context.Context, m made, fn func(made) (image.How, error)) (made, error) {
	was := m.was
	how, err := r.within(ctx, was, m, fn)
	for other, next := m, m.next; err != nil && next != nil && isRefusal(err); next = other.next {
		var failed error
		if other, failed = next(ctx); failed == nil {
			how, failed = r.within(ctx, was, other, fn)
		}
		if failed == nil {
			m, err = other, nil
		} else if !isRefusal(failed) {
			break
		}
	}
	r.finish(was, how, err)
	return m, err
}

// within runs fn when there is room for it.
func (r *run) within(ctx context.Context, was image.Descriptor, m made, fn func(made) (image.How, error)) (image.How, error) {
	if err := r.room.Acquire(ctx, 1); err != nil {
		return "", err
	}
	defer r.room.Release(1)
	r.Events(Event{Descriptor: was, State: Moving})
	return fn(m)
}

func isRefusal(err error) bool {
	return errors.Is(err, image.ErrRefused) || errors.Is(err, image.ErrUnsupported)
}

// below copies all that a manifest reaches, and returns the manifest as it is to be.
func (r *run) below(ctx context.Context, d image.Descriptor, depth int) (made, error) {
	raw, err := r.read(ctx, d)
	if err != nil {
		return made{}, err
	}
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil {
		return made{}, fmt.Errorf("%s: %w", d.Digest, err)
	}
	if image.IsSchema1(m.MediaType) {
		d.Size = int64(len(raw))
	}
	s := source{made{Descriptor: d, raw: raw, was: d}, m}
	if m.IsIndex() && r.Parts == System {
		return r.chosen(ctx, s, depth)
	}
	r.Events(Event{Descriptor: d, State: Waiting})
	var got made
	if m.IsIndex() {
		got, err = r.index(ctx, s, depth)
	} else {
		got, err = r.manifest(ctx, s, depth, r.forms(s))
	}
	if got.was.Digest == "" {
		got.was = d
	}
	return got, err
}

// each runs fn for the numbers below n, side by side, until one fails.
func (r *run) each(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * r.Jobs)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return fn(ctx, i) })
	}
	return g.Wait()
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
	// A registry signs a schema 1 manifest anew for each answer, and each is as long as it happens to be.
	if d.Size >= 0 && d.Size != int64(len(raw)) && !image.IsSchema1(d.MediaType) {
		return nil, fmt.Errorf("manifest %s has %d bytes and not the %d it is said to have: %w", d.Digest, len(raw), d.Size, image.ErrDigest)
	}
	return raw, nil
}

// copyOnce copies a manifest or a blob, and waits for who copies the same already.
func (r *run) copyOnce(ctx context.Context, l layer, depth int) (result, error) {
	o, mine, err := r.claim(task{l.Digest, l.work}, depth)
	if err != nil {
		return result{}, err
	}
	if mine {
		o.as, o.err = r.copy(ctx, l, depth)
		close(o.done)
	}
	select {
	case <-o.done:
		return o.as, o.err
	case <-ctx.Done():
		return result{}, ctx.Err()
	}
}

func (r *run) claim(t task, depth int) (o *once, mine bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o = r.seen[t]; o != nil {
		return o, false, nil
	}
	if len(r.seen) >= maxDescriptors || depth > maxDepth {
		return nil, false, fmt.Errorf("%s: more than %d descriptors or %d indexes deep: %w", t.digest, maxDescriptors, maxDepth, image.ErrInvalid)
	}
	o = &once{done: make(chan struct{})}
	r.seen[t] = o
	return o, true, nil
}

func (r *run) copy(ctx context.Context, l layer, depth int) (result, error) {
	if !image.IsManifest(l.Descriptor.MediaType) {
		return r.blob(ctx, l)
	}
	m, err := r.below(ctx, l.Descriptor, depth)
	if err == nil {
		m, err = r.put(ctx, m, func(m made) (image.How, error) { return r.to.Push(ctx, m.Descriptor, memory(m.raw)) })
	}
	return result{Descriptor: m.Descriptor}, err
}

// push brings one blob to where it goes. The events call it by the name it had.
func (r *run) push(ctx context.Context, was, d image.Descriptor, content image.Content) error {
	how, err := r.send(ctx, was, d, content)
	r.finish(was, how, err)
	return err
}

// send pushes a blob when there is room for it, and leaves it to the caller to tell how that ended.
func (r *run) send(ctx context.Context, was, d image.Descriptor, content image.Content) (image.How, error) {
	if err := r.room.Acquire(ctx, 1); err != nil {
		return "", err
	}
	defer r.room.Release(1)
	r.Events(Event{Descriptor: was, State: Moving})
	told := content.Sent
	content.Sent = func(n int64) {
		r.Events(Event{Descriptor: was, State: Moving, Sent: n})
		if told != nil {
			told(n)
		}
	}
	return r.to.Push(ctx, d, content)
}

func (r *run) finish(d image.Descriptor, how image.How, err error) {
	if err != nil {
		r.Events(Event{Descriptor: d, State: Failed, Err: err})
		return
	}
	r.Events(Event{Descriptor: d, State: Done, How: how})
}

// memory is content that is at hand.
func memory(raw []byte) image.Content {
	return image.Content{Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw[min(off, int64(len(raw))):])), nil
	}}
}
