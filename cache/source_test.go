package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// decorated is the repository "repo" of the host "example.com" as c remembers it.
func decorated(t *testing.T, c *Cache, p *place) image.Source {
	t.Helper()
	src, err := c.Host("example.com", p).Source(t.Context(), "repo")
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func readManifest(t *testing.T, src image.Source, ref, content string) {
	t.Helper()
	d, raw, err := src.Manifest(t.Context(), ref)
	if err != nil || string(raw) != content || d.Digest != digest.FromString(content) {
		t.Errorf("manifest %s: %s, %q, %v; want %q", ref, d.Digest, raw, err, content)
	}
}

func resolve(t *testing.T, src image.Source, ref string, d image.Descriptor) {
	t.Helper()
	got, err := src.Resolve(t.Context(), ref)
	want(t, "resolve "+ref, err, nil)
	want(t, "resolve "+ref, got, d)
}

func TestManifestBudget(t *testing.T) {
	p, o := newPlace(), Options{Dir: t.TempDir(), TTL: time.Hour}
	d := p.tag("v1", `{"a":1}`)
	src := decorated(t, open(t, o), p)
	readManifest(t, src, "v1", `{"a":1}`)
	want(t, "cold", p.take(), []string{"manifest v1"})
	readManifest(t, src, "v1", `{"a":1}`)
	readManifest(t, src, d.Digest.String(), `{"a":1}`)
	resolve(t, src, "v1", d)
	resolve(t, src, d.Digest.String(), d)
	want(t, "within the time to live", p.take(), []string(nil))

	o.TTL = 0
	src = decorated(t, open(t, o), p)
	readManifest(t, src, "v1", `{"a":1}`)
	want(t, "after it", p.take(), []string{"resolve v1"})
	moved := p.tag("v1", `{"a":2}`)
	readManifest(t, src, "v1", `{"a":2}`)
	want(t, "moved", p.take(), []string{"resolve v1", "manifest " + moved.Digest.String()})
	readManifest(t, src, d.Digest.String(), `{"a":1}`)
	want(t, "by digest", p.take(), []string(nil))
}

// TestRepositoriesAreApart asks for a digest that another repository has: that it is stored says nothing of this one.
func TestRepositoriesAreApart(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	d := p.tag("v1", `{"a":1}`)
	readManifest(t, decorated(t, c, p), "v1", `{"a":1}`)
	other, err := c.Host("example.com", newPlace()).Source(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = other.Manifest(t.Context(), d.Digest.String())
	wantErr(t, "manifest", err, image.ErrNotFound)
	_, err = other.Resolve(t.Context(), d.Digest.String())
	wantErr(t, "resolve", err, image.ErrNotFound)
	_, err = other.Stat(t.Context(), d.Digest)
	wantErr(t, "stat", err, image.ErrNotFound)
}

func TestSameQuestionsShareOneRequest(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	p.tag("v1", `{"a":1}`)
	src := decorated(t, c, p)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { readManifest(t, src, "v1", `{"a":1}`) })
	}
	wg.Wait()
	want(t, "requests", p.take(), []string{"manifest v1"})
}

func TestAnswersOfAPlaceThatIsAway(t *testing.T) {
	for _, away := range []error{image.ErrUnavailable, context.DeadlineExceeded} {
		p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
		d := p.tag("v1", `{"a":1}`)
		p.tags = []string{"a", "b", "c"}
		p.referrers = []image.Descriptor{d}
		src := decorated(t, c, p)
		readManifest(t, src, "v1", `{"a":1}`)
		want(t, "tags", all(t, src.Tags(t.Context(), "")), p.tags)
		want(t, "referrers", all(t, src.Referrers(t.Context(), d, "")), p.referrers)

		p.fail(fmt.Errorf("no route: %w", away))
		resolve(t, src, "v1", d)
		readManifest(t, src, "v1", `{"a":1}`)
		want(t, "tags", all(t, src.Tags(t.Context(), "")), p.tags)
		want(t, "tags after a", all(t, src.Tags(t.Context(), "a")), []string{"b", "c"})
		want(t, "referrers", all(t, src.Referrers(t.Context(), d, "")), p.referrers)
		_, err := src.Resolve(t.Context(), "v2")
		wantErr(t, "an unknown tag", err, away)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = src.Resolve(ctx, "v1")
		wantErr(t, "a caller that left", err, context.Canceled)
	}
}

func TestRefusalsAreNotMasked(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	d := p.tag("v1", `{"a":1}`)
	p.tags = []string{"v1"}
	src := decorated(t, c, p)
	readManifest(t, src, "v1", `{"a":1}`)
	all(t, src.Tags(t.Context(), ""))
	p.fail(fmt.Errorf("401: %w", image.ErrDenied))
	_, err := src.Resolve(t.Context(), "v1")
	wantErr(t, "resolve", err, image.ErrDenied)
	_, _, err = src.Manifest(t.Context(), "v1")
	wantErr(t, "manifest", err, image.ErrDenied)
	wantErr(t, "tags", firstErr(src.Tags(t.Context(), "")), image.ErrDenied)
	p.fail(nil)
	resolve(t, src, "v1", d)
}

func TestWhatIsGoneIsForgotten(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	p.tag("v1", `{"a":1}`)
	src := decorated(t, c, p)
	readManifest(t, src, "v1", `{"a":1}`)
	delete(p.manifests, "v1")
	_, err := src.Resolve(t.Context(), "v1")
	wantErr(t, "a deleted tag", err, image.ErrNotFound)
	p.fail(image.ErrUnavailable)
	_, err = src.Resolve(t.Context(), "v1")
	wantErr(t, "a deleted tag of a place that is away", err, image.ErrUnavailable)
}

func TestOffline(t *testing.T) {
	p, dir := newPlace(), t.TempDir()
	content := random(1, 1000)
	blob, d := p.add(content), p.tag("v1", `{"a":1}`)
	p.tags, p.referrers = []string{"a", "v1"}, []image.Descriptor{d}
	online := open(t, Options{Dir: dir})
	src := decorated(t, online, p)
	readManifest(t, src, "v1", `{"a":1}`)
	wantContent(t, online, src, blob, content)
	all(t, src.Tags(t.Context(), ""))
	all(t, src.Referrers(t.Context(), d, ""))
	p.take()

	c := open(t, Options{Dir: dir, Offline: true})
	src = decorated(t, c, p)
	readManifest(t, src, "v1", `{"a":1}`)
	resolve(t, src, "v1", d)
	wantContent(t, c, src, blob, content)
	want(t, "tags", all(t, src.Tags(t.Context(), "")), p.tags)
	want(t, "referrers", all(t, src.Referrers(t.Context(), d, "")), p.referrers)
	want(t, "repositories", all(t, c.Host("example.com", p).Repositories(t.Context(), "")), []string{"repo"})
	want(t, "hosts", c.Hosts(), []string{"example.com"})

	missing := p.add(random(2, 10))
	_, err := src.Resolve(t.Context(), "v2")
	wantErr(t, "resolve", err, image.ErrUnavailable)
	_, _, err = src.Manifest(t.Context(), "v2")
	wantErr(t, "manifest", err, image.ErrUnavailable)
	_, err = src.Stat(t.Context(), missing.Digest)
	wantErr(t, "stat", err, image.ErrUnavailable)
	_, err = src.Fetch(t.Context(), missing)
	wantErr(t, "fetch", err, image.ErrUnavailable)
	_, err = src.FetchRange(t.Context(), missing, 0, 1)
	wantErr(t, "range", err, image.ErrUnavailable)
	wantErr(t, "referrers", firstErr(src.Referrers(t.Context(), d, "x")), image.ErrUnavailable)
	if !strings.Contains(err.Error(), "offline") {
		t.Errorf("%v does not say offline", err)
	}
	want(t, "requests", p.take(), []string(nil))
}

func TestReferrersAreBelieved(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	d := p.tag("v1", `{"a":1}`)
	p.referrers = []image.Descriptor{d}
	src := decorated(t, c, p)
	for range 2 {
		want(t, "referrers", all(t, src.Referrers(t.Context(), d, "")), p.referrers)
	}
	want(t, "requests", p.take(), []string{"referrers"})
}

// TestCutListings records only listings that came to their end, and reads only those that are whole.
func TestCutListings(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	p.tags = []string{"a", "b", "c"}
	src := decorated(t, c, p)
	for range src.Tags(t.Context(), "") {
		break
	}
	p.fail(image.ErrUnavailable)
	wantErr(t, "a listing nobody read to its end", firstErr(src.Tags(t.Context(), "")), image.ErrUnavailable)
	p.fail(nil)
	all(t, src.Tags(t.Context(), ""))
	path := c.records.path(key{"example.com", "repo", "lists", "tags"})
	if err := os.Truncate(path, 4); err != nil {
		t.Fatal(err)
	}
	p.fail(image.ErrUnavailable)
	wantErr(t, "a damaged listing", firstErr(src.Tags(t.Context(), "")), image.ErrUnavailable)
}

func TestRepositoriesWithoutACatalog(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	p.tag("v1", `{}`)
	h := c.Host("example.com", p)
	p.fail(image.ErrUnsupported)
	wantErr(t, "nothing known", firstErr(h.Repositories(t.Context(), "")), image.ErrUnsupported)
	p.fail(nil)
	for _, name := range []string{"b/c", "b", "a"} {
		src, err := h.Source(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		readManifest(t, src, "v1", `{}`)
	}
	p.fail(image.ErrUnsupported)
	want(t, "known", all(t, h.Repositories(t.Context(), "a")), []string{"b", "b/c"})
	p.fail(image.ErrDenied)
	want(t, "known where the catalog is refused", all(t, h.Repositories(t.Context(), "a")), []string{"b", "b/c"})
	wantErr(t, "nothing known", firstErr(c.Host("other.example", p).Repositories(t.Context(), "")), image.ErrDenied)
}

func TestDamagedManifestIsFetchedAgain(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	d := p.tag("v1", `{"a":1}`)
	src := decorated(t, c, p)
	readManifest(t, src, "v1", `{"a":1}`)
	p.take()
	if err := os.WriteFile(c.blobPath(d.Digest), []byte(`{"a":7}`), 0o600); err != nil {
		t.Fatal(err)
	}
	readManifest(t, src, "v1", `{"a":1}`)
	want(t, "requests", p.take(), []string{"manifest " + d.Digest.String()})
	readManifest(t, src, "v1", `{"a":1}`)
	want(t, "requests", p.take(), []string(nil))
}

// TestSignedSchema1 keeps a manifest whose digest is not that of its bytes.
func TestSignedSchema1(t *testing.T) {
	const signed = `{"schemaVersion":1,"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOjIwLCJmb3JtYXRUYWlsIjoiZlEifQ"}]}`
	dgst, err := image.DigestManifest(digest.SHA256, image.MediaTypeDockerSchema1Signed, []byte(signed))
	if err != nil {
		t.Fatal(err)
	}
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	d := image.Descriptor{MediaType: image.MediaTypeDockerSchema1Signed, Digest: dgst, Size: int64(len(signed))}
	p.blobs[dgst], p.manifests["v1"], p.manifests[dgst.String()] = []byte(signed), d, d
	src := decorated(t, c, p)
	for range 2 {
		got, raw, err := src.Manifest(t.Context(), "v1")
		want(t, "error", err, nil)
		want(t, "descriptor", got, d)
		want(t, "bytes", string(raw), signed)
		wantContent(t, c, src, d, []byte(signed))
	}
	want(t, "requests", p.take(), []string{"manifest v1"})
}

func TestFetchThroughTheSource(t *testing.T) {
	for _, noRange := range []bool{false, true} {
		p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
		content := random(1, 3<<20)
		d := p.add(content)
		src := decorated(t, c, p)
		// The transfer itself must not wait for what it brings, however it was started.
		if p.noRange = noRange; noRange {
			p.body = stopping(1<<20, image.ErrUnavailable)
			_, err := fetch(t, c, src, d)
			wantErr(t, "drop", err, image.ErrUnavailable)
			p.body = nil
		}
		r, err := src.Fetch(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		wantRead(t, r, content)
		p.take()
		r, err = src.FetchRange(t.Context(), d, 1000, 2000)
		if err != nil {
			t.Fatal(err)
		}
		wantRead(t, r, content[1000:3000])
		want(t, "requests", p.take(), []string(nil))
	}
}

func TestStatIsRememberedAndNoImage(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	d := p.add(random(1, 10))
	src := decorated(t, c, p)
	for range 2 {
		got, err := src.Stat(t.Context(), d.Digest)
		want(t, "stat", err, nil)
		want(t, "stat", got, d)
	}
	want(t, "requests", p.take(), []string{"stat"})
	_, err := src.Resolve(t.Context(), d.Digest.String())
	wantErr(t, "a blob is no image", err, image.ErrNotFound)
}

func TestEscape(t *testing.T) {
	names := []string{
		"a", "A", "%41", "a/b", "a,b", "a%2cb", "", ".", "..", "../..", "/", "a/", "/a", "a/../b", "sha256:00", "a@b", "ä", "a\x00b", "a\nb", "%%",
		strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("A", 128), strings.Repeat("b", 5000), "a.b", ".a", "a b",
	}
	seen := map[string]string{}
	for _, name := range names {
		file := escape(name)
		if other, ok := seen[strings.ToLower(file)]; ok {
			t.Errorf("%q and %q are both %q", name, other, file)
		}
		seen[strings.ToLower(file)] = name
		if len(file) > 255 || file == "" || file[0] == '.' || file != filepath.Base(file) {
			t.Errorf("%q becomes %q", name, file)
		}
		if back, ok := unescape(file); ok && back != name {
			t.Errorf("%q becomes %q and then %q", name, file, back)
		} else if !ok && len(name) > 0 && len(name) < 80 {
			t.Errorf("%q can't be had back from %q", name, file)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("a/b")
	f.Add("../A%2e")
	f.Fuzz(func(t *testing.T, name string) {
		file := escape(name)
		if len(file) > 255 || file == "" || file[0] == '.' || strings.ContainsAny(file, "/\x00ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
			t.Errorf("%q becomes %q", name, file)
		}
		if back, ok := unescape(file); ok && back != name {
			t.Errorf("%q becomes %q and then %q", name, file, back)
		}
	})
}

func all[T any](t *testing.T, items iter.Seq2[T, error]) []T {
	t.Helper()
	var list []T
	for item, err := range items {
		if err != nil {
			t.Errorf("listing: %v", err)
			break
		}
		list = append(list, item)
	}
	return list
}

func firstErr[T any](items iter.Seq2[T, error]) error {
	for _, err := range items {
		return err
	}
	return errors.New("an empty listing")
}

// TestNoSuchHost: a name that the network does not know may be the network's fault, and takes nothing away that is known.
func TestNoSuchHost(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	p.tag("v1", `{}`)
	src := decorated(t, c, p)
	readManifest(t, src, "v1", `{}`)
	p.fail(errors.Join(image.ErrNotFound, image.ErrUnavailable))
	for range 3 {
		readManifest(t, src, "v1", `{}`)
	}
	want(t, "tags that were asked for one by one", all(t, src.Tags(t.Context(), "")), []string{"v1"})
}

// TestOutage: a place that is away is not asked again and again for what is known. What is not known is asked for.
func TestOutage(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	p.tag("v1", `{}`)
	src := decorated(t, c, p)
	readManifest(t, src, "v1", `{}`)
	p.fail(image.ErrUnavailable)
	p.take()
	for range 3 {
		readManifest(t, src, "v1", `{}`)
	}
	if asked := p.take(); len(asked) != 1 {
		t.Errorf("asked %v", asked)
	}
	p.fail(nil)
	p.tag("v2", `{"v":2}`)
	readManifest(t, src, "v2", `{"v":2}`)
	p.tag("v1", `{"v":1}`)
	readManifest(t, src, "v1", `{"v":1}`)
}
