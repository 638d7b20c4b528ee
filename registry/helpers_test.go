package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/regfs/regfs/image"
	"go.podman.io/image/v5/types"
)

// content is a blob for tests: of that many bytes, none like its neighbours.
func content(n int) ([]byte, image.Descriptor) {
	raw := make([]byte, n)
	for i := range raw {
		raw[i] = byte(i*7 + i>>8*13 + i>>16)
	}
	return raw, describe("application/octet-stream", raw)
}

func describe(mediaType string, raw []byte) image.Descriptor {
	return image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

// manifest is an image manifest for tests, with the given blob as config and only layer.
func manifest(blob image.Descriptor, note string) ([]byte, image.Descriptor) {
	raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[],"annotations":{"note":%q}}`,
		v1.MediaTypeImageManifest, blob.Digest, blob.Size, note)
	return raw, describe(v1.MediaTypeImageManifest, raw)
}

// do sends a request that must succeed.
func do(t *testing.T, method, url string, body []byte, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s: %s", method, url, resp.Status, said)
	}
	return resp
}

func pushBlob(t *testing.T, base, repository string, raw []byte, header ...string) image.Descriptor {
	t.Helper()
	resp := do(t, "POST", base+"/v2/"+repository+"/blobs/uploads/", nil, header...)
	at, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	q := at.Query()
	q.Set("digest", digest.FromBytes(raw).String())
	at.RawQuery = q.Encode()
	do(t, "PUT", at.String(), raw, append(header, "Content-Type", "application/octet-stream")...)
	return describe("application/octet-stream", raw)
}

func pushManifest(t *testing.T, base, repository, ref string, raw []byte, mediaType string, header ...string) {
	t.Helper()
	do(t, "PUT", base+"/v2/"+repository+"/manifests/"+ref, raw, append(header, "Content-Type", mediaType)...)
}

// inProcess is a registry as a library, with what a test put before it.
func inProcess(t *testing.T, wrap func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	var h http.Handler = ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// recorder counts requests by what they are for.
type recorder struct {
	mu       sync.Mutex
	requests []string
	headers  []http.Header
}

func (c *recorder) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.requests = append(c.requests, r.Method+" "+r.URL.Path)
		c.headers = append(c.headers, r.Header.Clone())
		c.mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

// take returns the requests since the last time, pings left out.
func (c *recorder) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var some []string
	for _, r := range c.requests {
		if r != "GET /v2/" {
			some = append(some, r)
		}
	}
	c.requests, c.headers = nil, nil
	return some
}

// debian starts the registry that Debian has, with lines added to its configuration.
func debian(t *testing.T, config string) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("no docker-registry here")
	}
	dir := t.TempDir()
	address := freeAddress(t)
	yaml := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp:\n  addr: %s\n%s", dir, address, config)
	file := filepath.Join(dir, "config.yml")
	write(t, file, yaml)
	cmd := exec.Command(program, "serve", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 200 {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return address
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("docker-registry does not listen")
	return ""
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// system is a configuration of its own in a temporary directory.
func system(t *testing.T, registriesConf string) *types.SystemContext {
	t.Helper()
	dir := t.TempDir()
	sys := &types.SystemContext{
		SystemRegistriesConfPath:    filepath.Join(dir, "registries.conf"),
		SystemRegistriesConfDirPath: filepath.Join(dir, "registries.conf.d"),
		AuthFilePath:                filepath.Join(dir, "auth.json"),
		DockerPerHostCertDirPath:    filepath.Join(dir, "certs.d"),
	}
	write(t, sys.SystemRegistriesConfPath, registriesConf)
	write(t, sys.AuthFilePath, "{}")
	return sys
}

// open opens a repository with a client of its own.
func open(t *testing.T, o Options, host, repository string) image.Source {
	t.Helper()
	if o.System == nil {
		o.System = system(t, "")
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	c := New(o)
	t.Cleanup(func() { c.Close() })
	h, err := c.Host(host)
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Source(t.Context(), repository)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func address(s *httptest.Server) string {
	u, _ := url.Parse(s.URL)
	return u.Host
}

// proxy stands before a registry and does to its requests what a test wants.
func proxy(t *testing.T, to string, wrap func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	through := httputil.NewSingleHostReverseProxy(u)
	through.ErrorLog = log.New(io.Discard, "", 0)
	s := httptest.NewUnstartedServer(wrap(through))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func readBlob(ctx context.Context, s image.Source, d image.Descriptor) ([]byte, error) {
	r, err := s.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// collect is all of a list, and the error it ends in.
func collect[T any](list iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for v, err := range list {
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, nil
}

func isBlob(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/sha") }
