package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/regfs/regfs/image"
)

// lists is a registry with nothing but lists.
func lists(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/{$}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/v2/", h)
	return address(inProcess(t, func(http.Handler) http.Handler { return mux }))
}

func TestPages(t *testing.T) {
	t.Parallel()
	for _, link := range []string{
		"</v2/foo/tags/list?last=b&n=2>; rel=\"next\"",
		"<http://elsewhere.example/v2/other/tags/list?last=b&n=2>; rel=next",
		"</first>; rel=first, <?n=2&last=b>; title=\"x\"; REL=next",
	} {
		host := lists(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("last") == "b" {
				_, _ = w.Write([]byte(`{"name":"foo","tags":["c",".bad","no good","d"]}`))
				return
			}
			w.Header().Set("Link", link)
			_, _ = w.Write([]byte(`{"name":"foo","tags":["a","b"]}`))
		})
		got, err := collect(open(t, Options{}, host, "foo").Tags(t.Context(), ""))
		if err != nil || !cmp.Equal(got, []string{"a", "b", "c", "d"}) {
			t.Errorf("%s: %q, %v", link, got, err)
		}
	}
}

func TestHostilePages(t *testing.T) {
	t.Parallel()
	n := 0
	for what, h := range map[string]http.HandlerFunc{
		"a circle": func(w http.ResponseWriter, r *http.Request) {
			n++
			w.Header().Set("Link", fmt.Sprintf("<?last=%d>; rel=next", n%3))
			_, _ = w.Write([]byte(`{"tags":["a"]}`))
		},
		"no end": func(w http.ResponseWriter, r *http.Request) {
			n++
			w.Header().Set("Link", fmt.Sprintf("<?last=%d>; rel=next", n))
			_, _ = w.Write([]byte(`{"tags":null}`))
		},
		"a huge page": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(`{"tags":["`))
			for range maxPage >> 20 {
				_, _ = w.Write(make([]byte, 1<<20))
			}
		},
		"no JSON":     func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`<html>`)) },
		"other types": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`{"tags":[{"name":"a"}]}`)) },
		"no query": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</v2/foo/tags/list>; rel=next")
			_, _ = w.Write([]byte(`{"tags":["a"]}`))
		},
	} {
		_, err := collect(open(t, Options{}, lists(t, h), "foo").Tags(t.Context(), ""))
		if !errors.Is(err, image.ErrInvalid) {
			t.Errorf("%s: %v; want ErrInvalid", what, err)
		}
	}
}

func TestRetriedPage(t *testing.T) {
	t.Parallel()
	failed := false
	host := lists(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Query().Get("last") == "":
			w.Header().Set("Link", "<?last=a>; rel=next")
			_, _ = w.Write([]byte(`{"tags":["a"]}`))
		case !failed:
			failed = true
			w.WriteHeader(http.StatusBadGateway)
		default:
			_, _ = w.Write([]byte(`{"tags":["b"]}`))
		}
	})
	if got, err := collect(open(t, Options{}, host, "foo").Tags(t.Context(), "")); err != nil || !cmp.Equal(got, []string{"a", "b"}) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNoCatalog(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]error{
		404: image.ErrUnsupported, 405: image.ErrUnsupported, 401: image.ErrDenied, 403: image.ErrDenied,
	} {
		host := lists(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) })
		h, _ := New(Options{System: system(t, "")}).Host(host)
		_, err := collect(h.Repositories(t.Context(), ""))
		if !errors.Is(err, want) || errors.Is(err, image.ErrNotFound) {
			t.Errorf("%d: %v; want %v", status, err, want)
		}
	}
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	s := inProcess(t, nil)
	blob, d := content(10)
	pushBlob(t, s.URL, "foo", blob)
	raw, subject := manifest(d, "")
	pushManifest(t, s.URL, "foo", "v1", raw, subject.MediaType)
	signature := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"a/sig","config":{"mediaType":"a/sig","digest":%q,"size":10},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d}}`,
		v1.MediaTypeImageManifest, d.Digest, subject.MediaType, subject.Digest, subject.Size)
	want := describe(v1.MediaTypeImageManifest, signature)
	pushManifest(t, s.URL, "foo", want.Digest.String(), signature, want.MediaType)
	checkReferrers(t, open(t, Options{}, address(s), "foo"), subject, want)

	host := debian(t, "") // has no API for it
	pushBlob(t, "http://"+host, "foo", blob)
	pushManifest(t, "http://"+host, "foo", "v1", raw, subject.MediaType)
	pushManifest(t, "http://"+host, "foo", "sig", signature, want.MediaType)
	want.ArtifactType = "a/sig"
	index, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": v1.MediaTypeImageIndex, "manifests": []image.Descriptor{want}})
	pushManifest(t, "http://"+host, "foo", strings.Replace(subject.Digest.String(), ":", "-", 1), index, v1.MediaTypeImageIndex)
	checkReferrers(t, open(t, Options{}, host, "foo"), subject, want)
}

func checkReferrers(t *testing.T, src image.Source, subject, want image.Descriptor) {
	t.Helper()
	for artifactType, n := range map[string]int{"": 1, "a/sig": 1, "a/other": 0} {
		got, err := collect(src.Referrers(t.Context(), subject, artifactType))
		if err != nil || len(got) != n || n > 0 && got[0].Digest != want.Digest {
			t.Errorf("Referrers(%q) = %v, %v; want %d", artifactType, got, err, n)
		}
	}
	none := describe("", []byte("none"))
	if got, err := collect(src.Referrers(t.Context(), none, "")); err != nil || len(got) != 0 {
		t.Errorf("Referrers of nothing = %v, %v", got, err)
	}
}

func TestHostileReferrers(t *testing.T) {
	t.Parallel()
	_, d := content(10)
	host := lists(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
		_, _ = w.Write([]byte(`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageIndex + `","manifests":[{"digest":"sha256:../..","size":-5}]}`))
	})
	if got, err := collect(open(t, Options{}, host, "foo").Referrers(t.Context(), d, "")); !errors.Is(err, image.ErrInvalid) {
		t.Errorf("%v, %v; want ErrInvalid", got, err)
	}
}

func FuzzNextPage(f *testing.F) {
	f.Add("</v2/x/tags/list?n=1&last=y>; rel=\"next\"")
	f.Add("<a?b>;rel=x, <c?d>;rel=next")
	f.Add("<<>>,;=<?%zz>;rel=next")
	f.Fuzz(func(t *testing.T, header string) {
		next, err := nextPage([]string{header})
		if err != nil && (next != nil || !errors.Is(err, image.ErrInvalid)) {
			t.Errorf("%v, %v", next, err)
		}
		if len(next.Encode()) > 4*maxLink {
			t.Errorf("%d bytes of query", len(next.Encode()))
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add([]byte(`{"tags":["a","b"]}`), "")
	f.Add([]byte(`{"tags":null}`), "a")
	f.Add([]byte(`{"tags":["a",".."]}`), "a")
	f.Fuzz(func(t *testing.T, raw []byte, after string) {
		l := names{key: "tags", after: after, valid: image.ValidTag}
		found, err := l.parse(raw)
		if err != nil && !errors.Is(err, image.ErrInvalid) {
			t.Error(err)
		}
		for _, name := range found {
			if !image.ValidTag(name) || name == after && after != "" {
				t.Errorf("%q after %q", name, after)
			}
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Wed, 21 Oct 2026 07:28:00 GMT")
	f.Add("99999999999999999999")
	f.Add("-1")
	f.Fuzz(func(t *testing.T, value string) {
		if d := retryAfter(http.Header{"Retry-After": {value}}, time.Now()); d < 0 || d > maxRetryAfter {
			t.Errorf("%q: %v", value, d)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes */10")
	f.Add("bytes 5-/*")
	f.Fuzz(func(t *testing.T, value string) {
		start, total := contentRange(&http.Response{Header: http.Header{"Content-Range": {value}}})
		if start < -1 || total < -1 {
			t.Errorf("%q: %d, %d", value, start, total)
		}
	})
}

func FuzzClean(f *testing.F) {
	f.Add("Get \"https://user:pw@host/x?sig=abc\": \n\x1b[31m nope")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if strings.ContainsAny(got, "\n\r\x1b\x00") || len([]rune(got)) > maxErrorWords+1 {
			t.Errorf("%q", got)
		}
	})
}

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Get \"https://user:pw@host/x?sig=abc\": no": "Get \"https://host/x\": no",
		"a\nb\tc":    "a b c",
		"what? yes?": "what? yes?",
		"at http://h/p?a=b&c=d and https://t:k@h2/?q=1 x": "at http://h/p and https://h2/ x",
		strings.Repeat("x", 1000):                         strings.Repeat("x", maxErrorWords) + "…",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "99999999999": maxRetryAfter,
		"Sat, 21 Nov 2026 12:00:30 GMT": 30 * time.Second, "Sat, 21 Nov 2026 11:00:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {in}}, now); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}
