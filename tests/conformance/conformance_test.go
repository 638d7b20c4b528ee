package conformance_test

import (
	"testing"
	"time"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/registry"
	"github.com/regfs/regfs/tests/conformance"
)

const repository = "conformance/repo"

// serve runs a registry with the content in it, and is its Host.
func serve(t *testing.T, content conformance.Content) image.Host {
	t.Helper()
	address := conformance.Serve(t, content.Corrupt)
	conformance.Push(t, address, repository, content)
	client := registry.New(registry.Options{Timeout: 10 * time.Second})
	t.Cleanup(func() { client.Close() })
	host, err := client.Host(address)
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func source(t *testing.T, host image.Host) image.Source {
	t.Helper()
	src, err := host.Source(t.Context(), repository)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func TestRegistry(t *testing.T) {
	conformance.Source(t, func(t *testing.T, content conformance.Content) image.Source {
		return source(t, serve(t, content))
	})
}

func TestCache(t *testing.T) {
	for name, ttl := range map[string]time.Duration{"believing": time.Hour, "asking": 0} {
		t.Run(name, func(t *testing.T) {
			conformance.Source(t, func(t *testing.T, content conformance.Content) image.Source {
				c, err := cache.New(cache.Options{Dir: t.TempDir(), TTL: ttl, Timeout: 10 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return source(t, c.Host("registry.test", serve(t, content)))
			})
		})
	}
}
