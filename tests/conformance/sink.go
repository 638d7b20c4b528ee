package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// Sink tests that a Sink keeps what image.Sink promises. open makes it, over a repository that is empty and nobody else's, and a
// Source that reads the same repository. Both are closed at the end of the test.
func Sink(t *testing.T, open func(t *testing.T) (image.Sink, image.Source)) {
	content := NewContent()
	for name, test := range map[string]func(*testing.T, *sinkSuite){
		"All":            testPushAll,
		"How":            testHow,
		"Sent":           testSent,
		"Fault":          testFault,
		"Wrong":          testWrong,
		"UnknownSize":    testUnknownSize,
		"Tag":            testTag,
		"WrongTag":       testWrongTag,
		"TaggedReferrer": testTaggedReferrer,
		"DeleteTag":      testDeleteTag,
		"DeleteManifest": testDeleteManifest,
		"DeleteUnknown":  testDeleteUnknown,
		"Cancel":         testCancelPush,
		"Concurrent":     testConcurrentPush,
		"ConcurrentTag":  testConcurrentTag,
		"Names":          testSinkNames,
	} {
		t.Run(name, func(t *testing.T) {
			sink, src := open(t)
			defer src.Close()
			defer sink.Close()
			test(t, &sinkSuite{suite{content, src}, sink})
		})
	}
}

// Fill puts the content into a repository through its Sink. What is corrupt is no Sink's to take.
func Fill(t *testing.T, sink image.Sink, content Content) {
	t.Helper()
	(&sinkSuite{suite{Content: content}, sink}).fill(t)
}

type sinkSuite struct {
	suite
	sink image.Sink
}

// fill pushes everything, children first, and tags what has tags.
func (s *sinkSuite) fill(t *testing.T) {
	t.Helper()
	for _, e := range s.entries() {
		s.push(t, e, bring(e.Bytes))
	}
	for tag, d := range s.Tags {
		is(t, "tag "+tag, s.tag(t, d, tag), nil)
	}
}

// entries are all content, children before parents.
func (s *sinkSuite) entries() []Entry { return slices.Concat(s.Blobs, s.Manifests) }

// push pushes what can be pushed.
func (s *sinkSuite) push(t *testing.T, e Entry, content image.Content) image.How {
	t.Helper()
	how, err := s.sink.Push(t.Context(), e.Descriptor, content)
	is(t, fmt.Sprintf("push %s of %d bytes", e.MediaType, e.Size), err, nil)
	return how
}

func (s *sinkSuite) tag(t *testing.T, d image.Descriptor, tag string) error {
	return s.sink.Tag(t.Context(), d, s.raw(d), tag)
}

// raw is the manifest d.
func (s *sinkSuite) raw(d image.Descriptor) []byte {
	return s.Manifests[slices.IndexFunc(s.Manifests, func(e Entry) bool { return e.Digest == d.Digest })].Bytes
}

// large is a blob that takes a while.
func (s *sinkSuite) large() Entry {
	return s.Blobs[slices.IndexFunc(s.Blobs, func(e Entry) bool { return e.Size == largeBlob })]
}

// bring is content that is at hand.
func bring(content []byte) image.Content {
	return image.Content{Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content[off:])), nil
	}}
}

// absent tests that nothing was stored.
func (s *sinkSuite) absent(t *testing.T, what string, d image.Descriptor) {
	t.Helper()
	_, err := s.src.Stat(t.Context(), d.Digest)
	is(t, what+" and look for it", err, image.ErrNotFound)
}

// present tests that all of it was stored.
func (s *sinkSuite) present(t *testing.T, what string, e Entry) {
	t.Helper()
	got, err := s.read(t.Context(), e.Descriptor)
	is(t, what+" and read it", err, nil)
	equal(t, what+" and read it", got, e.Bytes)
}

// tagged tests what the tags are, which is all of them.
func (s *sinkSuite) tagged(t *testing.T, what string, want map[string]image.Descriptor) {
	t.Helper()
	names, err := collect(s.src.Tags(t.Context(), ""))
	if errors.Is(err, image.ErrNotFound) && len(want) == 0 {
		return
	}
	is(t, what+" and list the tags", err, nil)
	got := map[string]digest.Digest{}
	for _, name := range names {
		if d, err := s.src.Resolve(t.Context(), name); !strings.HasPrefix(name, "sha256-") {
			is(t, what+" and resolve "+name, err, nil)
			got[name] = d.Digest
		}
	}
	digests := map[string]digest.Digest{}
	for name, d := range want {
		digests[name] = d.Digest
	}
	if diff := cmp.Diff(digests, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// testPushAll reads back what was pushed, with what every Source has to show.
func testPushAll(t *testing.T, s *sinkSuite) {
	s.fill(t)
	s.tagged(t, "push all", s.Tags)
	for _, test := range []func(*testing.T, *suite){testResolve, testManifest, testStat, testFetch, testFetchRange, testTags, testNotFound, testWalk} {
		test(t, &s.suite)
	}
}

// testHow: a blob that is there is skipped, and not opened. So may a manifest be, but storing it again costs a registry as much
// as asking for it.
func testHow(t *testing.T, s *sinkSuite) {
	for i, e := range s.entries() {
		content, want := bring(e.Bytes), image.Uploaded
		if i%2 == 0 {
			content.Remote, want = true, image.Streamed
		}
		// Where nobody can go is no reason to fail.
		content.Origins = []image.Repository{{Host: "nowhere.invalid", Name: "conformance/other"}}
		if how := s.push(t, e, content); how != want {
			t.Errorf("push %s for the first time: %s, want %s", e.MediaType, how, want)
		}
	}
	for _, m := range s.Manifests {
		if how := s.push(t, m, bring(m.Bytes)); how != image.Skipped && how != image.Uploaded {
			t.Errorf("push %s again: %s, want %s or %s", m.MediaType, how, image.Skipped, image.Uploaded)
		}
	}
	for _, b := range s.Blobs {
		how := s.push(t, b, image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) {
			t.Errorf("push %s again: the content was opened", b.MediaType)
			return nil, io.ErrUnexpectedEOF
		}})
		if how != image.Skipped {
			t.Errorf("push %s again: %s, want %s", b.MediaType, how, image.Skipped)
		}
	}
}

// testSent: in the end the place has everything.
func testSent(t *testing.T, s *sinkSuite) {
	for _, e := range s.entries() {
		var sent atomic.Int64
		content := bring(e.Bytes)
		content.Sent = sent.Store
		s.push(t, e, content)
		if sent.Load() != e.Size {
			t.Errorf("push %s of %d bytes: %d were said to be sent", e.MediaType, e.Size, sent.Load())
		}
	}
}

// errFault is what content fails with that fails.
var errFault = fmt.Errorf("a fault of the test's making: %w", io.ErrUnexpectedEOF)

// testFault has the content fail once, at its opening, at its start, in its middle, and before its end.
func testFault(t *testing.T, s *sinkSuite) {
	for i, e := range s.Blobs {
		what := fmt.Sprintf("push %d bytes that fail once", e.Size)
		content := failing(e.Bytes, []int64{-1, 0, e.Size / 2, e.Size - 1}[i%4])
		_, err := s.sink.Push(t.Context(), e.Descriptor, content)
		if err != nil {
			is(t, what, err, errFault)
			s.absent(t, what, e.Descriptor)
			_, err = s.sink.Push(t.Context(), e.Descriptor, content)
			is(t, what+" once more", err, nil)
		}
		s.present(t, what, e)
	}
}

// failing is content that ends at an offset with errFault, or does not open at all, the first time.
func failing(content []byte, at int64) image.Content {
	var opened atomic.Bool
	whole := bring(content)
	return image.Content{Open: func(ctx context.Context, off int64) (io.ReadCloser, error) {
		switch {
		case opened.Swap(true) || off > at && at >= 0:
			return whole.Open(ctx, off)
		case at < 0:
			return nil, errFault
		}
		return io.NopCloser(io.MultiReader(bytes.NewReader(content[off:at]), broken{})), nil
	}}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errFault }

// testWrong pushes what does not match its descriptor, blobs and manifests.
func testWrong(t *testing.T, s *sinkSuite) {
	for _, e := range []Entry{s.large(), s.Blobs[0], s.Blobs[1]} {
		for what, content := range wrong(e.Bytes) {
			s.wrong(t, what, e.Descriptor, content)
		}
	}
	for _, b := range s.Blobs {
		s.push(t, b, bring(b.Bytes))
	}
	for what, content := range wrong(s.Manifests[0].Bytes) {
		s.wrong(t, what, s.Manifests[0].Descriptor, content)
	}
}

func wrong(content []byte) map[string][]byte {
	another := bytes.Clone(content)
	another[len(another)/2] ^= 1
	return map[string][]byte{
		"nothing": nil, "too short": content[:len(content)-1], "too long": append(bytes.Clone(content), 'x'), "another": another,
	}
}

func (s *sinkSuite) wrong(t *testing.T, what string, d image.Descriptor, content []byte) {
	t.Helper()
	what = fmt.Sprintf("push %s of %d bytes, %s", d.MediaType, d.Size, what)
	_, err := s.sink.Push(t.Context(), d, bring(content))
	is(t, what, err, image.ErrDigest)
	s.absent(t, what, d)
}

// testUnknownSize pushes what nobody knows the size of.
func testUnknownSize(t *testing.T, s *sinkSuite) {
	for _, e := range []Entry{s.large(), s.Blobs[0]} {
		unknown := e
		unknown.Size = -1
		for what, content := range wrong(e.Bytes) {
			s.wrong(t, what, unknown.Descriptor, content)
		}
		s.push(t, unknown, bring(e.Bytes))
		s.present(t, "push without a size", e)
		if how := s.push(t, unknown, bring(e.Bytes)); how != image.Skipped {
			t.Errorf("push without a size again: %s, want %s", how, image.Skipped)
		}
	}
}

// testTag puts up, moves and doubles tags.
func testTag(t *testing.T, s *sinkSuite) {
	for _, b := range s.Blobs {
		s.push(t, b, bring(b.Bytes))
	}
	tags := map[string]image.Descriptor{}
	for _, step := range []struct {
		tag string
		d   image.Descriptor
	}{{"a", s.Image}, {"a", s.Image}, {"b", s.Image}, {"a", s.Artifact}, {"c", s.Platforms[0]}, {"c", s.Platforms[1]}, {"c", s.Index}, {"b", s.Artifact}} {
		what := "tag " + step.tag
		is(t, what, s.tag(t, step.d, step.tag), nil)
		tags[step.tag] = step.d
		s.tagged(t, what, tags)
		for _, ref := range []string{step.tag, step.d.Digest.String()} {
			d, raw, err := s.src.Manifest(t.Context(), ref)
			same(t, what+" and read it", d, err, step.d)
			equal(t, what+" and read it", raw, s.raw(step.d))
		}
	}
	d, err := s.src.Resolve(t.Context(), s.Image.Digest.String())
	same(t, "move all tags away", d, err, s.Image)
}

// testWrongTag tags what does not match its descriptor.
func testWrongTag(t *testing.T, s *sinkSuite) {
	for _, b := range s.Blobs {
		s.push(t, b, bring(b.Bytes))
	}
	is(t, "tag", s.tag(t, s.Image, "a"), nil)
	for what, raw := range wrong(s.raw(s.Artifact)) {
		err := s.sink.Tag(t.Context(), s.Artifact, raw, "a")
		if !errors.Is(err, image.ErrDigest) && !errors.Is(err, image.ErrInvalid) {
			t.Errorf("tag %s: %v, want %v or %v", what, err, image.ErrDigest, image.ErrInvalid)
		}
		s.absent(t, "tag "+what, s.Artifact)
		s.tagged(t, "tag "+what, map[string]image.Descriptor{"a": s.Image})
	}
}

// testTaggedReferrer finds a referrer that has a tag, and its like.
func testTaggedReferrer(t *testing.T, s *sinkSuite) {
	for _, b := range s.Blobs {
		s.push(t, b, bring(b.Bytes))
	}
	is(t, "tag", s.tag(t, s.Image, "image"), nil)
	is(t, "tag", s.tag(t, s.Artifact, "artifact"), nil)
	if _, err := collect(s.src.Referrers(t.Context(), s.Image, "")); err != nil {
		t.Errorf("referrers where there are none: %v", err)
	}
	is(t, "tag a referrer", s.tag(t, s.Referrer, "sbom"), nil)
	testReferrers(t, &s.suite)
	s.tagged(t, "tag a referrer", map[string]image.Descriptor{"image": s.Image, "artifact": s.Artifact, "sbom": s.Referrer})
}

// testDeleteTag deletes one of two tags of an image, and then the other.
func testDeleteTag(t *testing.T, s *sinkSuite) {
	s.fill(t)
	left := map[string]image.Descriptor{}
	for name, d := range s.Tags {
		left[name] = d
	}
	for _, tag := range []string{"single", "V1.0_a-b"} {
		err := s.sink.Delete(t.Context(), tag)
		if !errors.Is(err, image.ErrUnsupported) {
			is(t, "delete a tag", err, nil)
			delete(left, tag)
			_, err = s.src.Resolve(t.Context(), tag)
			is(t, "resolve a deleted tag", err, image.ErrNotFound)
		}
		s.tagged(t, "delete a tag", left)
		d, err := s.src.Resolve(t.Context(), s.Image.Digest.String())
		same(t, "delete a tag and look for its image", d, err, s.Image)
	}
	if len(left) < len(s.Tags) {
		is(t, "delete a deleted tag", s.sink.Delete(t.Context(), "single"), image.ErrNotFound)
	}
}

// testDeleteManifest deletes a manifest and thereby both of its tags.
func testDeleteManifest(t *testing.T, s *sinkSuite) {
	s.fill(t)
	err := s.sink.Delete(t.Context(), s.Image.Digest.String())
	if errors.Is(err, image.ErrUnsupported) {
		s.tagged(t, "delete a manifest", s.Tags)
		return
	}
	is(t, "delete a manifest", err, nil)
	s.tagged(t, "delete a manifest", map[string]image.Descriptor{"multi": s.Index, "artifact": s.Artifact})
	_, err = s.src.Resolve(t.Context(), s.Image.Digest.String())
	is(t, "resolve a deleted manifest", err, image.ErrNotFound)
	_, _, err = s.src.Manifest(t.Context(), "single")
	is(t, "read a deleted manifest by its tag", err, image.ErrNotFound)
	is(t, "tag a deleted manifest", s.tag(t, s.Image, "single"), nil)
	d, err := s.src.Resolve(t.Context(), "single")
	same(t, "tag a deleted manifest", d, err, s.Image)
}

func testDeleteUnknown(t *testing.T, s *sinkSuite) {
	for range 2 { // of an empty repository, and of one that has something
		for _, ref := range []string{"nosuchtag", s.MissingManifest.Digest.String()} {
			err := s.sink.Delete(t.Context(), ref)
			if !errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrUnsupported) {
				t.Errorf("delete %s: %v, want %v or %v", ref, err, image.ErrNotFound, image.ErrUnsupported)
			}
		}
		s.fill(t)
	}
	s.tagged(t, "delete what is not there", s.Tags)
}

// testCancelPush cancels before and amid. Nothing is stored then, and the next Push is none the worse for it.
func testCancelPush(t *testing.T, s *sinkSuite) {
	e := s.large()
	ctx, cancel := context.WithCancel(t.Context())
	halfway := func(ctx context.Context, off int64) (io.ReadCloser, error) {
		half := bytes.NewReader(e.Bytes[min(off, e.Size/2) : e.Size/2])
		return io.NopCloser(io.MultiReader(half, &hanging{ctx, cancel})), nil
	}
	cancelled := func(what string, fn func() error) {
		ends(t, what, func() error {
			err := fn()
			if err == nil {
				t.Errorf("%s goes well when cancelled", what)
			}
			return err
		})
	}
	cancelled("a push", func() error {
		_, err := s.sink.Push(ctx, e.Descriptor, image.Content{Open: halfway})
		return err
	})
	cancelled("a push of what was cancelled before", func() error {
		_, err := s.sink.Push(ctx, e.Descriptor, bring(e.Bytes))
		return err
	})
	s.absent(t, "cancel a push", e.Descriptor)
	cancelled("a tag", func() error { return s.sink.Tag(ctx, s.Artifact, s.raw(s.Artifact), "a") })
	cancelled("a delete", func() error { return s.sink.Delete(ctx, "a") })
	s.tagged(t, "cancel a tag", nil)
	s.push(t, e, bring(e.Bytes))
	s.present(t, "push after a cancelled one", e)
}

// hanging is content that cancels who reads it and never comes.
type hanging struct {
	ctx    context.Context
	cancel func()
}

func (h *hanging) Read([]byte) (int, error) {
	h.cancel()
	select {
	case <-h.ctx.Done():
		return 0, h.ctx.Err()
	case <-time.After(prompt):
		return 0, errors.New("the content was opened with a context that does not end with the push's")
	}
}

// testConcurrentPush pushes everything several times over at once.
func testConcurrentPush(t *testing.T, s *sinkSuite) {
	for _, level := range [][]Entry{s.Blobs, s.Manifests[:2], s.Manifests[2:]} {
		var wg sync.WaitGroup
		for _, e := range level {
			for range 3 {
				wg.Go(func() { s.push(t, e, bring(e.Bytes)) })
			}
		}
		wg.Wait()
	}
	for _, e := range s.entries() {
		s.present(t, "push by several at once", e)
	}
}

// testConcurrentTag puts up many tags at once, and one tag by many.
func testConcurrentTag(t *testing.T, s *sinkSuite) {
	for _, e := range s.entries() {
		s.push(t, e, bring(e.Bytes))
	}
	images := []image.Descriptor{s.Index, s.Image, s.Artifact}
	want := map[string]image.Descriptor{}
	var wg sync.WaitGroup
	for i := range 12 {
		tag, d := fmt.Sprintf("t%d", i), images[i%len(images)]
		want[tag] = d
		wg.Go(func() { is(t, "tag "+tag, s.tag(t, d, tag), nil) })
		wg.Go(func() { is(t, "tag all", s.tag(t, d, "all"), nil) })
	}
	wg.Wait()
	d, raw, err := s.src.Manifest(t.Context(), "all")
	is(t, "tag by several at once", err, nil)
	if !slices.ContainsFunc(images, func(i image.Descriptor) bool { return i.Digest == d.Digest }) || !bytes.Equal(raw, s.raw(d)) {
		t.Errorf("a tag put up by several at once is %s", d.Digest)
	}
	want["all"] = d
	s.tagged(t, "tag by several at once", want)
}

// testSinkNames writes under names that no place can have.
func testSinkNames(t *testing.T, s *sinkSuite) {
	s.fill(t)
	for _, tag := range []string{
		".", "..", "../multi", "multi/../single", "/", "a b", "multi\x00", "multi\n", "-x", ".x", "multi?x=1", "multi#", "%6dulti", "ä", strings.Repeat("a", 10000),
	} {
		impossible(t, fmt.Sprintf("tag %.40q", tag), s.tag(t, s.Artifact, tag))
		impossible(t, fmt.Sprintf("delete %.40q", tag), s.sink.Delete(t.Context(), tag))
	}
	for _, dgst := range []string{"", "multi", "sha256:", "sha256:00", "sha256:" + strings.Repeat("g", 64), "sha256:../../x", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		for _, mediaType := range []string{s.Blobs[0].MediaType, s.Image.MediaType} {
			d := image.Descriptor{MediaType: mediaType, Digest: digest.Digest(dgst), Size: 0}
			_, err := s.sink.Push(t.Context(), d, bring(nil))
			impossible(t, fmt.Sprintf("push %q", dgst), err)
		}
	}
	s.tagged(t, "use impossible names", s.Tags)
}

func impossible(t *testing.T, what string, err error) {
	t.Helper()
	for _, kind := range []error{image.ErrInvalid, image.ErrNotFound, image.ErrRefused, image.ErrUnsupported} {
		if errors.Is(err, kind) {
			return
		}
	}
	t.Errorf("%s: %v, want one of %v, %v, %v", what, err, image.ErrInvalid, image.ErrNotFound, image.ErrRefused)
}
