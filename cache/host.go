package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/regfs/regfs/image"
)

// Host is inner, remembered. What inner says is recorded under name, such as quay.io, for all who use the same directory.
// Closing it closes inner.
func (c *Cache) Host(name string, inner image.Host) image.Host {
	return &host{inner, c, name, &outage{}}
}

// Through opens hosts through the cache, each once: all who use one share what is known of it, and whether it is away.
func (c *Cache) Through(open func(name string) (image.Host, error)) func(name string) (image.Host, error) {
	var mu sync.Mutex
	opened := map[string]image.Host{}
	return func(name string) (image.Host, error) {
		mu.Lock()
		defer mu.Unlock()
		if h := opened[name]; h != nil {
			return h, nil
		}
		h, err := open(name)
		if err != nil {
			return nil, err
		}
		opened[name] = c.Host(name, h)
		return opened[name], nil
	}
}

// Hosts are the names of all hosts that something is recorded of, in order.
func (c *Cache) Hosts() []string { return c.records.names() }

type host struct {
	image.Host
	c      *Cache
	name   string
	outage *outage
}

// Source implements image.Host.
func (h *host) Source(ctx context.Context, repository string) (image.Source, error) {
	inner, err := h.Host.Source(ctx, repository)
	if err != nil {
		return nil, err
	}
	return &source{inner, h.remembered(repository)}, nil
}

// Sink implements image.Host. Offline, nothing can be written.
func (h *host) Sink(ctx context.Context, repository string) (image.Sink, error) {
	if h.c.offline {
		return nil, fmt.Errorf("write to %s/%s: offline: %w", h.name, repository, image.ErrUnavailable)
	}
	inner, err := h.Host.Sink(ctx, repository)
	if err != nil {
		return nil, err
	}
	return &sink{inner, h.remembered(repository)}, nil
}

func (h *host) remembered(repository string) remembered {
	return remembered{c: h.c, host: h.name, repository: repository, outage: h.outage}
}

// Repositories lists what the place does; where it can't, won't or is away, those that something is recorded of. A catalog that is
// refused is as good as none: the largest registries refuse theirs to everybody.
func (h *host) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		known := h.known(after)
		names := failed[string](offline("list the repositories of " + h.name))
		switch {
		case known != nil && h.outage.lasts():
			names = known
		case !h.c.offline:
			names = h.Host.Repositories(ctx, after)
		}
		useless := func(err error) bool {
			return errors.Is(err, image.ErrUnsupported) || errors.Is(err, image.ErrDenied) || h.outage.heard(ctx, err)
		}
		or(names, useless, known)(yield)
	}
}

// known lists the repositories that something is recorded of; nil where there is none.
func (h *host) known(after string) iter.Seq2[string, error] {
	var names []string
	for _, name := range h.c.records.names(h.name) {
		if name > after {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return values(names)
}

// outageTime is how long a place that could not be asked is not asked again for what is recorded. A place that hangs would
// otherwise make every single operation wait for its whole time.
const outageTime = 30 * time.Second

// outage remembers that a place was away.
type outage struct {
	mu    sync.Mutex
	until time.Time
}

// lasts tells whether the place was away a moment ago.
func (o *outage) lasts() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Now().Before(o.until)
}

// heard takes note of how a question ended, and tells whether the place was away.
func (o *outage) heard(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	isAway := errors.Is(err, image.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.until = time.Time{}
	if isAway {
		o.until = time.Now().Add(outageTime)
	}
	return isAway
}

// isMissing tells the place's word that it has no such thing from the word that there is no such place: the network's names may
// be what is missing.
func isMissing(err error) bool {
	return errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrUnavailable)
}

// values is a listing of what is at hand.
func values[T any](items []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, item := range items {
			if !yield(item, nil) {
				return
			}
		}
	}
}

// failed is a listing that is one error.
func failed[T any](err error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) { yield(*new(T), err) }
}

// or lists items, or, where they begin with an error that is useless, instead, unless that is nil.
func or[T any](items iter.Seq2[T, error], useless func(error) bool, instead iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		first := true
		for item, err := range items {
			if first && err != nil && instead != nil && useless(err) {
				instead(yield)
				return
			}
			if !yield(item, err) {
				return
			}
			first = false
		}
	}
}
