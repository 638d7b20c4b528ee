// Package registries runs real registries for tests and benchmarks, with every kind of authentication and TLS, a proxy that
// counts requests and injects faults, and images to put into them. Nothing of it outlives the test that started it.
// Distribution 3 is in the package below.
package registries

import (
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Auth is how a registry wants to know who asks.
type Auth int

const (
	// Anonymous lets everybody do everything.
	Anonymous Auth = iota
	// Htpasswd wants User and Password by HTTP Basic for each request.
	Htpasswd
	// Token wants a Bearer token, which a token server gives to User and Password. The server gives a token without any
	// access to those who come without credentials, and none to those who come with wrong ones.
	Token
)

// The one account that all registries with authentication know.
const (
	User     = "alice"
	Password = "correct horse & battery/staple"
)

// Config is what a registry is to be like. The zero value is an anonymous one over plain HTTP, empty.
type Config struct {
	Auth Auth
	// TLS serves HTTPS only, with a certificate of a new private authority.
	TLS bool
	// Delete allows the deletion of manifests and blobs.
	Delete bool
	// Schema1 accepts Docker schema 1 manifests, and converts to them for clients that accept nothing newer. Docker only.
	Schema1 bool
	// Storage is the folder the content is in, such as ManyTags makes; "" is a new one.
	Storage string
}

// Registry is a running registry.
type Registry struct {
	// Host is host:port, what stands before the first slash of a reference. The host is a loopback address.
	Host string
	// CA signed the registry's certificate; nil if it speaks plain HTTP.
	CA *CA
	// Auth is what the registry demands.
	Auth Auth
	// Storage is the folder the content is in; "" if it is in memory.
	Storage string
	// PID is the process of a Docker registry, 0 for those that run in this one.
	PID int
}

// Scheme is http or https.
func (r *Registry) Scheme() string {
	if r.CA != nil {
		return "https"
	}
	return "http"
}

// Transport trusts the registry's certificate. Connections do not outlive the test.
func (r *Registry) Transport(t TB) http.RoundTripper {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if r.CA != nil {
		transport.TLSClientConfig = r.CA.Client()
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// Options let go-containerregistry use the registry, with the credentials it wants.
func (r *Registry) Options(t TB) []remote.Option {
	auth := authn.Anonymous
	if r.Auth != Anonymous {
		auth = authn.FromConfig(authn.AuthConfig{Username: User, Password: Password})
	}
	return []remote.Option{remote.WithContext(t.Context()), remote.WithTransport(r.Transport(t)), remote.WithAuth(auth)}
}

// Ref is a repository:tag or repository@digest of this registry.
func (r *Registry) Ref(t TB, ref string) name.Reference {
	t.Helper()
	parsed, err := name.ParseReference(r.Host+"/"+ref, name.StrictValidation)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return parsed
}
