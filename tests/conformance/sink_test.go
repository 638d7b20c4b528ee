package conformance_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/registry"
	"github.com/regfs/regfs/tests/conformance"
	"github.com/regfs/regfs/tests/registries"
	"github.com/regfs/regfs/tests/registries/distribution"
)

// writable are the registries to write to, started without content: one for each test, since in some of them what one repository
// has another one has too.
var writable = map[string]func(t *testing.T) (address string){
	"go-containerregistry": memory,
	"docker-registry":      func(t *testing.T) string { return registries.Docker(t, registries.Config{Delete: true}).Host },
	"distribution":         func(t *testing.T) string { return distribution.Start(t, registries.Config{Delete: true}).Host },
}

// memory is a registry that deletes tags only: left to itself, it would delete a manifest and leave the tags of it.
func memory(t *testing.T) string {
	p := registries.NewProxy(t, registries.Memory(t))
	p.Fault(-1, registries.Both(registries.Method(http.MethodDelete), registries.Path("sha256:")), registries.Status(http.StatusMethodNotAllowed, ""))
	return p.Host
}

// newRegistry is a client of a registry that was started for it.
func newRegistry(t *testing.T, start func(t *testing.T) string) image.Host {
	t.Helper()
	client := registry.New(registry.Options{Timeout: timeout})
	t.Cleanup(func() { client.Close() })
	host, err := client.Host(start(t))
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func TestRegistrySink(t *testing.T) {
	for name, start := range writable {
		t.Run(name, func(t *testing.T) {
			conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
				host := newRegistry(t, start)
				return sink(t, host), source(t, host)
			})
		})
	}
}

// TestCacheSink writes through a cache and reads through it what was written, whether it believes for long or asks each time.
func TestCacheSink(t *testing.T) {
	for name, ttl := range map[string]time.Duration{"believing": time.Hour, "asking": 0} {
		t.Run(name, func(t *testing.T) {
			conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
				host := cached(t, ttl, newRegistry(t, memory))
				return sink(t, host), source(t, host)
			})
		})
	}
}

func sink(t *testing.T, host image.Host) image.Sink {
	t.Helper()
	s, err := host.Sink(t.Context(), repository)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
