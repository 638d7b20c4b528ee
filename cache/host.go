package cache

import (
	"context"
	"errors"
	"iter"

	"github.com/regfs/regfs/image"
)

// Host is inner, remembered. What inner says is recorded under name, such as quay.io, for all who use the same directory.
// Closing it closes inner.
func (c *Cache) Host(name string, inner image.Host) image.Host { return &host{inner, c, name} }

// Hosts are the names of all hosts that something is recorded of, in order.
func (c *Cache) Hosts() []string { return c.records.names() }

type host struct {
	image.Host
	c    *Cache
	name string
}

// Source implements image.Host.
func (h *host) Source(ctx context.Context, repository string) (image.Source, error) {
	inner, err := h.Host.Source(ctx, repository)
	if err != nil {
		return nil, err
	}
	return &source{inner: inner, c: h.c, host: h.name, repository: repository}, nil
}

// Repositories lists what the place does; where it can't, won't or is away, those that something is recorded of. A catalog that is
// refused is as good as none: the largest registries refuse theirs to everybody.
func (h *host) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		names := failed[string](offline("list the repositories of " + h.name))
		if !h.c.offline {
			names = h.Host.Repositories(ctx, after)
		}
		useless := func(err error) bool {
			return errors.Is(err, image.ErrUnsupported) || errors.Is(err, image.ErrDenied) || away(ctx, err)
		}
		or(names, useless, h.known(after))(yield)
	}
}

// known lists the repositories that something is recorded of; nil where there is none.
func (h *host) known(after string) iter.Seq2[string, error] {
	names := h.c.records.names(h.name)
	if len(names) == 0 {
		return nil
	}
	return func(yield func(string, error) bool) {
		for _, name := range names {
			if name > after && !yield(name, nil) {
				return
			}
		}
	}
}

// away tells errors of a place that can't be asked now from its answers, and from the caller's giving up.
func away(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (errors.Is(err, image.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded))
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
