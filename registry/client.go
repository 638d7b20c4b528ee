// Package registry reads and writes container registries over the Distribution API, as docker:// does elsewhere.
//
// It follows the configuration that podman, skopeo and buildah share: registries.conf (version 2) with its mirrors and
// rewrites, certs.d, auth.json and credential helpers. HTTP never leaves this package: what goes wrong is one of the errors of
// package image, or none of them where none fits.
package registry

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/regfs/regfs/image"
	"go.podman.io/image/v5/types"
)

// Options are what a Client can be told. The zero value is fine.
type Options struct {
	// Timeout is how long an operation goes on without a byte moving, retries included. 0 means a minute.
	Timeout time.Duration
	// Insecure names the registries, host or host:port, that may be spoken to over plain HTTP or unverified TLS.
	Insecure []string
	// UserAgent is sent with every request.
	UserAgent string
	// System says where the configuration of the system lies; nil means where it always does.
	System *types.SystemContext
	// Transport, unless nil, wraps what carries every single request, those for tokens too. It may be called once per registry.
	Transport func(http.RoundTripper) http.RoundTripper
}

// Client speaks to any number of registries. It is safe for concurrent use.
type Client struct {
	options Options
	pieces  pieces

	mu        sync.Mutex
	endpoints map[endpointKey]*endpoint
	subjects  map[string]*subjectLock
	owed      map[string]bool
}

// New makes a Client. It reads no configuration and sends nothing.
func New(o Options) *Client {
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	return &Client{
		options: o, pieces: pieces{chunkSize, bufferedSize},
		endpoints: map[endpointKey]*endpoint{}, subjects: map[string]*subjectLock{}, owed: map[string]bool{},
	}
}

// Host is the registry of that name: host or host:port. It sends nothing; a name no registry can have is ErrNotFound.
func (c *Client) Host(name string) (image.Host, error) {
	if err := checkHost(name); err != nil {
		return nil, err
	}
	return &host{client: c, name: strings.ToLower(name)}, nil
}

// deadline is when an operation that starts now, or moved a byte now, has taken too long.
func (c *Client) deadline() time.Time { return time.Now().Add(c.options.Timeout) }

// Close gives up idle connections. What is still being read goes on.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.endpoints {
		e.reset()
	}
	return nil
}

// host is a registry by the name users give it, which may stand for others.
type host struct {
	client *Client
	name   string
}

func (h *host) Source(_ context.Context, repository string) (image.Source, error) {
	s, err := h.repository(repository)
	if err != nil {
		return nil, err // and no *source that is nil
	}
	return s, nil
}

// Sink writes to the registry itself, never to a mirror.
func (h *host) Sink(_ context.Context, repository string) (image.Sink, error) {
	s, err := h.repository(repository)
	if err != nil {
		return nil, err
	}
	return &sink{s}, nil
}

func (h *host) repository(repository string) (*source, error) {
	if !image.ValidRepository(repository) || len(h.name)+1+len(repository) > maxName {
		return nil, &failure{what: h.name + "/" + clean(repository), words: "no repository has such a name",
			kinds: []error{image.ErrNotFound}}
	}
	return &source{client: h.client, host: h.name, repository: repository}, nil
}

// Close does nothing: connections are the Client's.
func (h *host) Close() error { return nil }

// source is a repository by the name users give it.
type source struct {
	client     *Client
	host       string
	repository string
}

func (s *source) name() string { return s.host + "/" + s.repository }

// Close does nothing: connections are the Client's.
func (s *source) Close() error { return nil }
