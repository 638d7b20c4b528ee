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
	run(t, open, NewContent(), map[string]func(*testing.T, *sinkSuite){
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
	})
}

// SinkOfImages is Sink for a place that holds whole images and nothing else: what is pushed can be read, and is kept, when a
// manifest names it. The content is at least an Image and what it takes.
func SinkOfImages(t *testing.T, content Content, open func(t *testing.T) (image.Sink, image.Source)) {
	run(t, open, content, map[string]func(*testing.T, *sinkSuite){
		"All":           testPushAll,
		"Sent":          testSent,
		"FaultOfImage":  testFaultOfImage,
		"WrongOfImage":  testWrongOfImage,
		"DeleteUnknown": testDeleteUnknown,
		"CancelImage":   testCancelImage,
		"Names":         testSinkNames,
	})
}

func run(t *testing.T, open func(t *testing.T) (image.Sink, image.Source), content Content, tests map[string]func(*testing.T, *sinkSuite)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			sink, src := open(t)
			defer src.Close()
			defer sink.Close()
			test(t, &sinkSuite{suite{Content: content, src: src}, sink})
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
		if name != "" { // which is not listed
			digests[name] = d.Digest
		}
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
	for _, e := range []Entry{s.largest(), s.Blobs[0], s.Blobs[1]} {
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
	for _, e := range []Entry{s.largest(), s.Blobs[0]} {
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

// testCancelPush cancels before and amid. Nothing is stored then, and the next Push is none the worse for it.
func testCancelPush(t *testing.T, s *sinkSuite) {
	e := s.largest()
	ctx, cancel := context.WithCancel(t.Context())
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
		_, err := s.sink.Push(ctx, e.Descriptor, image.Content{Open: halfway(e.Bytes, cancel)})
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

// halfway is content that comes to its middle, and then cancels who reads it.
func halfway(content []byte, cancel func()) func(ctx context.Context, off int64) (io.ReadCloser, error) {
	return func(ctx context.Context, off int64) (io.ReadCloser, error) {
		half := content[:len(content)/2]
		return io.NopCloser(io.MultiReader(bytes.NewReader(half[min(off, int64(len(half))):]), &hanging{ctx, cancel})), nil
	}
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
