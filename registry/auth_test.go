package registry

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"
	"github.com/regfs/regfs/image"
	"go.podman.io/image/v5/types"
)

// login writes the credentials of one account, and no others.
func login(t *testing.T, sys *types.SystemContext, account, user, password string) {
	t.Helper()
	pair := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	write(t, sys.AuthFilePath, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, account, pair))
}

func TestBasic(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	passwords := filepath.Join(dir, "htpasswd")
	out, err := exec.Command("htpasswd", "-nbB", "alice", "secret").Output()
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip("no htpasswd here")
	}
	write(t, passwords, string(out))
	host := debian(t, "auth: {htpasswd: {realm: test, path: "+passwords+"}}")
	sys := system(t, "")
	src := open(t, Options{System: sys}, host, "foo/bar")
	_, err = src.Resolve(t.Context(), "v1")
	if !errors.Is(err, image.ErrDenied) {
		t.Errorf("without credentials: %v; want ErrDenied", err)
	}
	login(t, sys, host, "alice", "wrong")
	if _, err := src.Resolve(t.Context(), "v1"); !errors.Is(err, image.ErrDenied) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong password: %v; want ErrDenied", err)
	}
	login(t, sys, host, "alice", "secret")
	browse(t, "http://"+host, src, "foo/bar", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("alice:secret")))
}

// tokens is a registry that takes tokens only, each for one repository, and its token server.
type tokens struct {
	mu        sync.Mutex
	realm     string
	quietPing bool // /v2/ answers 200, and only repositories ask for tokens
	expireAll int  // tokens from before this count no longer count
	issued    []string
	users     map[string]string // repository → "user:password"; none: anybody
	refresh   string            // the identity token that is accepted
}

func (k *tokens) wrap(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/token", k.issue)
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		repository, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
		if r.Header.Get("X-Test") != "" || repository == "" && k.quietPing || k.allows(r, repository) {
			next.ServeHTTP(w, r)
			return
		}
		challenge := fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, cmp.Or(k.realm, r.Host))
		if repository != "" {
			challenge += fmt.Sprintf(`,scope="repository:%s:pull"`, repository)
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`))
	})
	return mux
}

func (k *tokens) allows(r *http.Request, repository string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	var n int
	var scope string
	_, err := fmt.Sscanf(r.Header.Get("Authorization"), "Bearer token-%d-%s", &n, &scope)
	return err == nil && n >= k.expireAll && scope == "repository:"+repository+":pull"
}

func (k *tokens) issue(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = r.ParseForm()
	scope := r.Form.Get("scope")
	repository := strings.TrimSuffix(strings.TrimPrefix(scope, "repository:"), ":pull")
	user, password, _ := r.BasicAuth()
	if want := k.users[repository]; want != "" && want != user+":"+password && (k.refresh == "" || r.Form.Get("refresh_token") != k.refresh) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"details":"incorrect username or password"}`))
		return
	}
	k.issued = append(k.issued, scope)
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprintf("token-%d-%s", len(k.issued), scope), "expires_in": 300})
}

func (k *tokens) take() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	issued := k.issued
	k.expireAll = 0
	return issued
}

func TestTokens(t *testing.T) {
	t.Parallel()
	for _, quiet := range []bool{false, true} {
		k := &tokens{quietPing: quiet}
		s := inProcess(t, k.wrap)
		src := open(t, Options{}, address(s), "foo")
		browse(t, s.URL, src, "foo", "X-Test", "1")
		if got := k.take(); len(got) != 1 {
			t.Errorf("ping answers 200: %v: asked for the tokens %q, want one", quiet, got)
		}
		k.mu.Lock()
		k.expireAll = 2
		k.mu.Unlock()
		if _, err := src.Resolve(t.Context(), "v1"); err != nil {
			t.Errorf("with an expired token: %v", err)
		}
	}
}

func TestTokensPerRepository(t *testing.T) {
	t.Parallel()
	k := &tokens{users: map[string]string{"mine": "me:1", "yours": "you:2"}, quietPing: true}
	s := inProcess(t, k.wrap)
	host := address(s)
	sys := system(t, "")
	pair := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	write(t, sys.AuthFilePath, fmt.Sprintf(`{"auths":{"%s/mine":{"auth":%q},"%s/yours":{"auth":%q}}}`, host, pair("me:1"), host, pair("you:2")))
	h, err := New(Options{System: sys, Timeout: 5 * time.Second}).Host(host)
	if err != nil {
		t.Fatal(err)
	}
	blob, _ := content(10)
	for _, repository := range []string{"mine", "yours", "public"} {
		d := pushBlob(t, s.URL, repository, blob, "X-Test", "1")
		src, err := h.Source(t.Context(), repository)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readBlob(t.Context(), src, d); err != nil {
			t.Errorf("%s: %v", repository, err)
		}
	}
	want := []string{"repository:mine:pull", "repository:yours:pull", "repository:public:pull"}
	if got := k.take(); !diff.Equal(got, want) {
		t.Errorf("tokens for %q, want %q", got, want)
	}
}

// TestTokenServerElsewhere: beside a registry on a private address, and never a source of verdicts about images.
func TestTokenServerElsewhere(t *testing.T) {
	t.Parallel()
	k := &tokens{}
	server := httptest.NewServer(http.HandlerFunc(k.issue))
	defer server.Close()
	k.realm = address(server)
	s := inProcess(t, k.wrap)
	blob, _ := content(10)
	d := pushBlob(t, s.URL, "foo", blob, "X-Test", "1")
	if _, err := readBlob(t.Context(), open(t, Options{}, address(s), "foo"), d); err != nil {
		t.Error(err)
	}
	for answer, want := range map[string]error{
		"404 ": image.ErrDenied, "200 {}": image.ErrDenied, `200 {"refresh_token":"secret"}`: image.ErrDenied,
		"200 <html>": image.ErrDenied, "503 ": image.ErrUnavailable,
	} {
		server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			status, body, _ := strings.Cut(answer, " ")
			w.WriteHeader(map[string]int{"404": 404, "200": 200, "503": 503}[status])
			_, _ = w.Write([]byte(body))
		})
		_, err := readBlob(t.Context(), open(t, Options{Timeout: time.Second}, address(s), "foo"), d)
		if !errors.Is(err, want) || errors.Is(err, image.ErrNotFound) || strings.Contains(err.Error(), "secret") {
			t.Errorf("a token server that says %s: %v; want %v", answer, err, want)
		}
	}
}

func TestIPv6(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here")
	}
	plain := inProcess(t, nil)
	s := httptest.NewUnstartedServer((&tokens{}).wrap(plain.Config.Handler))
	s.Listener = l
	s.Start()
	defer s.Close()
	browse(t, s.URL, open(t, Options{}, address(s), "foo"), "foo", "X-Test", "1")
}

func TestDeniedIsNotRemembered(t *testing.T) {
	t.Parallel()
	k := &tokens{users: map[string]string{"mine": "me:1"}, refresh: "identity"}
	s := inProcess(t, k.wrap)
	blob, _ := content(10)
	d := pushBlob(t, s.URL, "mine", blob, "X-Test", "1")
	sys := system(t, "")
	src := open(t, Options{System: sys}, address(s), "mine")
	if _, err := readBlob(t.Context(), src, d); !errors.Is(err, image.ErrDenied) || !strings.Contains(err.Error(), "incorrect username") {
		t.Errorf("without credentials: %v; want ErrDenied in the token server's words", err)
	}
	write(t, sys.AuthFilePath, fmt.Sprintf(`{"auths":{%q:{"auth":%q,"identitytoken":"identity"}}}`, address(s),
		base64.StdEncoding.EncodeToString([]byte("<token>:"))))
	if _, err := readBlob(t.Context(), src, d); err != nil {
		t.Errorf("with an identity token: %v", err)
	}
}

func TestRedirectWithoutCredentials(t *testing.T) {
	t.Parallel()
	blob, d := content(5000)
	var mu sync.Mutex
	var leaked []string
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		leaked = append(leaked, r.Header.Get("Authorization"), r.Header.Get("Referer"))
		mu.Unlock()
		_, _ = w.Write(blob)
	}))
	defer storage.Close()
	k := &tokens{}
	s := inProcess(t, func(next http.Handler) http.Handler {
		return k.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, storage.URL+"/somewhere?signature=secret", http.StatusTemporaryRedirect)
		}))
	})
	k.quietPing = false
	src := open(t, Options{}, address(s), "foo")
	if _, err := readBlob(t.Context(), src, d); err != nil {
		t.Error(err)
	}
	if len(leaked) == 0 || strings.Join(leaked, "") != "" {
		t.Errorf("the other host was sent %q", leaked)
	}
	storage.Close()
	src = open(t, Options{}, address(s), "foo")
	if _, err := readBlob(t.Context(), src, d); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error tells the signature: %v", err)
	}
}

// privateCA starts a registry behind TLS of an authority nobody knows, and returns where it is without TLS, and that one's certificate.
func privateCA(t *testing.T) (s *httptest.Server, base string, ca []byte) {
	t.Helper()
	plain := inProcess(t, nil)
	s = httptest.NewUnstartedServer(plain.Config.Handler)
	s.Config.ErrorLog = quiet
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	cert, err := x509.ParseCertificate(s.TLS.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return s, plain.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s, plain, ca := privateCA(t)
	sys := system(t, "")
	src := open(t, Options{System: sys}, address(s), "foo")
	_, err := src.Resolve(t.Context(), "v1")
	if !errors.Is(err, image.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v; want ErrUnavailable", err)
	}
	insecure := open(t, Options{Insecure: []string{address(s)}}, address(s), "foo")
	if _, err := insecure.Resolve(t.Context(), "v1"); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("marked insecure: %v; want ErrNotFound", err)
	}
	dir := filepath.Join(sys.DockerPerHostCertDirPath, address(s))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ca.crt"), string(ca))
	if _, err := src.Resolve(t.Context(), "v1"); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("with its authority in certs.d: %v; want ErrNotFound", err)
	}
	blob, d := content(3_000_000)
	pushBlob(t, plain, "foo", blob)
	if got, err := readBlob(t.Context(), src, d); err != nil || !bytes.Equal(got, blob) {
		t.Errorf("over HTTP/2: %d bytes, %v", len(got), err)
	}
}

// TestNoPlainHTTP: a name that is not this machine's gets no request without TLS, and no credentials.
func TestNoPlainHTTP(t *testing.T) {
	t.Parallel()
	var c recorder
	s := inProcess(t, c.wrap)
	dialed := func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			r.URL.Host = address(s)
			return next.RoundTrip(r)
		})
	}
	for _, host := range []string{"registry.example", "10.1.2.3:5000", "registry.local:5000"} {
		src := open(t, Options{Transport: dialed, Timeout: time.Second}, host, "foo")
		if _, err := src.Resolve(t.Context(), "v1"); !errors.Is(err, image.ErrUnavailable) {
			t.Errorf("%s: %v; want ErrUnavailable", host, err)
		}
		if got := c.requests; len(got) != 0 {
			t.Errorf("%s was sent %q", host, got)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
