package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// How many connections wait for the next request, and for how long; and how much is read from one at once, in bytes.
const (
	idleConns   = 16
	idleTimeout = 30 * time.Second
	bufferSize  = 128 << 10
)

// downTime is how long a mirror that could not be reached is asked last.
const downTime = 30 * time.Second

// dockerHub answers for docker.io.
const dockerHub = "registry-1.docker.io"

type endpointKey struct {
	host     string // as the configuration names it
	insecure bool
}

// endpoint is one server that speaks the Distribution API.
type endpoint struct {
	endpointKey
	client *Client

	connecting lock        // held while finding out how to speak to it
	doesHead   atomic.Bool // it has answered a HEAD for a manifest as it should

	mu       sync.Mutex
	conn     *connection // nil until it answered
	sessions map[sessionKey]*session
	down     time.Time // when it could not be reached
}

// connection is what is known of an endpoint once it answered.
type connection struct {
	scheme    string
	challenge *transport.Challenge // nil where /v2/ asks for nothing
	transport http.RoundTripper
	http      *http.Client
}

// lock is a mutex that can be waited for with a context.
type lock chan struct{}

func (l lock) acquire(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l lock) release() { <-l }

// endpoint is the server of that name, always the same.
func (c *Client) endpoint(host string, insecure bool) *endpoint {
	key := endpointKey{host, insecure || slices.Contains(c.options.Insecure, host)}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.endpoints[key]
	if e == nil {
		e = &endpoint{endpointKey: key, client: c, connecting: make(lock, 1), sessions: map[sessionKey]*session{}}
		c.endpoints[key] = e
	}
	return e
}

// address is where the endpoint is reached.
func (e *endpoint) address() string {
	if e.host == "docker.io" {
		return dockerHub
	}
	return e.host
}

// connect finds out, once, which scheme the endpoint speaks and what it asks for.
func (e *endpoint) connect(ctx context.Context) (*connection, error) {
	if err := e.connecting.acquire(ctx); err != nil {
		return nil, err
	}
	defer e.connecting.release()
	if conn := e.connected(); conn != nil {
		return conn, nil
	}
	conn, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conn = conn
	return conn, nil
}

func (e *endpoint) connected() *connection {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conn
}

// forget makes the next request find everything out anew: certificates may have been added, the scheme changed.
func (e *endpoint) forget(conn *connection) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn == conn {
		e.conn = nil
		conn.http.CloseIdleConnections()
	}
}

// reset forgets whatever connection there is: the other side fell silent on it.
func (e *endpoint) reset() {
	if conn := e.connected(); conn != nil {
		e.forget(conn)
	}
}

// plainHTTP tells whether the endpoint may be spoken to without TLS.
func (e *endpoint) plainHTTP() bool { return e.insecure || onLoopback(e.address()) }

// dial asks /v2/ over HTTPS and, where it may, over HTTP.
func (e *endpoint) dial(ctx context.Context) (*connection, error) {
	config, err := e.tlsConfig()
	if err != nil {
		return nil, &failure{what: "certificates for " + e.host, words: clean(err.Error())}
	}
	t := e.transport(config)
	conn := &connection{transport: t, http: &http.Client{Transport: t, CheckRedirect: e.checkRedirect}}
	conn.scheme = "https"
	err = e.ping(ctx, conn)
	var status *statusError
	if err == nil || !e.plainHTTP() || errors.As(err, &status) || ctx.Err() != nil {
		return conn, err
	}
	conn.scheme = "http"
	second := e.ping(ctx, conn)
	switch {
	case statusOf(second) == http.StatusBadRequest:
		return nil, err // as servers answer plain HTTP where they speak TLS
	case second == nil || errors.As(second, &status):
		return conn, second
	}
	if err.Error() == second.Error() {
		return nil, second
	}
	return nil, errors.Join(err, second)
}

// ping asks /v2/ what it takes to enter. Registries that have nothing to say there are asked again by use.
func (e *endpoint) ping(ctx context.Context, conn *connection) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, conn.scheme+"://"+e.address()+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := conn.http.Do(r)
	if err != nil {
		return plain(err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnauthorized:
		drain(resp)
		if conn.challenge = challengeOf(ctx, conn, resp); conn.challenge != nil {
			delete(conn.challenge.Parameters, "scope") // an example, as it is about no repository
		}
		return nil
	}
	return newStatusError(resp, false)
}

// drain reads what is left of a short answer, so that its connection can be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody)
	resp.Body.Close()
}

// transport carries requests to the endpoint, and to wherever it sends for tokens and blobs.
func (e *endpoint) transport(config *tls.Config) http.RoundTripper {
	half := e.client.options.Timeout / 2
	var t http.RoundTripper = &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: half, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: half,
		ForceAttemptHTTP2:   true,
		// One dead connection would be every request's.
		HTTP2: &http.HTTP2Config{SendPingTimeout: half / 2, PingTimeout: half / 2},
		// Digests are of the bytes as they are stored.
		DisableCompression:  true,
		MaxIdleConnsPerHost: idleConns,
		IdleConnTimeout:     idleTimeout,
		ReadBufferSize:      bufferSize,
	}
	if e.client.options.Transport != nil {
		t = e.client.options.Transport(t)
	}
	return &guard{RoundTripper: t, plainHTTP: e.plainHTTP(), agent: e.client.options.UserAgent}
}

// guard holds what passes through it to the rules, whoever sends it: no plain HTTP where none may be.
type guard struct {
	http.RoundTripper
	plainHTTP bool
	agent     string
}

func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.plainHTTP {
		return nil, fmt.Errorf("%w: plain HTTP to %s, which is not marked insecure", errRefused, r.URL.Host)
	}
	if g.agent != "" {
		r = r.Clone(r.Context())
		r.Header.Set("User-Agent", g.agent)
	}
	return g.RoundTripper.RoundTrip(r)
}

func (g *guard) CloseIdleConnections() {
	(&http.Client{Transport: g.RoundTripper}).CloseIdleConnections()
}

// maxRedirects is how far a registry may send for a blob.
const maxRedirects = 5

// checkRedirect lets a registry send for its blobs elsewhere, without the credentials meant for it.
func (e *endpoint) checkRedirect(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d redirects", errRefused, maxRedirects)
	}
	if first.Scheme == "https" && r.URL.Scheme != "https" && !e.insecure {
		return fmt.Errorf("%w: a redirect from HTTPS to %s", errRefused, r.URL.Scheme)
	}
	r.Header.Del("Referer") // it would carry the query, and that may carry a signature
	if r.URL.Host != first.Host || r.URL.Scheme != first.Scheme {
		r.Header.Del("Authorization")
	}
	return nil
}

// isDown tells whether the endpoint could not be reached a moment ago.
func (e *endpoint) isDown() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.down.IsZero() && time.Since(e.down) < downTime
}

// setDown remembers whether the endpoint could be reached.
func (e *endpoint) setDown(down bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = time.Time{}
	if down {
		e.down = time.Now()
	}
}
