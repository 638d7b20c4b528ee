package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/tests/registries"
	"github.com/regfs/regfs/tests/registries/distribution"
)

// small pieces make tests of many of them fast.
var small = pieces{chunk: 100_000, buffered: 30_000}

// kinds are the registries that everything is to work with.
var kinds = map[string]func(t *testing.T, c registries.Config) *registries.Registry{
	"memory":       func(t *testing.T, _ registries.Config) *registries.Registry { return registries.Memory(t) },
	"docker":       func(t *testing.T, c registries.Config) *registries.Registry { return registries.Docker(t, c) },
	"distribution": func(t *testing.T, c registries.Config) *registries.Registry { return distribution.Start(t, c) },
}

// eachKind runs a test against a proxy before each kind of registry but those left out.
func eachKind(t *testing.T, c registries.Config, test func(t *testing.T, kind string, p *registries.Proxy), without ...string) {
	t.Parallel()
	for kind, start := range kinds {
		if strings.Contains(strings.Join(without, " "), kind) {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, kind, registries.NewProxy(t, start(t, c)))
		})
	}
}

// writable opens a repository for reading and writing, with a client of its own and pieces of that size.
func writable(t *testing.T, o Options, host, repository string, p pieces) (image.Sink, image.Source) {
	t.Helper()
	if o.System == nil {
		o.System = system(t, "")
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	c := New(o)
	t.Cleanup(func() { c.Close() })
	if p != (pieces{}) {
		c.pieces = p
	}
	h, err := c.Host(host)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := h.Sink(t.Context(), repository)
	if err != nil {
		t.Fatal(err)
	}
	src, err := h.Source(t.Context(), repository)
	if err != nil {
		t.Fatal(err)
	}
	return sink, src
}

// of is content that is there.
func of(raw []byte, origins ...image.Repository) image.Content {
	return image.Content{Origins: origins, Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw[off:])), nil
	}}
}

func unknownSize(d image.Descriptor) image.Descriptor {
	d.Size = -1
	return d
}

func mustPush(t *testing.T, s image.Sink, d image.Descriptor, c image.Content, want image.How) {
	t.Helper()
	if how, err := s.Push(t.Context(), d, c); err != nil || how != want {
		t.Fatalf("push of %d bytes: %q, %v; want %q", d.Size, how, err, want)
	}
}

func mustHave(t *testing.T, src image.Source, d image.Descriptor, raw []byte) {
	t.Helper()
	d.Size = int64(len(raw))
	if got, err := readBlob(t.Context(), src, d); err != nil || !bytes.Equal(got, raw) {
		t.Fatalf("what was pushed reads as %d bytes, %v", len(got), err)
	}
}

// uploads are the requests of an upload, as METHOD STATUS.
func uploads(p *registries.Proxy) []string {
	var all []string
	for _, r := range p.Sent(registries.Path("/blobs/")) {
		all = append(all, fmt.Sprint(r.Method, " ", r.Status))
	}
	return all
}

func TestPushBlobs(t *testing.T) {
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		sink, src := writable(t, Options{}, p.Host, "foo/bar", small)
		for _, size := range []int{0, 1, 2, 29_999, 30_000, 30_001, 90_000, 100_000, 100_001, 350_000} {
			for _, known := range []bool{true, false} {
				raw, d := content(size)
				raw = append(raw, fmt.Sprint(known)...)
				d = describe(d.MediaType, raw)
				if !known {
					d.Size = -1
				}
				p.Reset()
				var sent int64
				c := of(raw)
				c.Remote, c.Sent = true, func(n int64) { sent = n }
				mustPush(t, sink, d, c, image.Streamed)
				mustHave(t, src, d, raw)
				if sent != int64(len(raw)) {
					t.Errorf("Sent said %d of %d", sent, len(raw))
				}
				mustPush(t, sink, d, of(raw), image.Skipped)
			}
		}
		raw := []byte{}
		mustPush(t, sink, describe("x/y", raw), of(raw), image.Uploaded)
		mustHave(t, src, describe("x/y", raw), raw)
	})
}

func TestRequestsOfAPush(t *testing.T) {
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		sink, _ := writable(t, Options{}, p.Host, "foo/bar", small)
		for _, test := range []struct {
			size  int
			known bool
			want  []string
		}{
			{100_000, true, []string{"HEAD 404", "POST 202", "PUT 201"}},
			{250_000, true, []string{"HEAD 404", "POST 202", "PATCH 202", "PATCH 202", "PATCH 202", "PUT 201"}},
			{20_000, false, []string{"HEAD 404", "POST 202", "PUT 201"}},
			{50_000, false, []string{"HEAD 404", "POST 202", "PATCH 202", "PATCH 202", "PUT 201"}},
		} {
			raw, d := content(test.size)
			if !test.known {
				d = unknownSize(d)
			}
			p.Reset()
			mustPush(t, sink, d, of(raw), image.Uploaded)
			if got := uploads(p); !diff.Equal(got, test.want) {
				t.Errorf("%d bytes: %q, want %q", test.size, got, test.want)
			}
		}
	})
}

func TestPushLarge(t *testing.T) {
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		sink, src := writable(t, Options{}, p.Host, "foo", pieces{})
		raw, d := content(chunkSize + 5_000_000)
		mustPush(t, sink, d, of(raw), image.Uploaded)
		mustHave(t, src, d, raw)
	})
}

func TestTagAndPushManifest(t *testing.T) {
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		sink, src := writable(t, Options{}, p.Host, "foo", small)
		blob, b := content(1000)
		raw, m := manifest(b, "first")
		if _, err := sink.Push(t.Context(), m, of(raw)); kind != "memory" && (!errors.Is(err, image.ErrNotFound) || !strings.Contains(err.Error(), b.Digest.String())) {
			t.Errorf("a manifest before its blob: %v; want ErrNotFound and which one", err)
		}
		mustPush(t, sink, b, of(blob), image.Uploaded)
		if err := sink.Tag(t.Context(), m, raw, "v1"); err != nil {
			t.Fatal(err)
		}
		mustPush(t, sink, m, of(raw), image.Skipped)
		second, n := manifest(b, "second")
		mustPush(t, sink, n, of(second), image.Uploaded)
		if err := sink.Tag(t.Context(), n, second, "v1"); err != nil {
			t.Fatal(err)
		}
		for _, ref := range []string{"v1", n.Digest.String()} {
			if got, back, err := src.Manifest(t.Context(), ref); err != nil || got.Digest != n.Digest || !bytes.Equal(back, second) {
				t.Errorf("%s: %v, %v", ref, got, err)
			}
		}
		for what, test := range map[string]struct {
			d    image.Descriptor
			tag  string
			want error
		}{
			"no media type": {image.Descriptor{Digest: m.Digest, Size: m.Size}, "v2", image.ErrInvalid},
			"another":       {n, "v2", image.ErrDigest},
			"a bad tag":     {m, "no/tag", image.ErrRefused},
		} {
			if err := sink.Tag(t.Context(), test.d, raw, test.tag); !errors.Is(err, test.want) {
				t.Errorf("%s: %v; want %v", what, err, test.want)
			}
		}
	})
}

func TestMount(t *testing.T) {
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		raw, d := content(50_000)
		pushBlob(t, "http://"+p.Host, "their/base", raw)
		sink, src := writable(t, Options{}, p.Host, "foo", small)
		p.Reset()
		var opened int
		c := of(raw, image.Repository{Host: "elsewhere.example", Name: "a/b"}, image.Repository{Host: p.Host, Name: "their/base"})
		open := c.Open
		c.Open = func(ctx context.Context, off int64) (io.ReadCloser, error) {
			opened++
			return open(ctx, off)
		}
		how, err := sink.Push(t.Context(), d, c)
		if err != nil {
			t.Fatal(err)
		}
		mustHave(t, src, d, raw)
		if kind != "memory" && (how != image.Mounted || opened != 0 || p.Count(registries.Path("/blobs/uploads")) != 1) {
			t.Errorf("%q, after %d readings of the content and %q", how, opened, uploads(p))
		}
		raw, d = content(40_000) // which is nowhere
		p.Reset()
		mustPush(t, sink, d, of(raw, image.Repository{Host: p.Host, Name: "their/base"}), image.Uploaded)
		if got, want := uploads(p), []string{"POST 202", "PUT 201"}; !diff.Equal(got, want) {
			t.Errorf("a mount of what is not there: %q, want %q", got, want)
		}
	})
}

func TestRefusedMount(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 401, 403, 404, 405} {
		p := registries.NewProxy(t, registries.Memory(t))
		p.Fault(-1, func(r registries.Request) bool { return strings.Contains(r.Query, "mount=") }, registries.Status(status, ""))
		sink, src := writable(t, Options{}, p.Host, "foo", small)
		raw, d := content(1000)
		mustPush(t, sink, d, of(raw, image.Repository{Host: p.Host, Name: "their/base"}), image.Uploaded)
		mustHave(t, src, d, raw)
	}
}

func TestWrongContent(t *testing.T) {
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		sink, src := writable(t, Options{}, p.Host, "foo", small)
		for _, size := range []int{1, 5_000, 100_000, 250_000} {
			raw, d := content(size)
			other := bytes.Clone(raw)
			other[size-1] ^= 1
			for what, wrong := range map[string][]byte{"other": other, "short": raw[:size-1], "long": append(bytes.Clone(raw), 1), "none": nil} {
				for _, d := range []image.Descriptor{d, unknownSize(d)} {
					_, err := sink.Push(t.Context(), d, of(wrong))
					if !errors.Is(err, image.ErrDigest) || errors.Is(err, image.ErrUnavailable) {
						t.Errorf("%s content of %d bytes: %v; want ErrDigest", what, d.Size, err)
					}
					if _, err := src.Stat(t.Context(), d.Digest); !errors.Is(err, image.ErrNotFound) {
						t.Errorf("%s content of %d bytes is there: %v", what, d.Size, err)
					}
				}
			}
		}
		if got := p.Count(registries.Method(http.MethodPut)); got != 0 {
			t.Logf("%d PUTs", got)
		}
		_, d := manifest(describe("x/y", nil), "")
		if _, err := sink.Push(t.Context(), d, of([]byte("{}"))); !errors.Is(err, image.ErrDigest) {
			t.Errorf("a manifest: %v; want ErrDigest", err)
		}
	})
}

func TestPushAtOnce(t *testing.T) {
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		sink, src := writable(t, Options{}, p.Host, "foo", small)
		raw, d := content(150_000)
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				if _, err := sink.Push(t.Context(), d, of(raw)); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		mustHave(t, src, d, raw)
	})
}

// TestChunkMinimum: a registry that wants larger pieces gets them.
func TestChunkMinimum(t *testing.T) {
	t.Parallel()
	plain := inProcess(t, nil)
	var c recorder
	s := proxy(t, plain.URL, func(next http.Handler) http.Handler {
		return c.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.Header().Set("OCI-Chunk-Min-Length", "200000")
			}
			next.ServeHTTP(w, r)
		}))
	})
	sink, src := writable(t, Options{}, address(s), "foo", small)
	for size, want := range map[int]int{200_000: 0, 300_000: 2} {
		for _, known := range []bool{true, false} {
			raw, d := content(size)
			raw = append(raw[:size-1], fmt.Sprint(known)[0])
			d = describe(d.MediaType, raw)
			if !known {
				d.Size = -1
			}
			c.take()
			mustPush(t, sink, d, of(raw), image.Uploaded)
			mustHave(t, src, d, raw)
			patches := strings.Count(strings.Join(c.take(), "\n"), "PATCH")
			if patches != want && (known || patches != 1) {
				t.Errorf("%d bytes, known %v: %d PATCHes, want %d", size, known, patches, want)
			}
		}
	}
}
