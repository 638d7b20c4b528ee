package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	diff "github.com/google/go-cmp/cmp"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/tests/registries"
)

// TestPushWithCredentials: with passwords and tokens, over TLS, to a repository that nobody has asked for before.
func TestPushWithCredentials(t *testing.T) {
	for _, auth := range []registries.Auth{registries.Htpasswd, registries.Token} {
		t.Run(fmt.Sprint(auth), func(t *testing.T) {
			eachKind(t, registries.Config{Auth: auth, TLS: true, Delete: true}, func(t *testing.T, kind string, p *registries.Proxy) {
				sys := system(t, "")
				sys.DockerPerHostCertDirPath = registries.CertsDir(t, p.Registry)
				o := Options{System: sys}
				raw, d := content(250_000)
				sink, _ := writable(t, o, p.Host, "foo", small)
				if _, err := sink.Push(t.Context(), d, of(raw)); !errors.Is(err, image.ErrDenied) {
					t.Errorf("without credentials: %v; want ErrDenied", err)
				}
				sys.AuthFilePath = registries.AuthFileOf(t, registries.User, "wrong", p.Host)
				sink, _ = writable(t, o, p.Host, "foo", small)
				if _, err := sink.Push(t.Context(), d, of(raw)); !errors.Is(err, image.ErrDenied) || strings.Contains(err.Error(), "wrong") {
					t.Errorf("with wrong ones: %v; want ErrDenied", err)
				}
				sys.AuthFilePath = registries.AuthFile(t, p.Host)
				sink, src := writable(t, o, p.Host, "foo", small)
				mustPush(t, sink, d, of(raw), image.Uploaded)
				mustHave(t, src, d, raw)
				m, md := manifest(d, "")
				if err := sink.Tag(t.Context(), md, m, "v1"); err != nil {
					t.Error(err)
				}
				other, src := writable(t, o, p.Host, "bar", small)
				mustPush(t, other, d, of(raw, image.Repository{Host: p.Host, Name: "foo"}), image.Mounted)
				mustHave(t, src, d, raw)
				if err := sink.Delete(t.Context(), md.Digest.String()); err != nil {
					t.Error(err)
				}
			}, "memory")
		})
	}
}

// strict is a token server and a registry that wants tokens of the very scope, and a new one now and then.
type strict struct {
	mu     sync.Mutex
	asked  []string
	valid  string
	denies string // a scope that nobody gets
}

func (k *strict) wrap(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		_ = r.ParseForm()
		scope := strings.Join(r.Form["scope"], " ")
		if k.denies != "" && strings.Contains(scope, k.denies) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		k.asked = append(k.asked, scope)
		k.valid = fmt.Sprintf("token-%d", len(k.asked))
		_ = json.NewEncoder(w).Encode(map[string]any{"token": k.valid, "expires_in": 300})
	})
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		ok := k.valid != "" && r.Header.Get("Authorization") == "Bearer "+k.valid || r.Header.Get("X-Test") != ""
		k.mu.Unlock()
		if ok {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
	})
	return mux
}

func (k *strict) expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.valid = "none"
}

func TestScopes(t *testing.T) {
	t.Parallel()
	k := &strict{}
	s := inProcess(t, k.wrap)
	sink, src := writable(t, Options{}, address(s), "foo", small)
	raw, d := content(1000)
	mustPush(t, sink, d, of(raw), image.Uploaded)
	mustHave(t, src, d, raw)
	raw, d = content(2000)
	mustPush(t, sink, d, of(raw, image.Repository{Host: address(s), Name: "bar"}), image.Uploaded)
	m, md := manifest(d, "")
	if err := sink.Tag(t.Context(), md, m, "v1"); err != nil {
		t.Fatal(err)
	}
	if err := sink.Delete(t.Context(), "v1"); err != nil {
		t.Error(err)
	}
	var got []string
	for _, scope := range k.asked {
		if len(got) == 0 || got[len(got)-1] != scope {
			got = append(got, scope)
		}
	}
	want := []string{
		"repository:foo:pull,push", "repository:foo:pull", "repository:foo:pull,push repository:bar:pull",
		"repository:foo:pull,push", "repository:foo:pull,push,delete",
	}
	if !diff.Equal(got, want) {
		t.Errorf("tokens for %q, want %q", got, want)
	}
	k.denies = "repository:secret:pull"
	raw, d = content(3000)
	mustPush(t, sink, d, of(raw, image.Repository{Host: address(s), Name: "secret"}), image.Uploaded)
}

// TestTokenExpires: between any two requests of an upload, whose bodies are then sent again from where they began.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	for _, size := range []int{50_000, 250_000} {
		for _, known := range []bool{true, false} {
			k := &strict{}
			s := inProcess(t, k.wrap)
			expires := proxy(t, s.URL, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					next.ServeHTTP(w, r)
					if r.URL.Path != "/token" && r.URL.Path != "/v2/" && w.Header().Get("WWW-Authenticate") == "" {
						k.expire()
					}
				})
			})
			sink, src := writable(t, Options{}, address(expires), "foo", small)
			raw, d := content(size)
			if !known {
				d.Size = -1
			}
			mustPush(t, sink, d, of(raw), image.Uploaded)
			mustHave(t, src, d, raw)
		}
	}
}

// TestForeignSession: a session on another host gets the content, and none of the credentials.
func TestForeignSession(t *testing.T) {
	t.Parallel()
	for _, size := range []int{50_000, 250_000} {
		var mu sync.Mutex
		var leaked, queries []string
		plain := inProcess(t, nil)
		storage := proxy(t, plain.URL, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				leaked = append(leaked, r.Header.Get("Authorization"), r.Header.Get("Referer"))
				queries = append(queries, r.URL.RawQuery)
				mu.Unlock()
				next.ServeHTTP(w, r)
			})
		})
		elsewhere, _ := url.Parse(storage.URL)
		k := &strict{}
		s := httptest.NewServer(k.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				to := *elsewhere
				to.Path, to.RawQuery = "/v2/foo/blobs/uploads/1", "z=secret%2fstate&a="
				w.Header().Set("Location", to.String())
				w.WriteHeader(http.StatusAccepted)
				return
			}
			plain.Config.Handler.ServeHTTP(w, r)
		})))
		t.Cleanup(s.Close)
		sink, src := writable(t, Options{}, address(s), "foo", small)
		raw, d := content(size)
		mustPush(t, sink, d, of(raw), image.Uploaded)
		mustHave(t, src, d, raw)
		mu.Lock()
		if len(leaked) == 0 || strings.Join(leaked, "") != "" {
			t.Errorf("the other host was sent %q", leaked)
		}
		if !strings.HasPrefix(queries[0], "z=secret%2fstate&a=") {
			t.Errorf("the query came as %q", queries)
		}
		mu.Unlock()
		storage.Close()
		other, d := content(size + 1)
		if _, err := sink.Push(t.Context(), d, of(other)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the session: %v", err)
		}
	}
}

// TestWritesGoToTheRegistryItself, as registries.conf names it, and to no mirror.
func TestWritesGoToTheRegistryItself(t *testing.T) {
	t.Parallel()
	var own, mirror recorder
	s, m := inProcess(t, own.wrap), inProcess(t, mirror.wrap)
	sys := system(t, fmt.Sprintf(`
[[registry]]
prefix = "registry.example/team"
location = "%s/mine"
insecure = true
[[registry.mirror]]
location = "%s/mirror"
insecure = true
[[registry]]
prefix = "registry.example/secret"
location = "registry.example/secret"
blocked = true
`, address(s), address(m)))
	sink, _ := writable(t, Options{System: sys}, "registry.example", "team/foo", small)
	raw, d := content(1000)
	// Another name of a repository on the same server.
	mustPush(t, sink, d, of(raw, image.Repository{Host: "registry.example", Name: "team/base"}), image.Uploaded)
	md, manifest := manifest(d, "")
	if err := sink.Tag(t.Context(), manifest, md, "v1"); err != nil {
		t.Fatal(err)
	}
	got := own.take()
	if len(got) != 3 || got[0] != "POST /v2/mine/foo/blobs/uploads/" || got[2] != "PUT /v2/mine/foo/manifests/v1" {
		t.Errorf("the registry was sent %q", got)
	}
	if got := mirror.take(); len(got) != 0 {
		t.Errorf("the mirror was sent %q", got)
	}
	sink, _ = writable(t, Options{System: sys}, "registry.example", "secret/foo", small)
	if _, err := sink.Push(t.Context(), d, of(raw)); !errors.Is(err, image.ErrDenied) {
		t.Errorf("a blocked one: %v; want ErrDenied", err)
	}
}
