package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/regfs/regfs/image"
)

// browse is what any registry must answer alike: base is it for the test, src for the package.
func browse(t *testing.T, base string, src image.Source, repository string, header ...string) {
	t.Helper()
	ctx := t.Context()
	blob, d := content(300_000)
	pushBlob(t, base, repository, blob, header...)
	raw, want := manifest(d, "first")
	pushManifest(t, base, repository, "v1", raw, want.MediaType, header...)
	second, _ := manifest(d, "second")
	pushManifest(t, base, repository, "v2", second, want.MediaType, header...)

	got, err := src.Resolve(ctx, "v1")
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("Resolve(v1) = %v, %v; want %v", got, err, want)
	}
	for _, ref := range []string{"v1", want.Digest.String()} {
		got, body, err := src.Manifest(ctx, ref)
		if err != nil || !cmp.Equal(got, want) || !bytes.Equal(body, raw) {
			t.Errorf("Manifest(%s) = %v, %s, %v; want %v", ref, got, body, err, want)
		}
	}
	if got, err := readBlob(ctx, src, d); err != nil || !bytes.Equal(got, blob) {
		t.Errorf("Fetch: %d bytes, %v", len(got), err)
	}
	sizeless := image.Descriptor{Digest: d.Digest, Size: -1}
	if got, err := readBlob(ctx, src, sizeless); err != nil || !bytes.Equal(got, blob) {
		t.Errorf("Fetch without a size: %d bytes, %v", len(got), err)
	}
	if got, err := readBlob(ctx, src, want); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("Fetch of a manifest: %s, %v", got, err)
	}
	for _, span := range [][2]int64{{0, 10}, {100_000, 50_000}, {299_999, 1}, {0, 300_000}, {7, 0}} {
		r, err := src.FetchRange(ctx, d, span[0], span[1])
		if err != nil {
			t.Errorf("FetchRange%v: %v", span, err)
			continue
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, blob[span[0]:span[0]+span[1]]) {
			t.Errorf("FetchRange%v: %d bytes, %v", span, len(got), err)
		}
	}
	for _, dgst := range []image.Descriptor{d, want} {
		if got, err := src.Stat(ctx, dgst.Digest); err != nil || got.Size != dgst.Size {
			t.Errorf("Stat(%s) = %v, %v; want %d bytes", dgst.Digest, got, err, dgst.Size)
		}
	}
	if tags, err := collect(src.Tags(ctx, "")); err != nil || !cmp.Equal(tags, []string{"v1", "v2"}) {
		t.Errorf("Tags = %v, %v", tags, err)
	}
	if tags, err := collect(src.Tags(ctx, "v1")); err != nil || !cmp.Equal(tags, []string{"v2"}) {
		t.Errorf("Tags after v1 = %v, %v", tags, err)
	}
	if found, err := collect(src.Referrers(ctx, want, "")); err != nil || len(found) != 0 {
		t.Errorf("Referrers = %v, %v; want none", found, err)
	}
	absent(t, src)
}

func absent(t *testing.T, src image.Source) {
	t.Helper()
	ctx := t.Context()
	none := digest.FromString("nowhere")
	_, resolve := src.Resolve(ctx, "nosuch")
	_, _, byDigest := src.Manifest(ctx, none.String())
	_, stat := src.Stat(ctx, none)
	_, blob := src.Fetch(ctx, image.Descriptor{Digest: none, Size: 7})
	_, malformed := src.Resolve(ctx, ".git")
	_, empty := src.Resolve(ctx, "")
	for what, err := range map[string]error{
		"Resolve": resolve, "Manifest": byDigest, "Stat": stat, "Fetch": blob, "a tag that can't be": malformed, "no tag": empty,
	} {
		if !errors.Is(err, image.ErrNotFound) || errors.Is(err, image.ErrUnavailable) {
			t.Errorf("%s: %v; want ErrNotFound", what, err)
		}
	}
}

func TestBrowseInProcess(t *testing.T) {
	t.Parallel()
	s := inProcess(t, nil)
	browse(t, s.URL, open(t, Options{}, address(s), "foo/bar"), "foo/bar")
}

func TestBrowseDebian(t *testing.T) {
	t.Parallel()
	host := debian(t, "")
	browse(t, "http://"+host, open(t, Options{}, host, "foo/bar"), "foo/bar")
	src := open(t, Options{}, host, "foo/none")
	if _, err := collect(src.Tags(t.Context(), "")); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("tags of a repository that does not exist: %v", err)
	}
}

func TestListsOfDebian(t *testing.T) {
	t.Parallel()
	host := debian(t, "")
	blob, d := content(10)
	pushBlob(t, "http://"+host, "many", blob)
	raw, want := manifest(d, "")
	var tags []string
	for i := range 60 {
		tags = append(tags, fmt.Sprintf("t%04d", i))
		pushManifest(t, "http://"+host, "many", tags[i], raw, want.MediaType)
	}
	src := open(t, Options{}, host, "many")
	// It pages nothing, sorts nothing and knows no "last".
	if got, err := collect(src.Tags(t.Context(), "")); err != nil || !cmp.Equal(slices.Sorted(slices.Values(got)), tags) {
		t.Errorf("%d tags, %v", len(got), err)
	}
	if got, err := collect(src.Tags(t.Context(), "t0049")); err != nil || !cmp.Equal(slices.Sorted(slices.Values(got)), tags[50:]) {
		t.Errorf("%d tags after the fiftieth, %v", len(got), err)
	}
	h, _ := New(Options{System: system(t, "")}).Host(host)
	if got, err := collect(h.Repositories(t.Context(), "")); err != nil || !cmp.Equal(got, []string{"many"}) {
		t.Errorf("Repositories = %v, %v", got, err)
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	var c recorder
	s := inProcess(t, c.wrap)
	blob, d := content(1000)
	pushBlob(t, s.URL, "a", blob)
	raw, want := manifest(d, "")
	pushManifest(t, s.URL, "a", "v1", raw, want.MediaType)
	src := open(t, Options{}, address(s), "a")
	c.take()
	for _, test := range []struct {
		what string
		do   func() error
		want []string
	}{
		{"Resolve", func() error { _, err := src.Resolve(t.Context(), "v1"); return err }, []string{"HEAD /v2/a/manifests/v1"}},
		{"Resolve nothing", func() error { _, _ = src.Resolve(t.Context(), "no"); return nil }, []string{"HEAD /v2/a/manifests/no"}},
		{"Manifest", func() error { _, _, err := src.Manifest(t.Context(), "v1"); return err }, []string{"GET /v2/a/manifests/v1"}},
		{"Stat", func() error { _, err := src.Stat(t.Context(), d.Digest); return err }, []string{"HEAD /v2/a/blobs/" + d.Digest.String()}},
		{"Fetch", func() error { _, err := readBlob(t.Context(), src, d); return err }, []string{"GET /v2/a/blobs/" + d.Digest.String()}},
		{"Tags", func() error { _, err := collect(src.Tags(t.Context(), "")); return err }, []string{"GET /v2/a/tags/list"}},
		{"an impossible tag", func() error { _, _ = src.Resolve(t.Context(), "a b"); return nil }, nil},
		{"an impossible digest", func() error { _, _ = src.Stat(t.Context(), "sha256:../.."); return nil }, nil},
	} {
		if err := test.do(); err != nil {
			t.Errorf("%s: %v", test.what, err)
		}
		if got := c.take(); !cmp.Equal(got, test.want) {
			t.Errorf("%s sends %q, want %q", test.what, got, test.want)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	c := New(Options{})
	for name, want := range map[string]bool{
		"quay.io": true, "localhost:5000": true, "[::1]:5000": true, "127.0.0.1": true,
		"": false, "a/b": false, "user@host": false, "a?b": false, ":5000": false, "a b": false, "a%zz": false, "x.y:port": false,
	} {
		if _, err := c.Host(name); (err == nil) != want || err != nil && !errors.Is(err, image.ErrNotFound) {
			t.Errorf("Host(%q): %v", name, err)
		}
	}
	h, _ := c.Host("quay.io")
	for name, want := range map[string]bool{
		"a": true, "a/b.c/d__e/f--g": true, "library/alpine": true,
		"": false, "A": false, "a//b": false, "../x": false, ".git": false, "a/": false, "a_-b": false, strings.Repeat("a", 250): false,
	} {
		if _, err := h.Source(t.Context(), name); (err == nil) != want || err != nil && !errors.Is(err, image.ErrNotFound) {
			t.Errorf("Source(%q): %v", name, err)
		}
	}
}
