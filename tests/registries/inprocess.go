package registries

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/sirupsen/logrus"
)

// Distribution starts distribution 3 in this process. Its log, which can only be had by the process, is discarded.
func Distribution(t TB, c Config) *Registry {
	t.Helper()
	logrus.SetOutput(io.Discard)
	c, ca := prepare(t, c)
	conf, err := configuration.Parse(bytes.NewReader(marshal(t, settings(t, c, ca))))
	if err != nil {
		t.Fatalf("distribution: %v", err)
	}
	app := handlers.NewApp(context.WithoutCancel(t.Context()), conf)
	t.Cleanup(func() { app.Shutdown() })
	return &Registry{Host: serve(t, app, ca), CA: ca, Auth: c.Auth, Storage: c.Storage}
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
