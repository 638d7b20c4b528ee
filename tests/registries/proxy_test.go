package registries_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/tests/registries"
	"github.com/regfs/regfs/tests/registries/distribution"
)

// proxied is a proxy with one blob of 100,000 bytes behind it.
func proxied(t *testing.T) (*registries.Proxy, []byte, func(header http.Header) (*http.Response, []byte, error)) {
	r := registries.Memory(t)
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	d := r.PushBlob(t, "hello", content)
	p := registries.NewProxy(t, r)
	client := &http.Client{Transport: p.Transport(t)}
	return p, content, func(header http.Header) (*http.Response, []byte, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.Host+"/v2/hello/blobs/"+d.Digest.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		resp, err := client.Do(req)
		if err != nil {
			return nil, nil, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, body, err
	}
}

func TestProxyCounts(t *testing.T) {
	p, content, get := proxied(t)
	if _, body, err := get(http.Header{"Range": {"bytes=5-9"}}); err != nil || string(body) != string(content[5:10]) {
		t.Fatalf("range: %q, %v", body, err)
	}
	if _, body, err := get(nil); err != nil || !bytes.Equal(body, content) {
		t.Fatalf("whole: %d bytes, %v", len(body), err)
	}
	var got []string
	for _, r := range p.Sent(registries.Get(`^/v2/hello/blobs/`)) {
		got = append(got, fmt.Sprintf("%s %s %s %d", r.Method, r.Range, http.StatusText(r.Status), r.Bytes))
	}
	if diff := cmp.Diff([]string{"GET bytes=5-9 Partial Content 5", "GET  OK 100000"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := p.Count(registries.Path("/manifests/")); n != 0 {
		t.Errorf("%d requests for manifests", n)
	}
	p.Reset()
	if n := len(p.Requests()); n != 0 {
		t.Errorf("%d requests after Reset", n)
	}
}

func TestProxyDoesNotCountAuthentication(t *testing.T) {
	for what, config := range configs {
		p := registries.NewProxy(t, distribution.Start(t, config))
		p.PushArtifact(t, "hello:v1")
		for _, r := range p.Sent() {
			if r.Path == "/v2/" || r.Status == http.StatusUnauthorized {
				t.Errorf("%s: counts %s %s, answered %d", what, r.Method, r.Path, r.Status)
			}
		}
		if n := p.Count(registries.Method(http.MethodPut), registries.Path("/manifests/")); n != 1 {
			t.Errorf("%s: %d puts of a manifest, want 1", what, n)
		}
	}
}

func TestFaultsOnBodies(t *testing.T) {
	p, content, get := proxied(t)
	corrupt := bytes.Clone(content)
	corrupt[50_000] ^= 1
	tests := map[string]struct {
		fault registries.Fault
		want  []byte
		err   error
	}{
		"drop":     {registries.Drop(1000), content[:1000], io.ErrUnexpectedEOF},
		"truncate": {registries.Truncate(1000), content[:1000], nil},
		"corrupt":  {registries.Corrupt(50_000), corrupt, nil},
		"none":     {registries.None, content, nil},
	}
	for what, test := range tests {
		p.Reset()
		p.Fault(1, registries.Any, test.fault)
		if _, body, err := get(nil); !errors.Is(err, test.err) || !bytes.Equal(body, test.want) {
			t.Errorf("%s: %d bytes, want %d; error %v, want %v", what, len(body), len(test.want), err, test.err)
		}
		if _, body, err := get(nil); err != nil || !bytes.Equal(body, content) {
			t.Errorf("after %s: %d bytes, %v", what, len(body), err)
		}
	}
}

func TestFaultsOnAnswers(t *testing.T) {
	p, content, get := proxied(t)
	p.Fault(2, registries.Get("/blobs/"), registries.Status(http.StatusTooManyRequests, "1"))
	for i := range 3 {
		resp, body, err := get(nil)
		if err != nil {
			t.Fatal(err)
		}
		if refused := resp.StatusCode == 429 && resp.Header.Get("Retry-After") == "1"; refused != (i < 2) {
			t.Errorf("request %d: %s, Retry-After %q, %d bytes", i, resp.Status, resp.Header.Get("Retry-After"), len(body))
		}
	}
	p.Fault(-1, registries.Any, registries.NoRanges)
	for range 2 {
		resp, body, err := get(http.Header{"Range": {"bytes=5-9"}})
		if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, content) {
			t.Errorf("range of a server without: %d bytes, %v", len(body), err)
		}
	}
}

// A stalled answer ends when the client gives up, and does not keep the proxy from ending.
func TestStalls(t *testing.T) {
	for what, fault := range map[string]registries.Fault{"stall": registries.Stall(1000), "hang": registries.Hang} {
		p := registries.NewProxy(t, registries.Memory(t))
		d := p.PushBlob(t, "hello", make([]byte, 5000))
		p.Fault(-1, registries.Get("/blobs/"), fault)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Host+"/v2/hello/blobs/"+d.Digest.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := readAll(p.Transport(t), req)
		if !errors.Is(err, context.DeadlineExceeded) || len(body) > 1000 {
			t.Errorf("%s: %d bytes, %v", what, len(body), err)
		}
	}
}

func readAll(transport http.RoundTripper, req *http.Request) ([]byte, error) {
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

func TestProxyServesManyAtOnce(t *testing.T) {
	p, content, get := proxied(t)
	p.Fault(10, registries.Any, registries.Status(http.StatusServiceUnavailable, ""))
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			resp, body, err := get(nil)
			if err != nil || resp.StatusCode == 200 && !bytes.Equal(body, content) {
				t.Errorf("%d bytes, %v", len(body), err)
			}
		})
	}
	all.Wait()
	refused := p.Count(func(r registries.Request) bool { return r.Status == http.StatusServiceUnavailable })
	if n := p.Count(); n != 40 || refused != 10 {
		t.Errorf("%d requests, %d refused; want 40 and 10", n, refused)
	}
}

func TestFaultsOnRequests(t *testing.T) {
	for what, test := range map[string]struct {
		fault  registries.Fault
		stored bool
	}{"drop": {registries.DropRequest(500), false}, "swallow": {registries.Swallow, true}} {
		p := registries.NewProxy(t, registries.Memory(t))
		p.Fault(1, registries.Method(http.MethodPost), test.fault)
		content := bytes.Repeat([]byte("0123456789"), 100)
		dgst := digest.FromBytes(content).String()
		client := &http.Client{Transport: p.Transport(t)}
		base := "http://" + p.Host + "/v2/hello/blobs/"
		if resp, err := client.Post(base+"uploads/?digest="+dgst, "", bytes.NewReader(content)); err == nil {
			resp.Body.Close()
			t.Errorf("%s: answered %s", what, resp.Status)
		}
		resp, err := client.Head(base + dgst)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if stored := resp.StatusCode == http.StatusOK; stored != test.stored {
			t.Errorf("%s: stored: %v, want %v", what, stored, test.stored)
		}
	}
}
