package conformance_test

import (
	"testing"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/registry"
	"github.com/regfs/regfs/tests/conformance"
	"github.com/regfs/regfs/tests/registries"
	"github.com/regfs/regfs/tests/registries/distribution"
)

// writable are registries that can be written to, and whose tags go with the manifests that are deleted. In
// go-containerregistry's they stay.
var writable = map[string]func(t *testing.T) *registries.Registry{
	"docker-registry": func(t *testing.T) *registries.Registry { return registries.Docker(t, registries.Config{Delete: true}) },
	"distribution":    func(t *testing.T) *registries.Registry { return distribution.Start(t, registries.Config{Delete: true}) },
}

func TestRegistrySink(t *testing.T) {
	for name, start := range writable {
		t.Run(name, func(t *testing.T) {
			conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
				client := registry.New(registry.Options{Timeout: timeout})
				t.Cleanup(func() { client.Close() })
				host, err := client.Host(start(t).Host)
				if err != nil {
					t.Fatal(err)
				}
				sink, err := host.Sink(t.Context(), repository)
				if err != nil {
					t.Fatal(err)
				}
				return sink, source(t, host)
			})
		})
	}
}
