package engine

import (
	"context"
	"io"
	"iter"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// first is how a listing ends, or nil when it yields something.
func first[T any](items iter.Seq2[T, error]) error {
	for _, err := range items {
		return err
	}
	return nil
}

// calls are all that can be asked of an engine.
func calls(t *testing.T, e *Engine) map[string]func(context.Context) error {
	t.Helper()
	src, sink := at(t, e, "docker.io", "library/hello")
	all, _ := at(t, e, "", "")
	p := push(t, sink, v1.ImageConfig{}, "", unpacked, layer(t, "hello", 0o644, []byte("hello")))
	return map[string]func(context.Context) error{
		"hosts":        func(ctx context.Context) error { return first(e.Hosts(ctx)) },
		"repositories": func(ctx context.Context) error { h, _ := e.Host("docker.io"); return first(h.Repositories(ctx, "")) },
		"tags":         func(ctx context.Context) error { return first(src.Tags(ctx, "")) },
		"resolve":      func(ctx context.Context) error { _, err := src.Resolve(ctx, "v1"); return err },
		"resolve an ID": func(ctx context.Context) error {
			_, err := all.Resolve(ctx, "@abc")
			return err
		},
		"manifest": func(ctx context.Context) error { _, _, err := src.Manifest(ctx, p.Digest.String()); return err },
		"stat":     func(ctx context.Context) error { _, err := src.Stat(ctx, p.Digest); return err },
		"fetch":    func(ctx context.Context) error { _, err := src.Fetch(ctx, p.config); return err },
		"expect":   func(ctx context.Context) error { return sink.Expect(ctx, p.Descriptor, p.raw) },
		"tag":      func(ctx context.Context) error { return sink.Tag(ctx, p.Descriptor, p.raw, "v1") },
		"push": func(ctx context.Context) error {
			_, err := sink.Push(ctx, p.Descriptor, bring(p.raw))
			return err
		},
		"delete": func(ctx context.Context) error { return sink.Delete(ctx, "v1") },
	}
}

// TestNobodyListens at a socket that is not there, and at one that was left behind.
func TestNobodyListens(t *testing.T) {
	left := filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left})
	must(t, err)
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, host := range []string{"unix://" + filepath.Join(t.TempDir(), "missing"), "unix://" + left, "tcp://127.0.0.1:1"} {
		for what, call := range calls(t, open(t, Options{Host: host})) {
			err := call(t.Context())
			wantErr(t, what, err, image.ErrUnavailable)
			if err == nil || !strings.Contains(err.Error(), host) || !strings.Contains(err.Error(), "is the engine running?") {
				t.Errorf("%s does not say where, or what to do: %v", what, err)
			}
		}
	}
}

func TestUnreachable(t *testing.T) {
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", err)}
	}
	for says, test := range map[string]struct{ err, want error }{
		"group docker":           {dial(syscall.EACCES), image.ErrDenied},
		"is the engine running?": {dial(syscall.ENOENT), image.ErrUnavailable},
		"no such host":           {&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}}, image.ErrNotFound},
		"connection reset":       {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, image.ErrUnavailable},
	} {
		got := unreachable(test.err)
		wantErr(t, says, got, test.want)
		if !strings.Contains(got.Error(), says) {
			t.Errorf("%v does not say %q", got, says)
		}
	}
}

// endless writes the same until nobody reads any more.
func endless(head, again string) http.HandlerFunc {
	again = strings.Repeat(again, max(1, 64<<10/len(again)))
	return func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, head)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, again); err != nil {
				return
			}
		}
	}
}

// cut ends in the middle of an answer.
func cut(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		io.WriteString(w, body)
		panic(http.ErrAbortHandler)
	}
}

// TestNoEngine: something listens that is none, or no sound one.
func TestNoEngine(t *testing.T) {
	for what, version := range map[string]http.HandlerFunc{
		"a page": says(200, "<html>"), "nothing": says(200, ""), "null": says(200, "null"), "a list": says(200, "[]"),
		"no number": says(200, `{"ApiVersion":"latest"}`), "another protocol": says(200, `{"ApiVersion":"2.0"}`),
		"an endless string": endless(`{"ApiVersion":"`, "1"), "endless space": endless("", " "), "endless lists": endless("", "["),
		"cut short": cut(`{"ApiVersion":"1.4`), "an error": says(500, `{"message":"panic"}`), "a redirect": says(302, ""),
		"TLS": says(400, "Client sent an HTTP request to an HTTPS server.\n"), "an endless error": endless("", "error "),
	} {
		for call, fn := range calls(t, serve(t, Options{}, answers{"GET /version": version})) {
			ends(t, call+" where there is "+what, func() error { return fn(t.Context()) }, image.ErrUnavailable)
			if what == "an endless string" || what == "endless space" {
				break // one does
			}
		}
	}
	for call, fn := range calls(t, serve(t, Options{}, answers{"GET /version": says(200, `{"ApiVersion":"1.18"}`)})) {
		wantErr(t, call+" of an old engine", fn(t.Context()), image.ErrUnsupported)
	}
}

// TestBadAnswers to what is asked first, each of a kind.
func TestBadAnswers(t *testing.T) {
	const id = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for what, test := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"garbage":        {says(200, "\x00\x01"), image.ErrUnavailable},
		"null":           {says(200, "null"), image.ErrUnavailable},
		"cut":            {cut(`[{"Id":"` + id + `"`), image.ErrUnavailable},
		"endless":        {endless(`[{"Id":"`, "x"), image.ErrUnavailable},
		"denied":         {says(403, `{"message":"authorization denied by plugin"}`), image.ErrDenied},
		"missing":        {says(404, `{"message":"no such image"}`), image.ErrNotFound},
		"not there":      {says(501, ""), image.ErrUnsupported},
		"failing":        {says(500, strings.Repeat("x", 1<<20)), image.ErrUnavailable},
		"full":           {says(500, `{"message":"write /var/lib/docker/x: no space left on device"}`), image.ErrQuota},
		"outdated":       {says(400, `{"message":"client version 1.41 is too old"}`), image.ErrUnavailable},
		"control":        {says(500, "\x1b[31mred\x1b[0m\nnext line"), image.ErrUnavailable},
		"impossible IDs": {says(200, `{"Id":"sha256:../../etc/passwd"}`), image.ErrUnavailable},
	} {
		e := serve(t, Options{}, answers{
			"GET /images/json": test.answer, "GET /images/docker.io/library/hello:v1/json": test.answer,
			"DELETE /images/docker.io/library/hello:v1": test.answer,
		})
		all := calls(t, e)
		for _, call := range []string{"tags", "resolve", "delete"} {
			if call == "delete" && strings.HasPrefix(test.want.Error(), "unavailable") {
				continue // what a success says is not read
			}
			ends(t, call+" with an answer that is "+what, func() error {
				err := all[call](t.Context())
				if err != nil && strings.ContainsAny(err.Error(), "\x00\x1b\n") || err != nil && len(err.Error()) > 1000 {
					t.Errorf("an error that no terminal should see: %q", err)
				}
				return err
			}, test.want)
		}
	}
}

// TestListedNames: of a list, only what can be a name counts.
func TestListedNames(t *testing.T) {
	const id = `"Id":"sha256:0000000000000000000000000000000000000000000000000000000000000000"`
	list := `[{` + id + `,"RepoTags":["<none>:<none>","../../etc:x","a b:c","UPPER/x:y","alpine:3","quay.io/podman/stable:v5","quay.io:99999/x:y","no-tag",""]},
		{` + id + `,"RepoTags":null},{"RepoTags":["no-id:x"]},{"Id":"md5:0","RepoTags":["md5:x"]},{` + id + `,"RepoTags":["alpine:2","alpine:3"]}]`
	e := serve(t, Options{}, answers{"GET /images/json": says(200, list)})
	hosts := collect(t, e.Hosts(t.Context()))
	want(t, "hosts", hosts, []string{"docker.io", "quay.io"})
	h, err := e.Host("docker.io")
	must(t, err)
	want(t, "repositories", collect(t, h.Repositories(t.Context(), "")), []string{"library/alpine"})
	src, err := h.Source(t.Context(), "alpine")
	must(t, err)
	want(t, "tags", collect(t, src.Tags(t.Context(), "")), []string{"2", "3"})
	want(t, "tags after 2", collect(t, src.Tags(t.Context(), "2")), []string{"3"})
}

func collect[T any](t *testing.T, items iter.Seq2[T, error]) []T {
	t.Helper()
	var all []T
	for item, err := range items {
		must(t, err)
		all = append(all, item)
	}
	return all
}

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// silent are all that an engine is asked, without an answer.
var silent = answers{
	"GET /images/json": hang, "GET /images/docker.io/library/hello:v1/json": hang, "GET /images/sha256:abc/json": hang,
	"DELETE /images/docker.io/library/hello:v1": hang,
}

// TestSilence ends, whether the engine says nothing from the start, or nothing but its version.
func TestSilence(t *testing.T) {
	for what, a := range map[string]answers{"at first": {"GET /version": hang}, "later": silent} {
		for call, fn := range calls(t, serve(t, Options{Timeout: 50 * time.Millisecond}, a)) {
			if what == "later" && (call == "expect" || call == "tag" || call == "push") {
				continue // these have tests of their own
			}
			ends(t, call+" where the engine is silent "+what, func() error { return fn(t.Context()) }, image.ErrUnavailable, context.DeadlineExceeded)
		}
	}
}

// TestCancel ends every call, whatever the engine does.
func TestCancel(t *testing.T) {
	for call, fn := range calls(t, serve(t, Options{}, answers{"GET /version": hang})) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		ends(t, call+" when cancelled", func() error { return fn(ctx) }, context.Canceled)
	}
}

// TestSilentSocket: somebody listens who accepts nobody.
func TestSilentSocket(t *testing.T) {
	_, host := listen(t)
	for call, fn := range calls(t, open(t, Options{Host: host, Timeout: 50 * time.Millisecond})) {
		ends(t, call+" where nobody accepts", func() error { return fn(t.Context()) }, image.ErrUnavailable, context.DeadlineExceeded)
	}
}
