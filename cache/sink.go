package cache

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// sink writes one repository, and keeps what is remembered of it true.
type sink struct {
	image.Sink
	remembered
}

// Push implements image.Sink. A manifest that is new may be anything's referrer.
func (s *sink) Push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	how, err := s.Sink.Push(ctx, d, content)
	if image.IsManifest(d.MediaType) && how != image.Skipped && !isVerdict(err) {
		s.forgetReferrers()
	}
	return how, err
}

// Tag implements image.Sink. The tag is remembered as it is now or, where nobody knows, not at all.
func (s *sink) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	err := s.Sink.Tag(ctx, d, raw, tag)
	if isVerdict(err) {
		return err
	}
	s.forget(s.key("lists", "tags"))
	s.forgetSubject(d, raw)
	if err != nil {
		s.forgetTag(tag)
		return err
	}
	s.outage.heard(ctx, nil)
	s.written(d, raw, tag)
	return nil
}

// written remembers a tag, and the manifest with it, whose raw bytes the place took.
func (s *sink) written(d image.Descriptor, raw []byte, tag string) {
	now := time.Now()
	d.Size = int64(len(raw))
	k := s.key("tags", tag)
	s.kept(d.Size, s.c.putManifest(d.Digest, raw))
	s.save(d.Digest.String(), d, now)
	s.kept(0, s.c.records.changes.note(k, func() error { return s.c.records.put(k, d, now) }))
	s.forgetFlights(tag)
}

// Delete implements image.Sink. What was deleted, or may have been, is not remembered.
func (s *sink) Delete(ctx context.Context, ref string) error {
	err := s.Sink.Delete(ctx, ref)
	if isVerdict(err) && !isMissing(err) {
		return err
	}
	if err == nil {
		s.outage.heard(ctx, nil)
	}
	s.forget(s.key("lists", "tags"))
	if isDigest(ref) {
		s.forgetManifest(digest.Digest(ref))
	} else {
		s.forgetTag(ref)
	}
	return err
}

// isVerdict tells whether an error means for certain that nothing was changed.
func isVerdict(err error) bool {
	if errors.Is(err, image.ErrUnavailable) {
		return false
	}
	for _, kind := range []error{
		image.ErrNotFound, image.ErrDenied, image.ErrUnsupported, image.ErrDigest, image.ErrInvalid, image.ErrRefused, image.ErrTooLarge, image.ErrQuota,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// forget removes a record, and whatever is on its way into it.
func (s *sink) forget(k key) {
	_ = s.c.records.changes.note(k, func() error { return s.c.records.drop(k) })
}

func (s *sink) forgetTag(tag string) {
	s.forget(s.key("tags", tag))
	s.forgetFlights(tag)
}

// forgetFlights has questions that are asked from now on get new answers.
func (s *sink) forgetFlights(ref string) {
	for _, op := range []string{"resolve", "manifest"} {
		s.c.flights.Forget(s.flight(op, ref))
	}
}

// forgetManifest forgets a manifest of the repository, and all tags of it.
func (s *sink) forgetManifest(dgst digest.Digest) {
	for _, tag := range s.c.records.names(s.host, s.repository, "tags") {
		if rec, ok := s.known(tag); ok && rec.Descriptor.Digest == dgst {
			s.forgetTag(tag)
		}
	}
	s.forget(s.refKey(dgst.String()))
	s.forgetFlights(dgst.String())
	s.forgetReferrers()
}

// forgetSubject forgets what referred to what the manifest refers to: the list, and the tag that is kept where a registry
// can't list (distribution-spec, "Referrers Tag Schema").
func (s *sink) forgetSubject(d image.Descriptor, raw []byte) {
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil || m.Subject == nil {
		return
	}
	s.forgetReferrers()
	s.forgetTag(strings.Replace(m.Subject.Digest.String(), ":", "-", 1))
}

// forgetReferrers forgets all lists of referrers in the repository.
func (s *sink) forgetReferrers() {
	_ = s.c.records.changes.note(s.key("lists", anyReferrers), func() error {
		return s.c.records.dropReferrers(s.host, s.repository)
	})
}

// anyReferrers stands for all lists of referrers of a repository in the name of a key.
const anyReferrers = "@"

// changes are what was changed from here a moment ago. What a place said before that is not recorded.
type changes struct {
	// recent is longer than any question takes that may have been asked before.
	recent time.Duration

	mu sync.Mutex
	at map[key]time.Time
}

func newChanges(recent time.Duration) *changes {
	return &changes{recent: recent, at: map[key]time.Time{}}
}

// note notes that what k records has changed, and runs record, which brings the record up to that.
func (c *changes) note(k key, record func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for k, at := range c.at {
		if now.Sub(at) > c.recent {
			delete(c.at, k)
		}
	}
	c.at[k] = now
	return record()
}

// unless runs record, unless what k records has changed since then.
func (c *changes) unless(k key, since time.Time, record func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at[k].After(since) || strings.Contains(k[3], anyReferrers) && c.at[key{k[0], k[1], k[2], anyReferrers}].After(since) {
		return nil
	}
	return record()
}
