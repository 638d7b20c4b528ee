package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/pflag"

	"github.com/regfs/regfs/registry"
)

// addRegistryFlags defines the flags of every command that speaks to registries, which set c.
func (c *config) addRegistryFlags(f *pflag.FlagSet) {
	f.Func("insecure", "use plain HTTP or unverified TLS for this registry, a `host`[:port] (repeatable)", c.addInsecure)
	f.DurationVar(&c.timeout, "timeout", time.Minute, "give up on a registry that moves no byte for this long")
}

func (c *config) checkTimeout() error {
	if c.timeout <= 0 {
		return usageError{fmt.Errorf("a --timeout of %v leaves no time for anything", c.timeout)}
	}
	return nil
}

// newClient speaks to registries as c says. A transport that is not nil wraps what carries each request.
func (c *config) newClient(transport func(http.RoundTripper) http.RoundTripper) *registry.Client {
	return registry.New(registry.Options{
		Timeout: c.timeout, Insecure: c.insecure, UserAgent: "regfs/" + release(), Transport: transport,
	})
}
