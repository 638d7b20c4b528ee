package registries

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
)

// Request is what a client asked a Proxy for.
type Request struct {
	Method string
	// Path and Query are those of the URL.
	Path, Query string
	// Range is the header of that name, "" without one.
	Range string
	// Header is all that the client sent. It is not to be changed.
	Header http.Header
	// Status is what the client was answered, 0 as long as it was not.
	Status int
	// Bytes is how much of the answer's body was sent on so far.
	Bytes int64
}

// auth tells whether the request only served to find out who may ask: the ping of /v2/ and what was answered by 401, as the
// client asks again. Tokens come from another server.
func (r Request) auth() bool {
	return r.Path == "/v2/" || r.Path == "/v2" || r.Status == http.StatusUnauthorized
}

// Proxy stands before a registry, and is one to its clients. It records requests and does to answers what a test wants.
type Proxy struct {
	*Registry
	mu       sync.Mutex
	requests []*Request
	faults   []*armed
	// closing ends what stalls.
	closing chan struct{}
}

// NewProxy starts a proxy before a registry; over TLS, with the same authority, if that one is.
func NewProxy(t TB, upstream *Registry) *Proxy {
	t.Helper()
	p := &Proxy{closing: make(chan struct{})}
	transport := upstream.Transport(t).(*http.Transport)
	transport.DisableCompression = true
	handler := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: upstream.Scheme(), Host: upstream.Host})
			// With the client's Host, the registry makes Location headers that lead back here.
			r.Out.Host = r.In.Host
		},
		Transport: &recorder{p, transport}, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(err, errDropped) {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	host := serve(t, handler, upstream.CA)
	// Cleanups run last first: what stalls has to end before the server can.
	t.Cleanup(func() { close(p.closing) })
	p.Registry = &Registry{
		Host: host, CA: upstream.CA, Auth: upstream.Auth, Storage: upstream.Storage, PID: upstream.PID,
	}
	return p
}

// Requests are all that came since the start or the last Reset, in order, those for authentication too.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	requests := make([]Request, len(p.requests))
	for i, r := range p.requests {
		requests[i] = *r
	}
	return requests
}

// Reset forgets the requests recorded so far, and all faults.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests, p.faults = nil, nil
}

// Sent are the requests that all of match hold for, authentication left out.
func (p *Proxy) Sent(match ...Match) []Request {
	return slices.DeleteFunc(p.Requests(), func(r Request) bool { return r.auth() || !all(match, r) })
}

// Count is how many requests all of match hold for, authentication left out.
func (p *Proxy) Count(match ...Match) int { return len(p.Sent(match...)) }

// Fault does f to the answers of the next requests that match, as many as times; to all of them if times is negative. Of
// several faults for a request the first one set wins. Pings for authentication are requests too.
func (p *Proxy) Fault(times int, match Match, f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &armed{times, match, f})
}

type armed struct {
	times int
	match Match
	fault Fault
}

// begin records a request, and tells which fault it is to meet.
func (p *Proxy) begin(r *Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, r)
	for _, a := range p.faults {
		if a.times != 0 && a.match(*r) {
			a.times--
			return a.fault
		}
	}
	return None
}

func (p *Proxy) answered(r *Request, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Status = status
}

// recorder is the proxy's transport. It records before the client can see the answer, so that a client that has all it asked
// for, has been counted.
type recorder struct {
	proxy *Proxy
	next  http.RoundTripper
}

func (rec *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r := &Request{
		Method: req.Method, Path: req.URL.Path, Query: req.URL.RawQuery,
		Range: req.Header.Get("Range"), Header: req.Header.Clone(),
	}
	fault := rec.proxy.begin(r)
	resp, err := fault(&Exchange{Request: req, next: rec.next, closing: rec.proxy.closing})
	status := http.StatusBadGateway
	if err == nil {
		status = resp.StatusCode
	}
	rec.proxy.answered(r, status)
	if err == nil {
		resp.Body = body{counted{resp.Body, rec.proxy, r}, resp.Body}
	}
	return resp, err
}

// counted counts what is read of an answer.
type counted struct {
	io.Reader
	proxy   *Proxy
	request *Request
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.proxy.mu.Lock()
	c.request.Bytes += int64(n)
	c.proxy.mu.Unlock()
	return n, err
}
