package registry

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/regfs/regfs/image"
)

// BenchmarkFetch reads a blob over loopback: verified, and as a range without hashing.
func BenchmarkFetch(b *testing.B) {
	raw, d := content(256 << 20)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(raw)))
		_, _ = w.Write(raw)
	}))
	s.Listener = l
	s.Start()
	defer s.Close()
	h, err := New(Options{}).Host(l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	src, err := h.Source(b.Context(), "foo")
	if err != nil {
		b.Fatal(err)
	}
	for name, get := range map[string]func(context.Context) (io.ReadCloser, error){
		"verified": func(ctx context.Context) (io.ReadCloser, error) { return src.Fetch(ctx, d) },
		"raw":      func(ctx context.Context) (io.ReadCloser, error) { return src.FetchRange(ctx, d, 0, d.Size) },
	} {
		b.Run(name, func(b *testing.B) { benchmarkGet(b, d, get) })
	}
}

func benchmarkGet(b *testing.B, d image.Descriptor, get func(context.Context) (io.ReadCloser, error)) {
	b.SetBytes(d.Size)
	buf := make([]byte, 1<<20)
	for b.Loop() {
		r, err := get(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = r.Read(buf)
		}
		if r.Close(); err != io.EOF {
			b.Fatal(err)
		}
	}
}
