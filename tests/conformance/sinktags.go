package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

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
	artifact := s.Artifact
	if artifact.Digest == "" {
		artifact = s.Image
	}
	for _, tag := range []string{
		".", "..", "../multi", "multi/../single", "/", "a b", "multi\x00", "multi\n", "-x", ".x", "multi?x=1", "multi#", "%6dulti", "ä", strings.Repeat("a", 10000),
	} {
		impossible(t, fmt.Sprintf("tag %.40q", tag), s.tag(t, artifact, tag))
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
