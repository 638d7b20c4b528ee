// Package distribution runs distribution 3 for tests. It is apart from registries because it brings several hundred packages,
// which programs that only need another registry are not to wait for.
package distribution

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/sirupsen/logrus"

	"github.com/regfs/regfs/tests/registries"
)

// Start starts distribution 3 in this process. Its log, of which a process has only one, is discarded. It knows no schema 1.
func Start(t registries.TB, c registries.Config) *registries.Registry {
	t.Helper()
	logrus.SetOutput(io.Discard)
	return registries.InProcess(t, c, func(settings []byte) (http.Handler, error) {
		conf, err := configuration.Parse(bytes.NewReader(settings))
		if err != nil {
			return nil, err
		}
		app := handlers.NewApp(context.WithoutCancel(t.Context()), conf)
		t.Cleanup(func() { app.Shutdown() })
		return app, nil
	})
}
