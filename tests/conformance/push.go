package conformance

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Push puts the content into a repository of a registry: host is host:port, spoken to over plain HTTP. A registry does not take
// what is corrupt.
func Push(t *testing.T, host, repository string, content Content) {
	t.Helper()
	repo, err := name.NewRepository(host+"/"+repository, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range content.Blobs {
		if err := remote.WriteLayer(repo, static.NewLayer(b.Bytes, types.MediaType(b.MediaType))); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range content.Manifests {
		put(t, repo.Digest(m.Digest.String()), m)
		for tag, d := range content.Tags {
			if d.Digest == m.Digest {
				put(t, repo.Tag(tag), m)
			}
		}
	}
}

func put(t *testing.T, ref name.Reference, m Entry) {
	t.Helper()
	if err := remote.Put(ref, taggable{m}); err != nil {
		t.Fatal(err)
	}
}

// taggable is a manifest as go-containerregistry wants it.
type taggable struct{ Entry }

func (m taggable) RawManifest() ([]byte, error) { return m.Bytes, nil }
func (m taggable) MediaType() (types.MediaType, error) {
	return types.MediaType(m.Entry.MediaType), nil
}

// Serve runs go-containerregistry's registry in this process, and serves what is corrupt as if it were not. It returns the
// registry's host:port.
func Serve(t *testing.T, corrupt Entry) string {
	t.Helper()
	whole := registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+corrupt.Digest.String()) {
			w.Write(corrupt.Bytes)
			return
		}
		whole.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}
