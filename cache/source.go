package cache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// source is one repository, remembered. A refusal (image.ErrDenied) is neither remembered nor masked by what is.
type source struct {
	inner image.Source
	remembered
}

// remembered is what is recorded of one repository.
type remembered struct {
	c                *Cache
	host, repository string
	outage           *outage
}

func (s *remembered) key(kind, name string) key { return key{s.host, s.repository, kind, name} }

// refKey is where the answer for a tag or digest is recorded.
func (s *remembered) refKey(ref string) key {
	if isDigest(ref) {
		return s.key("digests", ref)
	}
	return s.key("tags", ref)
}

// known is the record of an image; what is known of a blob is none.
func (s *remembered) known(ref string) (record, bool) {
	rec, ok := s.c.records.load(s.refKey(ref))
	return rec, ok && (!isDigest(ref) || image.IsManifest(rec.Descriptor.MediaType))
}

// flight names a question for share.
func (s *remembered) flight(op, ref string) string { return op + s.c.records.path(s.refKey(ref)) }

// what names an operation in an error.
func (s *remembered) what(op, ref string) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s/%s %s", op, s.host, s.repository, ref))
}

// Resolve believes a digest's record for ever, a tag's for the time to live, and an older one if the place is away.
func (s *source) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	rec, ok := s.known(ref)
	if ok && s.fresh(ref, rec) {
		return rec.Descriptor, nil
	}
	if ok && s.outage.lasts() && ctx.Err() == nil {
		return rec.Descriptor, nil
	}
	if s.c.offline {
		return image.Descriptor{}, offline(s.what("resolve", ref))
	}
	d, err := share(ctx, s.c, s.flight("resolve", ref), func(ctx context.Context) (image.Descriptor, error) {
		asked := time.Now()
		d, err := s.inner.Resolve(ctx, ref)
		s.remember(ref, d, asked, err)
		return d, err
	})
	if s.outage.heard(ctx, err) && ok {
		return rec.Descriptor, nil
	}
	return d, err
}

// fresh tells whether a record needs no asking.
func (s *source) fresh(ref string, rec record) bool {
	age := time.Since(rec.Asked)
	return isDigest(ref) || s.c.offline || age >= 0 && age < s.c.ttl
}

// remember records what the place answered: that ref is d, or that it is not there. Anything else is no answer.
func (s *remembered) remember(ref string, d image.Descriptor, asked time.Time, err error) {
	switch {
	case err == nil:
		s.save(ref, d, asked)
		if !isDigest(ref) {
			s.save(d.Digest.String(), d, asked)
		}
	case isMissing(err) && !isDigest(ref):
		s.c.records.remove(s.refKey(ref), asked)
	}
}

func (s *remembered) save(ref string, d image.Descriptor, asked time.Time) {
	s.kept(0, s.c.records.save(s.refKey(ref), d, asked))
}

// kept counts a small file of n bytes; or says that it could not be kept, which is no reason to keep it from who asked.
func (s *remembered) kept(n int64, err error) {
	if err != nil {
		s.c.log.Warn("cache: keep", "host", s.host, "repository", s.repository, "err", err)
		return
	}
	s.c.grew(n + block)
}

// Manifest asks for nothing that is here: a tag with a record costs what Resolve does.
func (s *source) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	if _, ok := s.known(ref); ok {
		d, err := s.Resolve(ctx, ref)
		if err != nil {
			return d, nil, err
		}
		if raw, err := s.c.manifest(d); err == nil {
			s.c.hits.Add(1)
			return d, raw, nil
		}
		ref = d.Digest.String()
	}
	s.c.misses.Add(1)
	if s.c.offline {
		return image.Descriptor{}, nil, offline(s.what("read manifest", ref))
	}
	m, err := share(ctx, s.c, s.flight("manifest", ref), func(ctx context.Context) (manifest, error) {
		return s.fetchManifest(ctx, ref)
	})
	s.outage.heard(ctx, err)
	return m.d, m.raw, err
}

type manifest struct {
	d   image.Descriptor
	raw []byte
}

func (s *source) fetchManifest(ctx context.Context, ref string) (manifest, error) {
	asked := time.Now()
	d, raw, err := s.inner.Manifest(ctx, ref)
	if err == nil {
		s.kept(d.Size, s.c.putManifest(d.Digest, raw))
	}
	s.remember(ref, d, asked, err)
	return manifest{d, slices.Clip(raw)}, err
}

// Stat believes a record for ever.
func (s *source) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	if rec, ok := s.c.records.load(s.refKey(dgst.String())); ok {
		return rec.Descriptor, nil
	}
	if s.c.offline {
		return image.Descriptor{}, offline(s.what("stat", dgst.String()))
	}
	return share(ctx, s.c, s.flight("stat", dgst.String()), func(ctx context.Context) (image.Descriptor, error) {
		d, err := s.inner.Stat(ctx, dgst)
		if err == nil && d.Digest == dgst && d.Size >= 0 {
			s.save(dgst.String(), d, time.Now())
		}
		return d, err
	})
}

// Fetch reads content while it comes into the store, or from there.
func (s *source) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	if isFill(ctx) {
		return s.inner.Fetch(ctx, d)
	}
	if image.IsManifest(d.MediaType) {
		_, raw, err := s.Manifest(ctx, d.Digest.String())
		if err == nil && d.Size >= 0 && d.Size != int64(len(raw)) {
			err = fmt.Errorf("%s: %d bytes instead of %d: %w", s.what("fetch", d.Digest.String()), len(raw), d.Size, image.ErrDigest)
		}
		if err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(raw)), nil
	}
	blob, err := s.c.Open(ctx, s, d)
	if err != nil {
		return nil, err
	}
	return &reader{Blob: blob, ctx: ctx}, nil
}

// FetchRange reads from the store what is whole there, and all else from the place.
func (s *source) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	if isFill(ctx) || d.Digest.Validate() != nil {
		return s.inner.FetchRange(ctx, d, off, n)
	}
	if file, err := s.c.openBlob(d); err == nil {
		return s.section(file, d, off, n)
	}
	if s.c.offline {
		return nil, offline(s.what("read", d.Digest.String()))
	}
	return s.inner.FetchRange(ctx, d, off, n)
}

// section is n bytes of a stored blob.
func (s *source) section(file *os.File, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	info, err := file.Stat()
	if err == nil && (off < 0 || n < 0 || n > info.Size()-off) {
		err = fmt.Errorf("%s: no %d bytes at %d of %d: %w", s.what("read", d.Digest.String()), n, off, info.Size(), image.ErrInvalid)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return section{io.NewSectionReader(file, off, n), file}, nil
}

type section struct {
	io.Reader
	io.Closer
}

// Tags always asks, and lists what it heard last if the place is away.
func (s *source) Tags(ctx context.Context, after string) iter.Seq2[string, error] {
	k := s.key("lists", "tags")
	return func(yield func(string, error) bool) {
		asked, recorded := time.Now(), s.recordedTags(k, after)
		var names iter.Seq2[string, error]
		switch {
		case s.c.offline:
			names = failed[string](offline(s.what("list the tags of", "")))
		case recorded != nil && s.outage.lasts():
			names = recorded
		case after == "":
			names = tee(s.c.records, k, s.inner.Tags(ctx, after))
		default:
			names = s.inner.Tags(ctx, after)
		}
		for name, err := range or(names, s.away(ctx), recorded) {
			if isMissing(err) {
				s.c.records.remove(k, asked)
			}
			if !yield(name, err) {
				return
			}
		}
	}
}

func (s *source) away(ctx context.Context) func(error) bool {
	return func(err error) bool { return s.outage.heard(ctx, err) }
}

// recordedTags are those of the last listing or, where there was none, those that were asked for one by one; nil for none at all.
func (s *source) recordedTags(k key, after string) iter.Seq2[string, error] {
	recorded := list[string](s.c.records, k)
	if s.c.records.listed(k).IsZero() {
		tags := s.c.records.names(s.host, s.repository, "tags")
		if len(tags) == 0 {
			return nil
		}
		recorded = values(tags)
	}
	return func(yield func(string, error) bool) {
		for name, err := range recorded {
			if (err != nil || name > after) && !yield(name, err) {
				return
			}
		}
	}
}

// Referrers believes a list for the time to live, and an older one if the place is away.
func (s *source) Referrers(ctx context.Context, d image.Descriptor, artifactType string) iter.Seq2[image.Descriptor, error] {
	k := s.key("lists", d.Digest.String()+"@"+artifactType)
	return func(yield func(image.Descriptor, error) bool) {
		asked := s.c.records.listed(k)
		var recorded iter.Seq2[image.Descriptor, error]
		if !asked.IsZero() {
			recorded = list[image.Descriptor](s.c.records, k)
		}
		switch age := time.Since(asked); {
		case recorded != nil && (s.c.offline || age >= 0 && age < s.c.ttl || s.outage.lasts()):
			recorded(yield)
		case s.c.offline:
			failed[image.Descriptor](offline(s.what("list the referrers of", d.Digest.String())))(yield)
		default:
			or(tee(s.c.records, k, s.inner.Referrers(ctx, d, artifactType)), s.away(ctx), recorded)(yield)
		}
	}
}

// Close closes the decorated Source.
func (s *source) Close() error { return s.inner.Close() }
