package registries

import (
	"errors"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// Match tells whether a request is meant.
type Match func(Request) bool

// Any means every request.
func Any(Request) bool { return true }

// Method means the requests of an HTTP method.
func Method(method string) Match { return func(r Request) bool { return r.Method == method } }

// Path means the requests whose path matches a regular expression, somewhere.
func Path(expr string) Match {
	re := regexp.MustCompile(expr)
	return func(r Request) bool { return re.MatchString(r.Path) }
}

// Get means the GETs whose path matches a regular expression, somewhere.
func Get(expr string) Match { return Both(Method(http.MethodGet), Path(expr)) }

// Both means the requests that all of match mean.
func Both(match ...Match) Match { return func(r Request) bool { return all(match, r) } }

func all(match []Match, r Request) bool {
	for _, m := range match {
		if !m(r) {
			return false
		}
	}
	return true
}

// Exchange is a request on its way to the registry.
type Exchange struct {
	Request *http.Request
	next    http.RoundTripper
	closing <-chan struct{}
}

// Send asks the registry.
func (e *Exchange) Send() (*http.Response, error) { return e.next.RoundTrip(e.Request) }

// Fault answers a request in the registry's place, asking it or not.
type Fault func(e *Exchange) (*http.Response, error)

// None is no fault. It spares the next requests a fault that is set after it.
func None(e *Exchange) (*http.Response, error) { return e.Send() }

// Status answers with a status and, unless it is "", Retry-After, without asking the registry.
func Status(status int, retryAfter string) Fault {
	return Answer(status, http.Header{"Content-Type": {"application/json"}, "Retry-After": {retryAfter}},
		`{"errors":[{"code":"UNKNOWN","message":"a fault made by the test"}]}`)
}

// Answer answers with what is given, without asking the registry. Headers whose value is "" are left out.
func Answer(status int, header http.Header, body string) Fault {
	return func(e *Exchange) (*http.Response, error) {
		resp := &http.Response{
			StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: e.Request,
			Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}
		for key := range header {
			if value := header.Get(key); value != "" {
				resp.Header.Set(key, value)
			}
		}
		return resp, nil
	}
}

// Drop breaks the connection after n bytes of the body.
func Drop(n int64) Fault {
	return change(func(e *Exchange, resp *http.Response) {
		resp.Body = body{io.MultiReader(io.LimitReader(resp.Body, n), broken{}), resp.Body}
	})
}

// Stall sends n bytes of the body and then nothing more, until the client goes away.
func Stall(n int64) Fault {
	return change(func(e *Exchange, resp *http.Response) {
		resp.Body = body{io.MultiReader(io.LimitReader(resp.Body, n), stalled{e}), resp.Body}
	})
}

// Hang sends nothing at all, not even a status, until the client goes away.
func Hang(e *Exchange) (*http.Response, error) {
	_, err := stalled{e}.Read(nil)
	return nil, err
}

// DropRequest lets the registry have n bytes of what it is sent, and then breaks both connections.
func DropRequest(n int64) Fault {
	return func(e *Exchange) (*http.Response, error) {
		if e.Request.Body != nil {
			e.Request.Body = body{io.MultiReader(io.LimitReader(e.Request.Body, n), broken{}), e.Request.Body}
		}
		return Swallow(e)
	}
}

// Swallow asks the registry and breaks the connection in place of its answer.
func Swallow(e *Exchange) (*http.Response, error) {
	if resp, err := e.Send(); err == nil {
		resp.Body.Close()
	}
	return nil, errDropped
}

// Truncate sends an answer that looks whole and ends after n bytes.
func Truncate(n int64) Fault {
	return change(func(e *Exchange, resp *http.Response) {
		resp.Body = body{io.LimitReader(resp.Body, n), resp.Body}
		resp.ContentLength = n
		resp.Header.Set("Content-Length", strconv.FormatInt(n, 10))
	})
}

// Corrupt flips a bit of the body's byte n, the first one being 0.
func Corrupt(n int64) Fault {
	return change(func(e *Exchange, resp *http.Response) {
		resp.Body = body{&flip{resp.Body, n}, resp.Body}
	})
}

// NoRanges answers every request for a part with the whole, as a server may.
func NoRanges(e *Exchange) (*http.Response, error) {
	e.Request.Header.Del("Range")
	return e.Send()
}

func change(fn func(e *Exchange, resp *http.Response)) Fault {
	return func(e *Exchange) (*http.Response, error) {
		resp, err := e.Send()
		if err == nil {
			fn(e, resp)
		}
		return resp, err
	}
}

type body struct {
	io.Reader
	io.Closer
}

// errDropped breaks the connection in place of an answer.
var errDropped = errors.New("an answer dropped by the test")

var errFault = errors.New("a fault made by the test")

// broken ends what is read before it in an error, upon which the proxy breaks the connection.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errFault }

// stalled blocks until the client goes away or the proxy ends.
type stalled struct{ *Exchange }

func (s stalled) Read([]byte) (int, error) {
	select {
	case <-s.Request.Context().Done():
	case <-s.closing:
	}
	return 0, errFault
}

// flip changes the byte at n, which counts down while others are read.
type flip struct {
	io.Reader
	n int64
}

func (f *flip) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if 0 <= f.n && f.n < int64(n) {
		p[f.n] ^= 1
	}
	f.n -= int64(n)
	return n, err
}
