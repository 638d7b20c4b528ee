package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/tests/registries"
)

// Requests of an upload.
var (
	isPost  = registries.Both(registries.Method(http.MethodPost), registries.Path("/blobs/uploads/"))
	isPatch = registries.Both(registries.Method(http.MethodPatch), registries.Path("/blobs/uploads/"))
	isPut   = registries.Both(registries.Method(http.MethodPut), registries.Path("/blobs/uploads/"))
	isHead  = registries.Both(registries.Method(http.MethodHead), registries.Path("/blobs/sha"))
	putsTag = registries.Both(registries.Method(http.MethodPut), registries.Path("/manifests/"))
)

// opened is content that remembers where it was opened.
func opened(raw []byte) (image.Content, func() []int64) {
	var mu sync.Mutex
	var at []int64
	c := of(raw)
	inner := c.Open
	c.Open = func(ctx context.Context, off int64) (io.ReadCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		at = append(at, off)
		return inner(ctx, off)
	}
	return c, func() []int64 {
		mu.Lock()
		defer mu.Unlock()
		return at
	}
}

// TestUploadResumes: what the registry keeps of a broken upload is not sent again, wherever it breaks.
func TestUploadResumes(t *testing.T) {
	const size = 2_500_000
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		for _, chunk := range []int64{1_000_000, size} {
			for tenth := int64(1); tenth < 10; tenth += 2 {
				at := tenth * size / 10
				first := at / chunk * chunk // where the request that breaks begins
				p.Reset()
				p.Fault(1, func(r registries.Request) bool {
					from, _, ranged := strings.Cut(r.Header.Get("Content-Range"), "-")
					return ranged && from == fmt.Sprint(first) || chunk == size && r.Method == http.MethodPut
				}, registries.DropRequest(at-first))
				sink, src := writable(t, Options{}, p.Host, fmt.Sprintf("foo%d/%d", tenth, chunk), pieces{chunk, chunk})
				raw, d := content(size)
				raw[0], raw[1] = byte(tenth), byte(chunk) // registries link what other repositories have
				d = describe(d.MediaType, raw)
				c, offsets := opened(raw)
				mustPush(t, sink, d, c, image.Uploaded)
				mustHave(t, src, d, raw)
				got := offsets()
				// Docker's gives up a session that a request of broke, and go-containerregistry's tells no offset.
				if kind == "distribution" && (len(got) != 2 || got[1] < at-200_000 || got[1] > at) {
					t.Errorf("broken at %d, in pieces of %d: opened at %d", at, chunk, got)
				}
			}
		}
	})
}

// TestUploadFaults: what fails once or twice fails nobody.
func TestUploadFaults(t *testing.T) {
	said := func(status int, code string) registries.Fault {
		return registries.Answer(status, http.Header{"Content-Type": {"application/json"}}, `{"errors":[{"code":"`+code+`"}]}`)
	}
	tests := map[string]struct {
		times int
		match registries.Match
		fault registries.Fault
	}{
		"500 to POST":             {1, isPost, registries.Status(500, "")},
		"503 to PATCH":            {1, isPatch, registries.Status(503, "")},
		"500 to PATCH and GET":    {2, registries.Path("/blobs/uploads/."), registries.Status(500, "")},
		"500 to PUT":              {1, isPut, registries.Status(500, "")},
		"503 to HEAD":             {1, isHead, registries.Status(503, "")},
		"502 to a manifest":       {1, putsTag, registries.Status(502, "")},
		"lost answer to POST":     {1, isPost, registries.Swallow},
		"lost answer to PATCH":    {1, isPatch, registries.Swallow},
		"lost answer to PUT":      {1, isPut, registries.Swallow},
		"lost answers to PUT":     {2, isPut, registries.Swallow},
		"lost answer to manifest": {1, putsTag, registries.Swallow},
		"session gone, PATCH":     {1, isPatch, said(404, "BLOB_UPLOAD_UNKNOWN")},
		"session gone, PUT":       {1, isPut, said(404, "BLOB_UPLOAD_UNKNOWN")},
		"invalid session":         {1, isPatch, said(400, "BLOB_UPLOAD_INVALID")},
		"wrong offset":            {1, isPatch, said(416, "RANGE_INVALID")},
		"session went wrong":      {1, isPut, said(400, "DIGEST_INVALID")},
		"no offset":               {1, registries.Path("/blobs/uploads/."), registries.Swallow},
	}
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		for what, test := range tests {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				p := registries.NewProxy(t, p.Registry)
				for size, known := range map[int]bool{50_000: true, 150_000: true, 40_000: false} {
					p.Reset()
					p.Fault(test.times, test.match, test.fault)
					pushOne(t, p, what, size, known)
				}
			})
		}
	})
}

// TestUploadWaits: as long as it is told to, and for a registry that says nothing no longer than it has to.
func TestUploadWaits(t *testing.T) {
	t.Parallel()
	for what, fault := range map[string]registries.Fault{"429": registries.Status(429, "1"), "silence": registries.Hang} {
		for kind, match := range map[string]registries.Match{"PATCH": isPatch, "PUT": isPut} {
			t.Run(what+" to "+kind, func(t *testing.T) {
				t.Parallel()
				p := registries.NewProxy(t, registries.Memory(t))
				p.Fault(1, match, fault)
				start := time.Now()
				pushOne(t, p, what, 150_000, true)
				if took := time.Since(start); took < time.Second {
					t.Errorf("after %v", took)
				}
			})
		}
	}
}

// pushOne pushes an image of one blob, whose content is named.
func pushOne(t *testing.T, p *registries.Proxy, name string, size int, known bool) {
	t.Helper()
	sink, src := writable(t, Options{Timeout: 4 * time.Second}, p.Host, "foo", small)
	raw, _ := content(size)
	raw = append(raw, name...)
	b := describe("x/y", raw)
	d := b
	if !known {
		d.Size = -1
	}
	mustPush(t, sink, d, of(raw), image.Uploaded)
	mustHave(t, src, b, raw)
	m, d := manifest(b, name)
	if err := sink.Tag(t.Context(), d, m, "v1"); err != nil {
		t.Error(err)
	}
}

// TestUploadVerdicts: what fails for good says why, in the registry's words.
func TestUploadVerdicts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		match  registries.Match
		status int
		body   string
		want   error
		words  string
	}{
		{isPost, 401, "", image.ErrDenied, "unauthorized (401)"},
		{isPost, 403, `{"errors":[{"code":"DENIED","message":"read only"}]}`, image.ErrDenied, "denied: read only (403)"},
		{isPost, 403, `{"errors":[{"code":"DENIED","message":"adding 5 MiB exceeds the quota"}]}`, image.ErrQuota, "denied: adding 5 MiB exceeds the quota (403)"},
		{isPost, 404, `{"errors":[{"code":"NAME_UNKNOWN","message":"no such project"}]}`, image.ErrNotFound, "name_unknown: no such project (404)"},
		{isPost, 400, `{"errors":[{"code":"NAME_INVALID"}]}`, image.ErrRefused, "name_invalid (400)"},
		{isPost, 405, "", image.ErrUnsupported, "method not allowed (405)"},
		{isPost, 429, "", image.ErrUnavailable, "too many requests (429)"},
		{isPost, 500, "", image.ErrUnavailable, "internal server error (500)"},
		{isPatch, 413, "", image.ErrTooLarge, "request entity too large (413)"},
		{isPatch, 507, "", image.ErrQuota, "insufficient storage (507)"},
		{isPatch, 500, "", image.ErrUnavailable, "internal server error (500)"},
		{isPatch, 404, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}`, image.ErrRefused, "blob_upload_unknown (404)"},
		{isPut, 400, `{"errors":[{"code":"DIGEST_INVALID"}]}`, image.ErrDigest, "digest_invalid (400)"},
		{isPut, 503, "", image.ErrUnavailable, "service unavailable (503)"},
	} {
		p := registries.NewProxy(t, registries.Memory(t))
		p.Fault(-1, test.match, registries.Answer(test.status, nil, test.body))
		sink, src := writable(t, Options{Timeout: time.Second}, p.Host, "foo", small)
		raw, d := content(150_000)
		_, err := sink.Push(t.Context(), d, of(raw))
		what := fmt.Sprintf("push blob %s/foo@%s: ", p.Host, d.Digest)
		if !errors.Is(err, test.want) || err.Error() != what+test.words {
			t.Errorf("%d: %v; want %v and %q", test.status, err, test.want, what+test.words)
		}
		if _, err := src.Stat(t.Context(), d.Digest); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("%d: the blob is there: %v", test.status, err)
		}
	}
}

func TestManifestVerdicts(t *testing.T) {
	t.Parallel()
	missing := describe("x/y", []byte("missing")).Digest.String()
	for _, test := range []struct {
		status int
		body   string
		want   error
		words  string
	}{
		{400, `{"errors":[{"code":"MANIFEST_INVALID","message":"bad media type"}]}`, image.ErrRefused, "manifest_invalid: bad media type (400)"},
		{400, `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown","detail":"` + missing + `"}]}`, image.ErrNotFound,
			"manifest_blob_unknown: blob unknown: " + missing + " (400)"},
		{415, "", image.ErrRefused, "unsupported media type (415)"},
		{413, "", image.ErrTooLarge, "request entity too large (413)"},
		{400, `{"errors":[{"code":"TAG_INVALID","message":"immutable"}]}`, image.ErrRefused, "tag_invalid: immutable (400)"},
		{403, "", image.ErrDenied, "forbidden (403)"},
	} {
		p := registries.NewProxy(t, registries.Memory(t))
		p.Fault(-1, putsTag, registries.Answer(test.status, nil, test.body))
		sink, _ := writable(t, Options{}, p.Host, "foo", small)
		raw, d := manifest(describe("x/y", nil), "")
		err := sink.Tag(t.Context(), d, raw, "v1")
		if want := "tag " + p.Host + "/foo:v1: " + test.words; !errors.Is(err, test.want) || err.Error() != want {
			t.Errorf("%v; want %v and %q", err, test.want, want)
		}
	}
}

// TestUploadStalls: a registry that falls silent for good is given the time it has, whatever it is silent to.
func TestUploadStalls(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	for what, match := range map[string]registries.Match{
		"HEAD": isHead, "POST": isPost, "PATCH": isPatch, "PUT": isPut, "manifest": putsTag, "all": registries.Any,
		"PATCH and GET": registries.Path("/blobs/uploads/."),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := registries.NewProxy(t, registries.Memory(t))
			p.Fault(-1, match, registries.Hang)
			sink, _ := writable(t, Options{Timeout: timeout}, p.Host, "foo", small)
			raw, d := content(250_000)
			start := time.Now()
			_, err := sink.Push(t.Context(), d, of(raw))
			if what == "manifest" {
				raw, d := manifest(d, "")
				start, err = time.Now(), sink.Tag(t.Context(), d, raw, "v1")
			}
			if took := time.Since(start); took > 3*timeout || took < timeout/2 {
				t.Errorf("took %v", took)
			}
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, image.ErrUnavailable) {
				t.Errorf("%v; want DeadlineExceeded and ErrUnavailable", err)
			}
		})
	}
}

// paced is content that takes its time before each byte of some.
type paced struct {
	io.Reader
	ctx   context.Context
	pause time.Duration
}

func (p paced) Read(b []byte) (int, error) {
	if !sleep(p.ctx, p.pause) {
		return 0, p.ctx.Err()
	}
	return p.Reader.Read(b[:min(len(b), 20_000)])
}

func (p paced) Close() error { return nil }

// TestSlowContent: who waits for the content does not wait for the registry.
func TestSlowContent(t *testing.T) {
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		const timeout = 400 * time.Millisecond
		raw, d := content(60_000)
		for _, d := range []image.Descriptor{d, unknownSize(describe(d.MediaType, raw[1:]))} {
			raw := raw
			if d.Size < 0 {
				raw = raw[1:]
			}
			sink, src := writable(t, Options{Timeout: timeout}, p.Host, "foo", pieces{40_000, 40_000})
			c := image.Content{Open: func(ctx context.Context, off int64) (io.ReadCloser, error) {
				inner, err := of(raw).Open(ctx, off)
				return paced{inner, ctx, timeout * 3 / 2}, err
			}}
			mustPush(t, sink, d, c, image.Uploaded)
			mustHave(t, src, d, raw)
		}
	})
}

// TestCancelUpload: Ctrl-C ends an upload at once, whether it waits for the registry or the content.
func TestCancelUpload(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"registry", "content"} {
		p := registries.NewProxy(t, registries.Memory(t))
		raw, d := content(150_000)
		ctx, cancel := context.WithCancel(t.Context())
		c := of(raw)
		if what == "registry" {
			p.Fault(-1, isPatch, func(e *registries.Exchange) (*http.Response, error) {
				cancel()
				return registries.Hang(e)
			})
		} else {
			c.Open = func(ctx context.Context, _ int64) (io.ReadCloser, error) {
				cancel()
				return paced{nil, t.Context(), time.Minute}, nil // deaf to its context
			}
		}
		sink, _ := writable(t, Options{Timeout: time.Minute}, p.Host, "foo", small)
		start := time.Now()
		_, err := sink.Push(ctx, d, c)
		if !errors.Is(err, context.Canceled) || errors.Is(err, image.ErrUnavailable) || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v after %v; want Canceled at once", what, err, time.Since(start))
		}
	}
}

// TestContentFails: that is not the registry's fault, and no reason to try again.
func TestContentFails(t *testing.T) {
	t.Parallel()
	mine := errors.New("the disk is on fire")
	p := registries.NewProxy(t, registries.Memory(t))
	sink, _ := writable(t, Options{}, p.Host, "foo", small)
	raw, d := content(250_000)
	for _, after := range []int{-1, 0, 150_000} {
		for _, d := range []image.Descriptor{d, unknownSize(d)} {
			opens := 0
			_, err := sink.Push(t.Context(), d, image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) {
				if opens++; after < 0 {
					return nil, mine
				}
				return io.NopCloser(io.MultiReader(strings.NewReader(string(raw[:after])), failing{mine})), nil
			}})
			if !errors.Is(err, mine) || errors.Is(err, image.ErrUnavailable) || opens != 1 {
				t.Errorf("after %d bytes: %v, opened %d times", after, err, opens)
			}
		}
	}
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

// TestRetryTellsTheVerdict: a last try that had no time says less than the answers before it.
func TestRetryTellsTheVerdict(t *testing.T) {
	t.Parallel()
	n := 0
	err := retry(t.Context(), time.Now().Add(time.Minute), func() error {
		if n++; n == 1 {
			return &statusError{status: 500, words: "broken"}
		}
		return errStalled
	})
	if statusOf(err) != 500 || n != 2 {
		t.Errorf("%v after %d tries; want the 500", err, n)
	}
	if err := retry(t.Context(), time.Now().Add(time.Minute), func() error { return errStalled }); err != errStalled {
		t.Errorf("%v; want errStalled", err)
	}
}
