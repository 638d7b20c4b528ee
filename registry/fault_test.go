package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regfs/regfs/image"
)

var quiet = log.New(io.Discard, "", 0)

// faulty is a registry with one blob and one image, behind something that fails.
func faulty(t *testing.T, fault func(next http.Handler) http.Handler) (host string, blob []byte, d, m image.Descriptor) {
	t.Helper()
	s := inProcess(t, nil)
	blob, d = content(2_000_000)
	pushBlob(t, s.URL, "foo", blob)
	raw, m := manifest(d, "")
	pushManifest(t, s.URL, "foo", "v1", raw, m.MediaType)
	return address(proxy(t, s.URL, fault)), blob, d, m
}

// cutter breaks a connection after some bytes of an answer.
type cutter struct {
	http.ResponseWriter
	left int
	stop func()
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		n, _ := c.ResponseWriter.Write(p[:c.left])
		c.left = 0
		c.ResponseWriter.(http.Flusher).Flush()
		c.stop()
		return n, errors.New("stopped")
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func (c *cutter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func drop() { panic(http.ErrAbortHandler) }

func TestResume(t *testing.T) {
	t.Parallel()
	for _, ranges := range []bool{true, false} {
		var requests atomic.Int32
		host, blob, d, _ := faulty(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if isBlob(r) {
					if !ranges {
						r.Header.Del("Range")
					}
					if n := int(requests.Add(1)); n <= 3 {
						w = &cutter{w, n * 500_000, drop}
					}
				}
				next.ServeHTTP(w, r)
			})
		})
		src := open(t, Options{}, host, "foo")
		if got, err := readBlob(t.Context(), src, d); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("ranges %v: %d bytes, %v", ranges, len(got), err)
		}
		if !ranges {
			_, err := src.FetchRange(t.Context(), d, 10, 10)
			if !errors.Is(err, image.ErrUnsupported) {
				t.Errorf("a range of a server that has none: %v; want ErrUnsupported", err)
			}
			continue
		}
		requests.Store(0)
		r, err := src.FetchRange(t.Context(), d, 1000, 1_900_000)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, blob[1000:1_901_000]) {
			t.Errorf("a range: %d bytes, %v", len(got), err)
		}
	}
}

func TestDropsForEver(t *testing.T) {
	t.Parallel()
	host, _, d, _ := faulty(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isBlob(r) && r.Header.Get("Range") != "" {
				panic(http.ErrAbortHandler)
			} else if isBlob(r) {
				w = &cutter{w, 1000, drop}
			}
			next.ServeHTTP(w, r)
		})
	})
	got, err := readBlob(t.Context(), open(t, Options{Timeout: 2 * time.Second}, host, "foo"), d)
	if len(got) != 1000 || !errors.Is(err, image.ErrUnavailable) {
		t.Errorf("%d bytes, %v; want ErrUnavailable", len(got), err)
	}
}

func TestCorrupt(t *testing.T) {
	t.Parallel()
	host, _, d, m := faulty(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&garbler{ResponseWriter: w}, r)
		})
	})
	src := open(t, Options{}, host, "foo")
	if got, err := readBlob(t.Context(), src, d); !errors.Is(err, image.ErrDigest) {
		t.Errorf("a corrupt blob: %d bytes, %v; want ErrDigest", len(got), err)
	}
	for _, ref := range []string{"v1", m.Digest.String()} {
		if _, _, err := src.Manifest(t.Context(), ref); !errors.Is(err, image.ErrDigest) {
			t.Errorf("a corrupt manifest, by %s: %v; want ErrDigest", ref, err)
		}
	}
}

// garbler changes a byte in each answer.
type garbler struct {
	http.ResponseWriter
	done bool
}

func (g *garbler) Write(p []byte) (int, error) {
	if !g.done && len(p) > 0 {
		p = bytes.Clone(p)
		p[len(p)-1] ^= 1
		g.done = true
	}
	return g.ResponseWriter.Write(p)
}

func TestTooShort(t *testing.T) {
	t.Parallel()
	blob, d := content(1000)
	s := inProcess(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isBlob(r) {
				_, _ = w.Write(blob[:500])
			}
		})
	})
	src := open(t, Options{}, address(s), "foo")
	if _, err := readBlob(t.Context(), src, d); !errors.Is(err, image.ErrDigest) {
		t.Errorf("half a blob: %v; want ErrDigest", err)
	}
	r, err := src.FetchRange(t.Context(), d, 0, 800)
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if !errors.Is(err, image.ErrDigest) {
		t.Errorf("a range of half a blob: %v; want ErrDigest", err)
	}
}

// TestStalls: a server that says no more is asked once more for the rest, and has the time it is given in all.
func TestStalls(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	for _, test := range []struct {
		what     string
		first    int // bytes of the first answer
		more     int // and of those to ranges
		want     int
		succeeds bool
	}{
		{"before the answer", -1, -1, 0, false},
		{"within it, once", 1000, 1 << 30, 2_000_000, true},
		{"within it, for good", 1000, -1, 1000, false},
		{"within it, twice", 1000, 0, 1000, false},
	} {
		host, _, d, _ := faulty(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				stop := func() { <-r.Context().Done() }
				n := test.first
				if r.Header.Get("Range") != "" {
					n = test.more
				}
				switch {
				case isBlob(r) && n < 0:
					stop()
				case isBlob(r):
					w = &cutter{w, n, stop}
				}
				next.ServeHTTP(w, r)
			})
		})
		src := open(t, Options{Timeout: timeout}, host, "foo")
		start := time.Now()
		got, err := readBlob(t.Context(), src, d)
		if took := time.Since(start); len(got) != test.want || took > 2*timeout {
			t.Errorf("%s: %d bytes in %v", test.what, len(got), took)
		}
		stalled := errors.Is(err, context.DeadlineExceeded) && errors.Is(err, image.ErrUnavailable)
		if (err == nil) != test.succeeds || err != nil && !stalled {
			t.Errorf("%s: %v; want DeadlineExceeded and ErrUnavailable", test.what, err)
		}
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 10)
	host, _, d, _ := faulty(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isBlob(r) {
				arrived <- struct{}{}
				<-r.Context().Done()
			}
			next.ServeHTTP(w, r)
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	start := time.Now()
	_, err := readBlob(ctx, open(t, Options{Timeout: time.Minute}, host, "foo"), d)
	if !errors.Is(err, context.Canceled) || errors.Is(err, image.ErrUnavailable) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v; want Canceled at once", err, time.Since(start))
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		header string
		body   string
		times  int32 // how often it fails
		want   error
		words  string
	}{
		{500, "", "", 2, nil, ""},
		{503, "1", "", 1, nil, ""},
		{429, "1", "", 1, nil, ""},
		{429, "3600", `{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}`, 1, image.ErrUnavailable, "toomanyrequests: pull rate limit (429)"},
		{404, "", `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\nunknown"}]}`, 9, image.ErrNotFound, "manifest_unknown: manifest unknown (404)"},
		{403, "", "<html>no</html>", 9, image.ErrDenied, "forbidden (403)"},
		{405, "", "", 9, image.ErrUnsupported, "method not allowed (405)"},
		{400, "", `{"errors":[{"code":"UNSUPPORTED"}]}`, 9, image.ErrUnsupported, "unsupported (400)"},
		{451, "", "", 9, nil, "unavailable for legal reasons (451)"},
	} {
		var failed atomic.Int32
		host, _, _, _ := faulty(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/manifests/") && failed.Add(1) <= test.times {
					if test.header != "" {
						w.Header().Set("Retry-After", test.header)
					}
					w.WriteHeader(test.status)
					_, _ = w.Write([]byte(test.body))
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		_, _, err := open(t, Options{}, host, "foo").Manifest(t.Context(), "v1")
		if test.want != nil && !errors.Is(err, test.want) || test.words == "" && err != nil {
			t.Errorf("%d: %v; want %v", test.status, err, test.want)
		}
		if want := "get manifest " + host + "/foo:v1: " + test.words; test.words != "" && (err == nil || err.Error() != want) {
			t.Errorf("%d: %v; want %s", test.status, err, want)
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	start := time.Now()
	_, err := open(t, Options{}, freeAddress(t), "foo").Resolve(t.Context(), "v1")
	if !errors.Is(err, image.ErrUnavailable) || errors.Is(err, image.ErrNotFound) || time.Since(start) > 3*time.Second {
		t.Errorf("nobody listens: %v after %v; want ErrUnavailable", err, time.Since(start))
	}
	unknown := func(http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			return nil, &net.DNSError{Err: "no such host", Name: r.URL.Hostname(), IsNotFound: true}
		})
	}
	_, err = open(t, Options{Transport: unknown}, "no.example", "foo").Resolve(t.Context(), "v1")
	if !errors.Is(err, image.ErrUnavailable) || !errors.Is(err, image.ErrNotFound) {
		t.Errorf("no such host: %v; want ErrNotFound and ErrUnavailable", err)
	}
}

func TestHugeManifest(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	s := inProcess(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				next.ServeHTTP(w, r)
				return
			}
			w.(http.Flusher).Flush() // no length
			for range 100 {
				n, err := w.Write(make([]byte, 1<<20))
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		})
	})
	_, _, err := open(t, Options{}, address(s), "foo").Manifest(t.Context(), "v1")
	if !errors.Is(err, image.ErrInvalid) {
		t.Errorf("%v; want ErrInvalid", err)
	}
}

func TestHeadlessRegistry(t *testing.T) {
	t.Parallel()
	for _, head := range []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) },
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		func(w http.ResponseWriter, _ *http.Request) {},
	} {
		host, _, d, m := faulty(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/manifests/") {
					head(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		src := open(t, Options{}, host, "foo")
		if got, err := src.Resolve(t.Context(), "v1"); err != nil || got.Digest != m.Digest {
			t.Errorf("Resolve = %v, %v; want %v", got, err, m)
		}
		for _, d := range []image.Descriptor{d, m} {
			if got, err := src.Stat(t.Context(), d.Digest); err != nil || got.Size != d.Size {
				t.Errorf("Stat = %v, %v; want %v", got, err, d)
			}
		}
	}
}

// TestEndlessRedirects ends.
func TestEndlessRedirects(t *testing.T) {
	t.Parallel()
	_, d := content(10)
	s := inProcess(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !isBlob(r) {
				next.ServeHTTP(w, r)
				return
			}
			http.Redirect(w, r, r.URL.Path+fmt.Sprint(len(r.URL.Path)), http.StatusFound)
		})
	})
	if _, err := readBlob(t.Context(), open(t, Options{}, address(s), "foo"), d); err == nil || !strings.Contains(err.Error(), "redirects") {
		t.Errorf("%v", err)
	}
}
