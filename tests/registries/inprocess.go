package registries

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/google/go-containerregistry/pkg/registry"
)

// InProcess starts a registry in this process that takes distribution's configuration, in YAML.
func InProcess(t TB, c Config, open func(settings []byte) (http.Handler, error)) *Registry {
	t.Helper()
	c, ca := prepare(t, c)
	handler, err := open(marshal(t, settings(t, c, ca)))
	if err != nil {
		t.Fatalf("registry: %v", err)
	}
	return &Registry{Host: serve(t, handler, ca), CA: ca, Auth: c.Auth, Storage: c.Storage}
}

// Memory starts go-containerregistry's registry in this process: empty, in memory, anonymous, over plain HTTP, with the
// referrers API. It stores whatever bytes it is sent as a manifest, valid or not.
func Memory(t TB) *Registry {
	t.Helper()
	handler := registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))
	return &Registry{Host: serve(t, handler, nil)}
}

// Handler serves a registry of the test's own making, for what no real one would say.
func Handler(t TB, h http.Handler) *Registry {
	t.Helper()
	return &Registry{Host: serve(t, h, nil)}
}

// serve listens on a free loopback port until the test ends, over TLS if there is an authority to sign for it.
func serve(t TB, handler http.Handler, ca *CA) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if ca == nil {
		server.Start()
	} else {
		server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.certificate(t)}}
		server.StartTLS()
	}
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.Listener.Addr().String()
}
