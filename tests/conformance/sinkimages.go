package conformance

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/regfs/regfs/image"
)

// nothing tests that no image came to be.
func (s *sinkSuite) nothing(t *testing.T, what string) {
	t.Helper()
	s.absent(t, what, s.Image)
	s.tagged(t, what, nil)
}

// aTag is any tag that the place can have.
func (s *sinkSuite) aTag() string {
	for tag := range s.Tags {
		return tag
	}
	return ""
}

// testFaultOfImage has each blob fail once. No image comes of it, and a second try makes it whole.
func testFaultOfImage(t *testing.T, s *sinkSuite) {
	for i, e := range s.Blobs {
		content := failing(e.Bytes, []int64{-1, 0, e.Size / 2, e.Size - 1}[i%4])
		_, err := s.sink.Push(t.Context(), e.Descriptor, content)
		if err != nil {
			is(t, "push what fails once", err, errFault)
			s.nothing(t, "push what fails once")
			_, err = s.sink.Push(t.Context(), e.Descriptor, content)
			is(t, "push what failed once", err, nil)
		}
	}
	s.fill(t)
	testFetch(t, &s.suite)
}

// testWrongOfImage pushes what does not match its descriptor.
func testWrongOfImage(t *testing.T, s *sinkSuite) {
	for _, e := range s.Blobs {
		for what, content := range wrong(e.Bytes) {
			what = fmt.Sprintf("push %s of %d bytes, %s", e.MediaType, e.Size, what)
			_, err := s.sink.Push(t.Context(), e.Descriptor, bring(content))
			is(t, what, err, image.ErrDigest)
			s.nothing(t, what)
		}
	}
	for _, b := range s.Blobs {
		s.push(t, b, bring(b.Bytes))
	}
	for what, raw := range wrong(s.raw(s.Image)) {
		_, err := s.sink.Push(t.Context(), s.Image, bring(raw))
		is(t, "push the manifest, "+what, err, image.ErrDigest)
		err = s.sink.Tag(t.Context(), s.Image, raw, s.aTag())
		if !errors.Is(err, image.ErrDigest) && !errors.Is(err, image.ErrInvalid) {
			t.Errorf("tag %s: %v, want %v or %v", what, err, image.ErrDigest, image.ErrInvalid)
		}
		s.nothing(t, "push the manifest, "+what)
	}
}

// testCancelImage cancels a push, which leaves nothing, and pushes all.
func testCancelImage(t *testing.T, s *sinkSuite) {
	ctx, cancel := context.WithCancel(t.Context())
	ends(t, "a push", func() error {
		_, err := s.sink.Push(ctx, s.largest().Descriptor, image.Content{Open: halfway(s.largest().Bytes, cancel)})
		if err == nil {
			t.Error("a push goes well when cancelled")
		}
		return err
	})
	s.nothing(t, "cancel a push")
	s.fill(t)
	testFetch(t, &s.suite)
}
