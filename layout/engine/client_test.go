package engine

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regfs/regfs/image"
)

// environment is what docker would find, and nothing else.
func environment(t *testing.T, vars map[string]string) {
	t.Helper()
	for _, name := range []string{"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"} {
		t.Setenv(name, vars[name])
	}
}

func TestHosts(t *testing.T) {
	for _, test := range []struct {
		host, env string
		at, base  string
		err       error
	}{
		{"", "", "unix:///var/run/docker.sock", "http://docker", nil},
		{"", "unix:///run/user/1000/docker.sock", "unix:///run/user/1000/docker.sock", "http://docker", nil},
		{"unix:///a", "tcp://b:1", "unix:///a", "http://docker", nil},
		{"tcp://a:1234", "", "tcp://a:1234", "http://a:1234", nil},
		{"tcp://a", "", "tcp://a", "http://a:2375", nil},
		{"tcp://[::1]:1", "", "tcp://[::1]:1", "http://[::1]:1", nil},
		{"http://a/", "", "http://a/", "http://a:2375", nil},
		{"https://a", "", "https://a", "https://a:2376", nil},
		{"unix://", "", "", "", image.ErrInvalid},
		{"tcp://", "", "", "", image.ErrInvalid},
		{"tcp://a/b", "", "", "", image.ErrInvalid},
		{"tcp://user:secret@a", "", "", "", image.ErrInvalid},
		{"/var/run/docker.sock", "", "", "", image.ErrInvalid},
		{"npipe:////./pipe/docker_engine", "", "", "", image.ErrInvalid},
		{"ssh://me@there", "", "", "", image.ErrUnsupported},
		{"tcp://a b\n", "", "", "", image.ErrInvalid},
	} {
		environment(t, map[string]string{"DOCKER_HOST": test.env})
		e, err := Open(Options{Host: test.host})
		if test.err != nil {
			wantErr(t, test.host, err, test.err)
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%q: %v", test.host, err)
			}
			continue
		}
		must(t, err)
		want(t, test.host+" at", e.client.at, test.at)
		want(t, test.host+" base", e.client.base, test.base)
	}
}

func TestChoose(t *testing.T) {
	for _, test := range []struct{ newest, oldest, want string }{
		{"1.41", "1.12", "1.41"}, {"1.24", "", "1.24"}, {"1.52", "1.44", "1.44"}, {"1.52", "1.24", "1.44"}, {"1.60", "1.50", "1.50"},
		{"1.23", "1.12", ""}, {"", "", ""}, {"2.0", "", ""}, {"1.x", "", ""}, {"1.-5", "", ""}, {"1.99999999999", "", ""},
	} {
		got, err := choose(test.newest, test.oldest)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s to %s: %q, %v; want %q", test.oldest, test.newest, got, err, test.want)
		}
	}
}

// TestTLS as docker does it: the engine has to be known by ca.pem, and wants to know its client.
func TestTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/version") {
			io.WriteString(w, `{"ApiVersion":"1.41"}`)
			return
		}
		io.WriteString(w, `[{"Id":"sha256:`+strings.Repeat("0", 64)+`","RepoTags":["alpine:3"]}]`)
	}))
	defer s.Close()
	host := "tcp://" + s.Listener.Addr().String()
	dir := t.TempDir()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	for name, content := range map[string][]byte{"ca.pem": cert, "cert.pem": cert, "key.pem": key(t, s)} {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	list := func(o Options) error {
		e, err := Open(o)
		if err != nil {
			return err
		}
		defer e.Close()
		return first(e.Hosts(t.Context()))
	}
	environment(t, nil)
	must(t, list(Options{Host: host, Certificates: dir}))
	environment(t, map[string]string{"DOCKER_CERT_PATH": dir, "DOCKER_TLS_VERIFY": "1", "DOCKER_HOST": host})
	must(t, list(Options{}))
	environment(t, nil)
	err := list(Options{Host: host})
	wantErr(t, "without TLS", err, image.ErrUnavailable)
	err = list(Options{Host: strings.Replace(host, "tcp", "https", 1)})
	wantErr(t, "of an authority nobody knows", err, image.ErrUnavailable)
	must(t, os.Remove(filepath.Join(dir, "cert.pem")))
	wantErr(t, "without a certificate", list(Options{Host: host, Certificates: dir}), image.ErrNotFound)
	must(t, os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("nothing"), 0o600))
	wantErr(t, "with an authority that is none", list(Options{Host: host, Certificates: dir}), image.ErrInvalid)
}

// key is the server's own key, which does for its client.
func key(t *testing.T, s *httptest.Server) []byte {
	t.Helper()
	raw, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// FuzzList: any list of images is read or refused, and only what can be a name comes of it.
func FuzzList(f *testing.F) {
	f.Add([]byte(`[{"Id":"sha256:` + strings.Repeat("0", 64) + `","RepoTags":["alpine:3","<none>:<none>"]},{"RepoTags":null}]`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`{"message":"no"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		names, err := readNames(bytes.NewReader(raw))
		if err != nil {
			return
		}
		for _, n := range names {
			if !image.ValidHost(n.Host) || !image.ValidRepository(n.Name) || !image.ValidTag(n.tag) || n.id.Validate() != nil {
				t.Errorf("%+v", n)
			}
		}
	})
}

// FuzzProgress: whatever an engine says while it loads, it ends, and with an error of a kind.
func FuzzProgress(f *testing.F) {
	f.Add([]byte(`{"stream":"Loaded image: x"}` + "\r\n"))
	f.Add([]byte(`{"errorDetail":{"message":"no"},"error":"no"}`))
	f.Add([]byte(`{"errorDetail":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, err := readProgress(bytes.NewReader(raw))
		var known *failure
		if err != nil && !errors.As(err, &known) {
			t.Errorf("%v", err)
		}
	})
}
