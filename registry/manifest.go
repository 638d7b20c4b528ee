package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/regfs/regfs/image"
)

// acceptManifests asks for every kind of manifest there is: without it, registries answer with an old one, or 404.
var acceptManifests = strings.Join(image.ManifestTypes, ", ")

// manifestRef is a reference to a manifest that was found sound.
type manifestRef struct {
	string
	digest digest.Digest // "" for a tag
}

func (s *source) ref(what, ref string) (manifestRef, string, error) {
	dgst, err := checkRef(ref)
	separator := ":"
	if dgst != "" {
		separator = "@"
	}
	what += " " + s.name() + separator + clean(ref)
	if err != nil {
		return manifestRef{}, what, &failure{what: what, words: "neither a tag nor a digest", kinds: []error{image.ErrNotFound}}
	}
	return manifestRef{ref, dgst}, what, nil
}

// Resolve sends a HEAD, and a GET to those that answer it with less than what they should.
func (s *source) Resolve(ctx context.Context, name string) (image.Descriptor, error) {
	ref, what, err := s.ref("resolve", name)
	if err != nil {
		return image.Descriptor{}, err
	}
	var d image.Descriptor
	err = s.each(ctx, ref.digest, s.client.deadline(), func(t target, deadline time.Time) (err error) {
		d, err = t.resolve(ctx, ref, deadline)
		return err
	})
	if err != nil {
		return image.Descriptor{}, fail(ctx, what, err)
	}
	return d, nil
}

// Manifest sends a GET, and checks what comes.
func (s *source) Manifest(ctx context.Context, name string) (image.Descriptor, []byte, error) {
	ref, what, err := s.ref("get manifest", name)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	var d image.Descriptor
	var raw []byte
	err = s.each(ctx, ref.digest, s.client.deadline(), func(t target, deadline time.Time) (err error) {
		d, raw, err = t.manifest(ctx, ref, deadline)
		return err
	})
	if err != nil {
		return image.Descriptor{}, nil, fail(ctx, what, err)
	}
	return d, raw, nil
}

// errUnanswered: a HEAD was answered, but does not tell what it should.
var errUnanswered = errors.New("the answer to HEAD says too little")

// unanswered tells whether a GET may say what a HEAD did not: not every registry can do HEAD, nor everything that one redirects
// to. A 404 is mostly what it says: see judgeHead.
func unanswered(err error) bool {
	if errors.Is(err, errUnanswered) {
		return true
	}
	var status *statusError
	if !errors.As(err, &status) {
		return false
	}
	switch status.status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	case http.StatusNotFound:
		return !status.believed
	}
	return status.foreign && status.status < 500
}

// resolve asks for a manifest with HEAD, and with GET where that says too little.
func (t target) resolve(ctx context.Context, ref manifestRef, deadline time.Time) (image.Descriptor, error) {
	d, err := t.head(ctx, ref, deadline)
	if err == nil || !unanswered(err) {
		return d, err
	}
	d, _, err = t.manifest(ctx, ref, deadline)
	return d, err
}

// head asks for a manifest without its content.
func (t target) head(ctx context.Context, ref manifestRef, deadline time.Time) (image.Descriptor, error) {
	resp, err := t.send(ctx, request{method: http.MethodHead, path: "manifests/" + ref.string, accept: acceptManifests}, deadline)
	if err != nil {
		return image.Descriptor{}, t.judgeHead(err)
	}
	resp.Body.Close()
	d := image.Descriptor{MediaType: mediaType(resp), Digest: contentDigest(resp), Size: resp.ContentLength}
	if ref.digest != "" && d.Digest == "" {
		d.Digest = ref.digest
	}
	if d.Size <= 0 || d.Digest == "" || ref.digest != "" && d.Digest != ref.digest || !image.IsManifest(d.MediaType) {
		return image.Descriptor{}, errUnanswered
	}
	t.doesHead.Store(true)
	return d, nil
}

// judgeHead believes a 404 where HEAD is known to work, or where it is the registry's own and not that of something before it.
func (t target) judgeHead(err error) error {
	var status *statusError
	if errors.As(err, &status) {
		status.believed = status.api || t.doesHead.Load()
	}
	return err
}

// manifest gets a manifest, whole, and makes sure that it is the one that was asked for, or that the registry named.
func (t target) manifest(ctx context.Context, ref manifestRef, deadline time.Time) (image.Descriptor, []byte, error) {
	resp, err := t.send(ctx, request{method: http.MethodGet, path: "manifests/" + ref.string, accept: acceptManifests}, deadline)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	defer resp.Body.Close()
	raw, err := readAll(resp, image.MaxManifest)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	kind, err := manifestType(mediaType(resp), raw)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	want := ref.digest
	if want == "" {
		want = contentDigest(resp)
	}
	d := image.Descriptor{MediaType: kind, Size: int64(len(raw))}
	d.Digest, err = checkManifest(want, kind, raw)
	return d, raw, err
}

// checkManifest computes a manifest's digest, in the algorithm of the wanted one, and compares.
func checkManifest(want digest.Digest, mediaType string, raw []byte) (digest.Digest, error) {
	alg := digest.Canonical
	if want != "" {
		alg = want.Algorithm()
	}
	got, err := image.DigestManifest(alg, mediaType, raw)
	if err != nil {
		return "", err
	}
	if want != "" && got != want {
		return "", fmt.Errorf("%s: the manifest has the digest %s: %w", want, got, image.ErrDigest)
	}
	return got, nil
}

// manifestType is what a server says a manifest is or, if it says nothing useful, what the manifest itself says.
func manifestType(served string, raw []byte) (string, error) {
	if image.IsManifest(served) {
		return served, nil
	}
	m, err := image.ParseManifest("", raw)
	if err != nil {
		return "", err
	}
	var signed struct {
		Signatures []json.RawMessage `json:"signatures"`
	}
	if m.MediaType == image.MediaTypeDockerSchema1 && json.Unmarshal(raw, &signed) == nil && len(signed.Signatures) > 0 {
		return image.MediaTypeDockerSchema1Signed, nil
	}
	return m.MediaType, nil
}

// readAll reads an answer of at most limit bytes.
func readAll(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("an answer of %d bytes, more than %d: %w", resp.ContentLength, limit, image.ErrInvalid)
	}
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(resp.Body, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("an answer of more than %d bytes: %w", limit, image.ErrInvalid)
	}
	return buf.Bytes(), err
}

// mediaType is the Content-Type without its parameters; "" where there is none that makes sense.
func mediaType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// contentDigest is what a registry says the digest of its answer is; "" where it says none that makes sense.
func contentDigest(resp *http.Response) digest.Digest {
	d, err := digest.Parse(resp.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return ""
	}
	return d
}

// Stat asks for a blob and, when there is none of that digest, for a manifest.
func (s *source) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	what := "stat " + s.name() + "@" + clean(dgst.String())
	if dgst.Validate() != nil {
		return image.Descriptor{}, &failure{what: what, words: "not a digest", kinds: []error{image.ErrNotFound}}
	}
	var d image.Descriptor
	err := s.each(ctx, dgst, s.client.deadline(), func(t target, deadline time.Time) (err error) {
		if d, err = t.stat(ctx, dgst, deadline); statusOf(err) != http.StatusNotFound {
			return err
		}
		d, err = t.resolve(ctx, manifestRef{dgst.String(), dgst}, deadline)
		return err
	})
	if err != nil {
		return image.Descriptor{}, fail(ctx, what, err)
	}
	return d, nil
}

// stat asks for a blob's size: with HEAD or, where that does not tell, by its first byte.
func (t target) stat(ctx context.Context, dgst digest.Digest, deadline time.Time) (image.Descriptor, error) {
	r := request{method: http.MethodHead, path: "blobs/" + dgst.String()}
	resp, err := t.send(ctx, r, deadline)
	if err == nil {
		resp.Body.Close()
		if resp.ContentLength >= 0 {
			return image.Descriptor{MediaType: mediaType(resp), Digest: dgst, Size: resp.ContentLength}, nil
		}
		err = errUnanswered
	}
	if !unanswered(err) || statusOf(err) == http.StatusNotFound {
		return image.Descriptor{}, err
	}
	r.method, r.span = http.MethodGet, "bytes=0-0"
	if resp, err = t.send(ctx, r, deadline); err != nil {
		return image.Descriptor{}, err
	}
	resp.Body.Close()
	d := image.Descriptor{MediaType: mediaType(resp), Digest: dgst, Size: resp.ContentLength}
	if resp.StatusCode == http.StatusPartialContent {
		_, d.Size = contentRange(resp)
	}
	return d, nil
}

// contentRange reads where an answer starts and how long the whole is (RFC 9110, 14.4); -1 for what it does not say.
func contentRange(resp *http.Response) (start, total int64) {
	value, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes ")
	span, size, cut := strings.Cut(value, "/")
	from, _, dash := strings.Cut(span, "-")
	start, total = -1, -1
	if !ok || !cut {
		return start, total
	}
	if n, err := strconv.ParseUint(size, 10, 63); err == nil {
		total = int64(n)
	}
	if n, err := strconv.ParseUint(from, 10, 63); err == nil && dash {
		start = int64(n)
	}
	return start, total
}
