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

// TestCachedLayout writes to a layout through a cache and reads through it what was written.
func TestCachedLayout(t *testing.T) {
	for name, ttl := range map[string]time.Duration{"believing": time.Hour, "asking": 0} {
		t.Run(name, func(t *testing.T) {
			conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
				dir := t.TempDir()
				host := cached(t, ttl, oneRepository{func() (image.Sink, image.Source) {
					l := ociLayout(t, dir)
					return l, l
				}})
				return sink(t, host), source(t, host)
			})
		})
	}
}

// cached is a host as a new cache shows it.
func cached(t *testing.T, ttl time.Duration, inner image.Host) image.Host {
	t.Helper()
	c, err := cache.New(cache.Options{Dir: t.TempDir(), TTL: ttl, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.Host("registry.test", inner)
}
