package cache

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// sinkPlace writes to a place.
type sinkPlace struct{ p *place }

func (s sinkPlace) Push(_ context.Context, d image.Descriptor, _ image.Content) (image.How, error) {
	return image.Uploaded, s.p.asked("push %s", d.MediaType)
}

func (sinkPlace) Expect(context.Context, image.Descriptor, []byte) error { return nil }

func (s sinkPlace) Tag(_ context.Context, _ image.Descriptor, raw []byte, tag string) error {
	err := s.p.asked("tag %s", tag)
	if err == nil || errors.Is(err, errLostAnswer) {
		s.p.tag(tag, string(raw))
	}
	return err
}

func (s sinkPlace) Delete(_ context.Context, ref string) error {
	err := s.p.asked("delete %s", ref)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if err == nil || errors.Is(err, errLostAnswer) {
		for tag, d := range s.p.manifests {
			if tag == ref || d.Digest.String() == ref {
				delete(s.p.manifests, tag)
			}
		}
	}
	return err
}

func (sinkPlace) Close() error { return nil }

// errLostAnswer is of a place that did what it was asked, and could not say so.
var errLostAnswer = errors.Join(errors.New("connection reset"), image.ErrUnavailable)

// both are the repository "repo" of the host "example.com", to read and to write.
func both(t *testing.T, c *Cache, p *place) (image.Source, image.Sink) {
	t.Helper()
	to, err := c.Host("example.com", p).Sink(t.Context(), "repo")
	if err != nil {
		t.Fatal(err)
	}
	return decorated(t, c, p), to
}

func tag(t *testing.T, to image.Sink, raw, tag string) (image.Descriptor, error) {
	t.Helper()
	d := image.Descriptor{MediaType: image.MediaTypeDockerManifest, Digest: digest.FromString(raw), Size: int64(len(raw))}
	return d, to.Tag(t.Context(), d, []byte(raw), tag)
}

// TestTagIsRemembered: what was tagged from here is known at once, and not asked for.
func TestTagIsRemembered(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	src, to := both(t, c, p)
	p.tag("v1", `{"a":1}`)
	readManifest(t, src, "v1", `{"a":1}`)
	p.take()
	d, err := tag(t, to, `{"a":2}`, "v1")
	wantErr(t, "tag", err, nil)
	resolve(t, src, "v1", d)
	readManifest(t, src, "v1", `{"a":2}`)
	readManifest(t, src, d.Digest.String(), `{"a":2}`)
	want(t, "asked", p.take(), []string{"tag v1"})
}

// TestRefusedTag leaves what is remembered.
func TestRefusedTag(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	src, to := both(t, c, p)
	p.tag("v1", `{"a":1}`)
	readManifest(t, src, "v1", `{"a":1}`)
	p.fail(image.ErrDenied)
	_, err := tag(t, to, `{"a":2}`, "v1")
	wantErr(t, "tag", err, image.ErrDenied)
	wantErr(t, "delete", to.Delete(t.Context(), "v1"), image.ErrDenied)
	p.take()
	readManifest(t, src, "v1", `{"a":1}`)
	want(t, "asked", p.take(), []string(nil))
}

// TestLostAnswers: nobody knows what a tag is now, so the place is asked.
func TestLostAnswers(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	src, to := both(t, c, p)
	p.tag("v1", `{"a":1}`)
	readManifest(t, src, "v1", `{"a":1}`)
	p.fail(errLostAnswer)
	_, err := tag(t, to, `{"a":2}`, "v1")
	wantErr(t, "tag", err, image.ErrUnavailable)
	p.fail(nil)
	readManifest(t, src, "v1", `{"a":2}`)
	p.fail(errLostAnswer)
	wantErr(t, "delete", to.Delete(t.Context(), "v1"), image.ErrUnavailable)
	p.fail(nil)
	_, err = src.Resolve(t.Context(), "v1")
	wantErr(t, "resolve", err, image.ErrNotFound)
}

func TestDeletedIsForgotten(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	src, to := both(t, c, p)
	for _, name := range []string{"v1", "v2", "v3"} {
		_, err := tag(t, to, `{"a":1}`, name)
		wantErr(t, "tag", err, nil)
	}
	other, err := tag(t, to, `{"a":2}`, "other")
	wantErr(t, "tag", err, nil)
	wantErr(t, "delete a tag", to.Delete(t.Context(), "v1"), nil)
	_, err = src.Resolve(t.Context(), "v1")
	wantErr(t, "resolve", err, image.ErrNotFound)
	readManifest(t, src, "v2", `{"a":1}`)
	d := digest.FromString(`{"a":1}`).String()
	wantErr(t, "delete a manifest", to.Delete(t.Context(), d), nil)
	for _, ref := range []string{"v2", "v3", d} {
		_, _, err = src.Manifest(t.Context(), ref)
		wantErr(t, "manifest "+ref, err, image.ErrNotFound)
	}
	resolve(t, src, "other", other)
}

// TestListsAreForgotten: tags for the time when the place is away, referrers for the time they are believed.
func TestListsAreForgotten(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	src, to := both(t, c, p)
	subject := p.tag("v1", `{"a":1}`)
	p.tags = []string{"v1"}
	want(t, "tags", all(t, src.Tags(t.Context(), "")), []string{"v1"})
	want(t, "referrers", len(all(t, src.Referrers(t.Context(), subject, ""))), 0)
	_, err := tag(t, to, `{"config":{"digest":"`+subject.Digest.String()+`"},"subject":{"digest":"`+subject.Digest.String()+`"}}`, "v2")
	wantErr(t, "tag", err, nil)
	p.referrers = []image.Descriptor{{Digest: digest.FromString("sbom")}}
	want(t, "referrers", len(all(t, src.Referrers(t.Context(), subject, ""))), 1)
	p.referrers = nil
	_, err = to.Push(t.Context(), image.Descriptor{MediaType: image.MediaTypeDockerManifest}, image.Content{})
	wantErr(t, "push", err, nil)
	want(t, "referrers", len(all(t, src.Referrers(t.Context(), subject, ""))), 0)
	p.fail(image.ErrUnavailable)
	want(t, "tags", all(t, src.Tags(t.Context(), "")), []string{"v2"})
}

// TestAnswersOfBefore: what a place said before a tag moved does not outlive that, however late it comes.
func TestAnswersOfBefore(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), TTL: time.Hour})
	slow := &slowPlace{place: p, asked: make(chan struct{}), answer: make(chan struct{})}
	old := p.tag("v1", `{"a":1}`)
	_, to := both(t, c, p)
	src, err := c.Host("example.com", slow).Source(t.Context(), "repo")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan image.Descriptor)
	go func() {
		d, _ := src.Resolve(t.Context(), "v1")
		done <- d
	}()
	<-slow.asked
	moved, err := tag(t, to, `{"a":2}`, "v1")
	wantErr(t, "tag", err, nil)
	close(slow.answer)
	want(t, "resolve before", <-done, old)
	resolve(t, src, "v1", moved)
}

// slowPlace answers with what it knew when it was asked.
type slowPlace struct {
	*place
	asked, answer chan struct{}
}

func (s *slowPlace) Source(context.Context, string) (image.Source, error) { return s, nil }

func (s *slowPlace) Resolve(_ context.Context, ref string) (image.Descriptor, error) {
	d, _, err := s.resolve(ref)
	close(s.asked)
	<-s.answer
	return d, err
}

func TestOfflineSink(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir(), Offline: true})
	_, err := c.Host("example.com", newPlace()).Sink(t.Context(), "repo")
	wantErr(t, "sink", err, image.ErrUnavailable)
}
