package conformance

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// prompt is how long a cancelled operation may take.
const prompt = 5 * time.Second

// Source tests that a Source keeps what image.Source promises. open makes it, over a repository that holds NewContent.
func Source(t *testing.T, open func(t *testing.T, content Content) image.Source) {
	SourceOf(t, NewContent(), open)
}

// SourceOf is Source for a place that can't hold all of NewContent: over a repository that holds this content, at least an Image.
func SourceOf(t *testing.T, content Content, open func(t *testing.T, content Content) image.Source) {
	for name, test := range map[string]func(*testing.T, *suite){
		"Resolve":    testResolve,
		"Manifest":   testManifest,
		"Stat":       testStat,
		"Fetch":      testFetch,
		"Verify":     testVerify,
		"FetchRange": testFetchRange,
		"Tags":       testTags,
		"Referrers":  testReferrers,
		"NotFound":   testNotFound,
		"Names":      testNames,
		"Cancel":     testCancel,
		"Walk":       testWalk,
		"Concurrent": testConcurrent,
	} {
		t.Run(name, func(t *testing.T) {
			src := open(t, content)
			defer src.Close()
			test(t, &suite{Content: content, src: src})
		})
	}
}

type suite struct {
	Content
	src image.Source
}

func testResolve(t *testing.T, s *suite) {
	for name, d := range s.Tags {
		got, err := s.src.Resolve(t.Context(), name)
		same(t, "resolve "+name, got, err, d)
	}
	for _, m := range s.Manifests {
		got, err := s.src.Resolve(t.Context(), m.Digest.String())
		same(t, "resolve "+m.Digest.String(), got, err, m.Descriptor)
	}
	// Which one "" is depends on the place; what it is does not.
	if got, err := s.src.Resolve(t.Context(), ""); err == nil && !slices.Contains(s.digests(), got.Digest) {
		t.Errorf(`resolve "": %s is not here`, got.Digest)
	} else if err != nil {
		is(t, `resolve ""`, err, image.ErrNotFound)
	}
}

func (s *suite) digests() []digest.Digest {
	var all []digest.Digest
	for _, m := range s.Manifests {
		all = append(all, m.Digest)
	}
	return all
}

func testManifest(t *testing.T, s *suite) {
	for _, m := range s.Manifests {
		refs := []string{m.Digest.String()}
		for name, d := range s.Tags {
			if d.Digest == m.Digest {
				refs = append(refs, name)
			}
		}
		for _, ref := range refs {
			d, raw, err := s.src.Manifest(t.Context(), ref)
			same(t, "manifest "+ref, d, err, m.Descriptor)
			equal(t, "manifest "+ref, raw, m.Bytes)
		}
	}
}

func testStat(t *testing.T, s *suite) {
	for _, m := range s.Manifests {
		d, err := s.src.Stat(t.Context(), m.Digest)
		// To some registries a manifest is a blob too, of no type.
		if d.MediaType == "application/octet-stream" {
			d.MediaType = m.MediaType
		}
		same(t, "stat manifest", d, err, m.Descriptor)
	}
	for _, b := range s.Blobs {
		d, err := s.src.Stat(t.Context(), b.Digest)
		d.MediaType = b.MediaType // A registry does not know it.
		same(t, "stat blob", d, err, b.Descriptor)
	}
}

func testFetch(t *testing.T, s *suite) {
	for _, e := range append(slices.Clone(s.Manifests), s.Blobs...) {
		for _, size := range []int64{e.Size, -1} {
			d := e.Descriptor
			d.Size = size
			got, err := s.read(t.Context(), d)
			equal(t, fmt.Sprintf("fetch %s of %d bytes, %v", d.Digest, d.Size, err), got, e.Bytes)
			is(t, "fetch", err, nil)
		}
	}
}

// read fetches d.
func (s *suite) read(ctx context.Context, d image.Descriptor) ([]byte, error) {
	r, err := s.src.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// testVerify fetches what does not match its descriptor. It must not be taken for whole.
func testVerify(t *testing.T, s *suite) {
	corrupt := s.Corrupt.Descriptor
	if corrupt.Digest == "" {
		corrupt = s.Missing
	}
	_, err := s.read(t.Context(), corrupt)
	if !errors.Is(err, image.ErrDigest) && !errors.Is(err, image.ErrNotFound) {
		t.Errorf("fetch corrupt content: %v, want %v, or %v of a place that can't hold it", err, image.ErrDigest, image.ErrNotFound)
	}
	for _, e := range []Entry{s.Blobs[0], s.Blobs[1], s.Manifests[0]} {
		for _, wrong := range []int64{-1, 1} {
			d := e.Descriptor
			d.Size += wrong
			_, err := s.read(t.Context(), d)
			is(t, fmt.Sprintf("fetch %d bytes as %d", e.Size, d.Size), err, image.ErrDigest)
		}
		got, err := s.read(t.Context(), e.Descriptor)
		is(t, "fetch with the right size after that", err, nil)
		equal(t, "fetch with the right size after that", got, e.Bytes)
	}
}

func testFetchRange(t *testing.T, s *suite) {
	for range 2 { // The second time after all was read once.
		for _, b := range s.Blobs {
			for _, r := range [][2]int64{{0, b.Size}, {0, 1}, {b.Size - 1, 1}, {b.Size / 2, b.Size - b.Size/2}, {b.Size / 3, b.Size / 3}} {
				s.fetchRange(t, b, r[0], r[1])
			}
			if _, err := s.read(t.Context(), b.Descriptor); err != nil {
				t.Errorf("fetch: %v", err)
			}
		}
	}
}

func (s *suite) fetchRange(t *testing.T, b Entry, off, n int64) {
	t.Helper()
	what := fmt.Sprintf("fetch %d bytes of %d at %d", n, b.Size, off)
	r, err := s.src.FetchRange(t.Context(), b.Descriptor, off, n)
	if errors.Is(err, image.ErrUnsupported) {
		return
	}
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	is(t, what, err, nil)
	equal(t, what, got, b.Bytes[off:off+n])
}

func testTags(t *testing.T, s *suite) {
	names := s.TagNames()
	for i, after := range append([]string{""}, names...) {
		got, err := collect(s.src.Tags(t.Context(), after))
		is(t, "tags", err, nil)
		// Registries without referrers keep them under tags, as the distribution-spec wants it.
		got = slices.DeleteFunc(got, func(name string) bool { return strings.HasPrefix(name, "sha256-") })
		slices.Sort(got)
		if diff := gocmp.Diff(names[i:], got); diff != "" && len(got)+len(names[i:]) > 0 {
			t.Errorf("tags after %q (-want +got):\n%s", after, diff)
		}
	}
	for range s.src.Tags(t.Context(), "") {
		break // A listing nobody reads to its end must not hang, nor spoil the next one.
	}
}

func testReferrers(t *testing.T, s *suite) {
	if s.Referrer.Digest == "" {
		got, err := collect(s.src.Referrers(t.Context(), s.Image, ""))
		if len(got) > 0 || err != nil && !errors.Is(err, image.ErrUnsupported) {
			t.Errorf("referrers where there are none: %v, %v", got, err)
		}
		return
	}
	for _, c := range []struct {
		what, artifactType string
		subject            image.Descriptor
		want               []digest.Digest
	}{
		{"all", "", s.Image, []digest.Digest{s.Referrer.Digest}},
		{"of their type", ReferrerType, s.Image, []digest.Digest{s.Referrer.Digest}},
		{"of another type", "application/vnd.example.other", s.Image, nil},
		{"of what has none", "", s.Artifact, nil},
	} {
		var digests []digest.Digest
		got, err := collect(s.src.Referrers(t.Context(), c.subject, c.artifactType))
		for _, d := range got {
			digests = append(digests, d.Digest)
			if d.ArtifactType != ReferrerType || d.Size != s.Referrer.Size || d.MediaType != s.Referrer.MediaType {
				t.Errorf("referrers %s: %+v, want %s and what %+v says", c.what, d, ReferrerType, s.Referrer)
			}
		}
		is(t, "referrers "+c.what, err, nil)
		if diff := gocmp.Diff(c.want, digests); diff != "" {
			t.Errorf("referrers %s (-want +got):\n%s", c.what, diff)
		}
	}
}

func testNotFound(t *testing.T, s *suite) {
	for range 2 { // Absence is not to be taken for presence the second time either.
		for _, ref := range []string{"nosuchtag", s.MissingManifest.Digest.String(), s.Missing.Digest.String()} {
			_, err := s.src.Resolve(t.Context(), ref)
			is(t, "resolve "+ref, err, image.ErrNotFound)
			_, _, err = s.src.Manifest(t.Context(), ref)
			is(t, "manifest "+ref, err, image.ErrNotFound)
		}
		for _, d := range []image.Descriptor{s.Missing, s.MissingManifest} {
			_, err := s.src.Stat(t.Context(), d.Digest)
			is(t, "stat", err, image.ErrNotFound)
			_, err = s.read(t.Context(), d)
			is(t, "fetch", err, image.ErrNotFound)
		}
	}
}

// testNames asks for what no place can have. That is not found, or not valid, and never something else.
func testNames(t *testing.T, s *suite) {
	names := []string{
		".", "..", "../multi", "multi/../single", "/", "a b", "multi\x00", "multi\n", "-x", "multi?x=1", "multi#", "%6dulti", "multi:x",
		"sha256:", "sha256:00", "sha256:" + strings.Repeat("g", 64), "md5:d41d8cd98f00b204e9800998ecf8427e", strings.Repeat("a", 129),
		strings.Repeat("a", 10000), "ä",
	}
	for _, name := range names {
		_, err := s.src.Resolve(t.Context(), name)
		noSuch(t, fmt.Sprintf("resolve %.40q", name), err)
		_, _, err = s.src.Manifest(t.Context(), name)
		noSuch(t, fmt.Sprintf("manifest %.40q", name), err)
		_, err = s.src.Stat(t.Context(), digest.Digest(name))
		noSuch(t, fmt.Sprintf("stat %.40q", name), err)
		_, err = s.read(t.Context(), image.Descriptor{MediaType: "application/octet-stream", Digest: digest.Digest(name), Size: 10})
		noSuch(t, fmt.Sprintf("fetch %.40q", name), err)
	}
}

// testCancel cancels before and amid. What is answered without waiting may be answered.
func testCancel(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(t.Context())
	large := s.largest()
	r, err := s.src.Fetch(ctx, large.Descriptor)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	ends(t, "a fetch", func() error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	ends(t, "resolve", func() error { _, err := s.src.Resolve(ctx, "multi"); return err })
	ends(t, "manifest", func() error { _, _, err := s.src.Manifest(ctx, "multi"); return err })
	ends(t, "stat", func() error { _, err := s.src.Stat(ctx, s.Blobs[0].Digest); return err })
	ends(t, "fetch", func() error { _, err := s.read(ctx, s.Blobs[0].Descriptor); return err })
	ends(t, "tags", func() error { _, err := collect(s.src.Tags(ctx, "")); return err })
	ends(t, "referrers", func() error { _, err := collect(s.src.Referrers(ctx, s.Image, "")); return err })
	got, err := s.read(t.Context(), large.Descriptor)
	is(t, "fetch after a cancelled one", err, nil)
	equal(t, "fetch after a cancelled one", got, large.Bytes)
}

// largest is a blob that takes a while.
func (s *suite) largest() Entry {
	return slices.MaxFunc(s.Blobs, func(a, b Entry) int { return cmp.Compare(a.Size, b.Size) })
}

// ends tests that fn returns promptly, and if with an error then with that of its context.
func ends(t *testing.T, what string, fn func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		if err != nil {
			is(t, what+" when cancelled", err, context.Canceled)
		}
	case <-time.After(prompt):
		t.Errorf("%s goes on when cancelled", what)
	}
}

func testWalk(t *testing.T, s *suite) {
	root, want := s.Index, 1+2*4 // the index, and of each platform the manifest, the config and two layers
	if root.Digest == "" {
		root, want = s.Image, len(s.Blobs)+1
	}
	var seen []digest.Digest
	err := image.Walk(t.Context(), s.src, root, func(d image.Descriptor, _ *image.Manifest, err error) error {
		seen = append(seen, d.Digest)
		return err
	})
	is(t, "walk", err, nil)
	if len(seen) != want || seen[0] != root.Digest {
		t.Errorf("walk saw %v", seen)
	}
}

func testConcurrent(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	for range 4 {
		for _, test := range []func(*testing.T, *suite){
			testResolve, testManifest, testStat, testFetch, testVerify, testTags, testReferrers, testNotFound, testWalk,
		} {
			wg.Go(func() { test(t, s) })
		}
	}
	wg.Wait()
}

func collect[T any](items iter.Seq2[T, error]) ([]T, error) {
	var list []T
	for item, err := range items {
		if err != nil {
			return list, err
		}
		list = append(list, item)
	}
	return list, nil
}

// same compares what identifies content.
func same(t *testing.T, what string, got image.Descriptor, err error, want image.Descriptor) {
	t.Helper()
	if err != nil || got.MediaType != want.MediaType || got.Digest != want.Digest || got.Size != want.Size {
		t.Errorf("%s: %s %s of %d bytes, %v; want %s %s of %d", what, got.MediaType, got.Digest, got.Size, err,
			want.MediaType, want.Digest, want.Size)
	}
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes that differ from the right %d", what, len(got), len(want))
	}
}

func is(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func noSuch(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrInvalid) {
		t.Errorf("%s: %v, want %v or %v", what, err, image.ErrNotFound, image.ErrInvalid)
	}
}
