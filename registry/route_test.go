package registry

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/regfs/regfs/image"
)

// pair is a registry and a mirror of it, with requests counted, and one image in both; mine is what the mirror alone has.
type pair struct {
	main, mirror         *httptest.Server
	atMain, atMirror     recorder
	blob                 []byte
	d, image, mirrorOnly image.Descriptor
}

func newPair(t *testing.T, wrap func(http.Handler) http.Handler) *pair {
	t.Helper()
	p := &pair{}
	p.main = inProcess(t, p.atMain.wrap)
	p.mirror = inProcess(t, func(next http.Handler) http.Handler {
		return p.atMirror.wrap(wrap(next))
	})
	p.blob, p.d = content(1000)
	raw, m := manifest(p.d, "")
	p.image = m
	for base, repository := range map[string]string{p.main.URL: "main/foo", p.mirror.URL: "mirror/foo"} {
		pushBlob(t, base, repository, p.blob, "X-Test", "1")
		pushManifest(t, base, repository, "v1", raw, m.MediaType, "X-Test", "1")
	}
	pushManifest(t, p.main.URL, "main/foo", "old", raw, m.MediaType)
	newer, mine := manifest(p.d, "newer")
	p.mirrorOnly = mine
	pushManifest(t, p.mirror.URL, "mirror/foo", "new", newer, mine.MediaType, "X-Test", "1")
	p.atMain.take()
	p.atMirror.take()
	return p
}

// conf sends example.com/team to the registry, through the mirror.
func (p *pair) conf(more string) string {
	return fmt.Sprintf(`
[[registry]]
prefix = "example.com/team"
location = "%s/main"
%s
[[registry]]
prefix = "example.com/team/blocked"
location = "example.com/team/blocked"
blocked = true
`, address(p.main), strings.ReplaceAll(more, "MIRROR", address(p.mirror)+"/mirror"))
}

const mirrored = "[[registry.mirror]]\nlocation = \"MIRROR\"\n"

func same(next http.Handler) http.Handler { return next }

// unlessTest fails all requests but those by which a test fills the registry.
func unlessTest(status int) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Test") != "" {
				next.ServeHTTP(w, r)
				return
			}
			w.WriteHeader(status)
		})
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	p := newPair(t, same)
	src := open(t, Options{System: system(t, p.conf(""))}, "example.com", "team/foo")
	if got, err := readBlob(t.Context(), src, p.d); err != nil || !bytes.Equal(got, p.blob) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if tags, err := collect(src.Tags(t.Context(), "")); err != nil || !cmp.Equal(tags, []string{"old", "v1"}) {
		t.Errorf("Tags = %v, %v", tags, err)
	}
	_, err := src.Resolve(t.Context(), "none")
	if !errors.Is(err, image.ErrNotFound) || !strings.HasPrefix(err.Error(), "resolve example.com/team/foo:none: ") {
		t.Errorf("%v; want ErrNotFound for the name that was used", err)
	}
	blocked := open(t, Options{System: system(t, p.conf(""))}, "example.com", "team/blocked/x")
	if _, err := blocked.Resolve(t.Context(), "v1"); !errors.Is(err, image.ErrDenied) || !strings.Contains(err.Error(), "registries.conf") {
		t.Errorf("blocked: %v; want ErrDenied that names the file", err)
	}
}

func TestMirror(t *testing.T) {
	t.Parallel()
	p := newPair(t, same)
	for _, test := range []struct {
		conf          string
		tag, byDigest bool // whether the mirror is asked
	}{
		{mirrored, true, true},
		{mirrored + "pull-from-mirror = \"digest-only\"\n", false, true},
		{mirrored + "pull-from-mirror = \"tag-only\"\n", true, false},
		{"mirror-by-digest-only = true\n" + mirrored, false, true},
	} {
		src := open(t, Options{System: system(t, p.conf(test.conf))}, "example.com", "team/foo")
		check := func(what string, want bool, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s with %q: %v", what, test.conf, err)
			}
			main, mirror := p.atMain.take(), p.atMirror.take()
			if (len(mirror) == 1) != want || len(main)+len(mirror) != 1 {
				t.Errorf("%s with %q: asked the mirror %q, the registry %q", what, test.conf, mirror, main)
			}
		}
		_, err := src.Resolve(t.Context(), "v1")
		check("Resolve", test.tag, err)
		_, err = collect(src.Tags(t.Context(), ""))
		check("Tags", test.tag, err)
		_, _, err = src.Manifest(t.Context(), p.image.Digest.String())
		check("Manifest", test.byDigest, err)
		_, err = readBlob(t.Context(), src, p.d)
		check("Fetch", test.byDigest, err)
		_, err = src.Stat(t.Context(), p.d.Digest)
		check("Stat", test.byDigest, err)
		// A tag that only a mirror has leads to a digest that only it has.
		if _, _, err := src.Manifest(t.Context(), p.mirrorOnly.Digest.String()); err != nil {
			t.Errorf("a digest that only the mirror has, with %q: %v", test.conf, err)
		}
		p.atMain.take()
		p.atMirror.take()
	}
}

func TestMirrorFails(t *testing.T) {
	t.Parallel()
	for _, wrap := range []func(http.Handler) http.Handler{
		unlessTest(404), unlessTest(500), unlessTest(401), unlessTest(429),
		func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(&garbler{ResponseWriter: w}, r) })
		},
	} {
		p := newPair(t, wrap)
		src := open(t, Options{System: system(t, p.conf(mirrored))}, "example.com", "team/foo")
		if _, raw, err := src.Manifest(t.Context(), p.image.Digest.String()); err != nil || len(raw) == 0 {
			t.Error(err)
		}
		if _, err := src.Resolve(t.Context(), "none"); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("neither has it: %v; want ErrNotFound", err)
		}
	}
}

func TestMirrorDown(t *testing.T) {
	t.Parallel()
	hung := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Test") == "" {
				<-r.Context().Done()
			}
			next.ServeHTTP(w, r)
		})
	}
	p := newPair(t, hung)
	src := open(t, Options{System: system(t, p.conf(mirrored)), Timeout: 4 * time.Second}, "example.com", "team/foo")
	start := time.Now()
	if _, err := src.Resolve(t.Context(), "v1"); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 3500*time.Millisecond {
		t.Errorf("waited %v for a mirror that hangs", took)
	}
	start = time.Now()
	for range 10 {
		if _, err := src.Resolve(t.Context(), "v1"); err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(start); took > 1500*time.Millisecond {
		t.Errorf("waited again: %v", took)
	}
	p.main.Close()
	if _, err := src.Resolve(t.Context(), "v1"); !errors.Is(err, image.ErrUnavailable) {
		t.Errorf("both are down: %v; want ErrUnavailable", err)
	}
}

// TestMirrorBreaks: what breaks off at the mirror goes on at the registry.
func TestMirrorBreaks(t *testing.T) {
	t.Parallel()
	p := newPair(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isBlob(r) && r.Method == http.MethodGet {
				w = &cutter{w, 300, drop}
			}
			next.ServeHTTP(w, r)
		})
	})
	src := open(t, Options{System: system(t, p.conf(mirrored))}, "example.com", "team/foo")
	if got, err := readBlob(t.Context(), src, p.d); err != nil || !bytes.Equal(got, p.blob) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got := p.atMain.take(); len(got) != 1 {
		t.Errorf("the registry was sent %q, want one GET", got)
	}
}

func TestCatalogRewritten(t *testing.T) {
	t.Parallel()
	p := newPair(t, same)
	blob, _ := content(10)
	pushBlob(t, p.main.URL, "elsewhere", blob)
	conf := fmt.Sprintf("[[registry]]\nprefix = \"example.com\"\nlocation = \"%s/main\"\n", address(p.main))
	h, err := New(Options{System: system(t, conf)}).Host("example.com")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := collect(h.Repositories(t.Context(), "")); err != nil || !cmp.Equal(got, []string{"foo"}) {
		t.Errorf("Repositories = %q, %v", got, err)
	}
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	src := open(t, Options{System: system(t, "[[registry]\n")}, "example.com", "foo")
	if _, err := src.Resolve(t.Context(), "v1"); err == nil || !strings.Contains(err.Error(), "registries.conf") {
		t.Errorf("%v", err)
	}
}
