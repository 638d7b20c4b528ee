package conformance_test

import (
	"testing"
	"time"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/registry"
	"github.com/regfs/regfs/tests/conformance"
	"github.com/regfs/regfs/tests/registries"
	"github.com/regfs/regfs/tests/registries/distribution"
)

const (
	repository = "conformance/repo"
	timeout    = 10 * time.Second
)

// places are the registries to test against, started without content.
var places = map[string]func(t *testing.T) (address string){
	"go-containerregistry": func(t *testing.T) string { return conformance.Serve(t, conformance.NewContent().Corrupt) },
	"docker-registry":      func(t *testing.T) string { return registries.Docker(t, registries.Config{}).Host },
	"distribution":         func(t *testing.T) string { return distribution.Start(t, registries.Config{}).Host },
}

// eachPlace runs test over each registry with the content in it.
func eachPlace(t *testing.T, test func(t *testing.T, host image.Host)) {
	for name, start := range places {
		t.Run(name, func(t *testing.T) {
			address := start(t)
			conformance.Push(t, address, repository, conformance.NewContent())
			client := registry.New(registry.Options{Timeout: timeout})
			t.Cleanup(func() { client.Close() })
			host, err := client.Host(address)
			if err != nil {
				t.Fatal(err)
			}
			test(t, host)
		})
	}
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
	eachPlace(t, func(t *testing.T, host image.Host) {
		conformance.Source(t, func(t *testing.T, _ conformance.Content) image.Source { return source(t, host) })
	})
}

// TestCache uses a new directory for each test of the suite.
func TestCache(t *testing.T) {
	for name, ttl := range map[string]time.Duration{"believing": time.Hour, "asking": 0} {
		t.Run(name, func(t *testing.T) {
			eachPlace(t, func(t *testing.T, host image.Host) {
				conformance.Source(t, func(t *testing.T, _ conformance.Content) image.Source {
					c, err := cache.New(cache.Options{Dir: t.TempDir(), TTL: ttl, Timeout: timeout})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { c.Close() })
					return source(t, c.Host("registry.test", host))
				})
			})
		})
	}
}
