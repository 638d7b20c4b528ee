package conformance_test

import (
	"context"
	"iter"
	"testing"
	"time"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/tests/conformance"
)

// oneRepository is a host whose repositories are all the same.
type oneRepository struct {
	open func() (image.Sink, image.Source)
}

func (h oneRepository) Repositories(context.Context, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("", image.ErrUnsupported) }
}

func (h oneRepository) Source(context.Context, string) (image.Source, error) {
	_, src := h.open()
	return src, nil
}

func (h oneRepository) Sink(context.Context, string) (image.Sink, error) {
	sink, _ := h.open()
	return sink, nil
}

func (oneRepository) Close() error { return nil }

// TestCacheSink writes through a cache and reads through it what was written, whether it believes for long or asks each time.
func TestCacheSink(t *testing.T) {
	for name, ttl := range map[string]time.Duration{"believing": time.Hour, "asking": 0} {
		t.Run(name, func(t *testing.T) {
			conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
				dir := t.TempDir()
				return cached(t, ttl, oneRepository{func() (image.Sink, image.Source) {
					l := ociLayout(t, dir)
					return l, l
				}})
			})
		})
	}
}

// cached is a repository of a host as a new cache shows it.
func cached(t *testing.T, ttl time.Duration, inner image.Host) (image.Sink, image.Source) {
	t.Helper()
	c, err := cache.New(cache.Options{Dir: t.TempDir(), TTL: ttl, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	host := c.Host("registry.test", inner)
	sink, err := host.Sink(t.Context(), repository)
	if err != nil {
		t.Fatal(err)
	}
	return sink, source(t, host)
}
