package engine

import (
	"context"
	"fmt"
	"io"
	"iter"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// source is a repository of the engine, or all images by their IDs.
type source struct {
	engine *Engine
	at     image.Repository // zero for all images
}

// shortID is an image's ID, or what begins it.
var shortID = regexp.MustCompile(`^[0-9a-f]{1,64}$`)

// full is a reference as an error can hold it.
func (s *source) full(ref string) string {
	ref = clean(ref)
	switch {
	case s.at == image.Repository{}:
		return ref
	case strings.Contains(ref, ":"):
		return s.at.String() + "@" + ref
	}
	return s.at.String() + ":" + ref
}

// failed wraps an error with the operation and its object, once.
func (s *source) failed(op, ref string, err error) error {
	return s.engine.failed(op, s.full(ref), err)
}

// Resolve implements image.Source. The engine is asked which image a tag names, each time; what it names it by is its ID, and the
// digest of the manifest is known when the image was fetched: a first Resolve does that.
func (s *source) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	d, _, err := s.manifest(ctx, ref)
	if err != nil {
		return image.Descriptor{}, s.failed("resolve", ref, err)
	}
	return d, nil
}

// Manifest implements image.Source.
func (s *source) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	d, raw, err := s.manifest(ctx, ref)
	if err != nil {
		return image.Descriptor{}, nil, s.failed("read manifest", ref, err)
	}
	return d, raw, nil
}

func (s *source) manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	if dgst := digest.Digest(ref); dgst.Validate() == nil {
		return s.byDigest(ctx, dgst)
	}
	id, err := s.id(ctx, ref)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	k, err := s.engine.images.look(ctx, s.at, id)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	return k.manifest, k.raw, nil
}

// byDigest reads a manifest by its digest.
func (s *source) byDigest(ctx context.Context, dgst digest.Digest) (image.Descriptor, []byte, error) {
	k, err := s.holding(ctx, dgst)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	switch d := k.parts[dgst]; {
	case dgst == k.manifest.Digest:
		return k.manifest, k.raw, nil
	case !image.IsManifest(d.MediaType):
		return image.Descriptor{}, nil, fmt.Errorf("it is a %s and no manifest: %w", clean(d.MediaType), image.ErrNotFound)
	}
	f, err := s.engine.images.open(ctx, k.id)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	defer s.engine.images.release(f)
	return f.src.Manifest(ctx, dgst.String())
}

// id is that of the image which a tag, "@" and the beginning of an ID, or "" name now.
func (s *source) id(ctx context.Context, ref string) (digest.Digest, error) {
	short, isID := strings.CutPrefix(ref, "@")
	switch {
	case ref == "":
		return s.only(ctx)
	case isID && s.at == image.Repository{} && shortID.MatchString(short):
		return s.engine.find(ctx, short)
	case s.at == image.Repository{} || !image.ValidTag(ref):
		return "", fmt.Errorf("no image can have that name there: %w", image.ErrNotFound)
	}
	found, err := s.engine.client.inspect(ctx, s.at.String()+":"+ref)
	return found.ID, err
}

// find is the ID that begins like that. With "sha256:" before it, the engine takes it for no name.
func (e *Engine) find(ctx context.Context, short string) (digest.Digest, error) {
	found, err := e.client.inspect(ctx, "sha256:"+short)
	if err == nil && !strings.HasPrefix(found.ID.Encoded(), short) {
		err = fmt.Errorf("no image has that ID: %w", image.ErrNotFound)
	}
	return found.ID, err
}

// only is the ID of the only image there is.
func (s *source) only(ctx context.Context) (digest.Digest, error) {
	names, err := s.names(ctx)
	if err != nil {
		return "", err
	}
	const most = 5
	var some []string
	for _, n := range names {
		if n.id != names[0].id {
			err = image.ErrNotFound
		}
		some = append(some, n.tag)
	}
	if err != nil {
		if len(some) > most {
			some = append(some[:most], "…")
		}
		return "", fmt.Errorf("there are several images, name one (%s): %w", strings.Join(some, ", "), err)
	}
	return names[0].id, nil
}

// names lists the names there are. ErrNotFound if there are none.
func (s *source) names(ctx context.Context) ([]name, error) {
	if s.at != (image.Repository{}) {
		return s.engine.client.repository(ctx, s.at)
	}
	names, err := s.engine.client.names(ctx)
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("there is no image: %w", image.ErrNotFound)
	}
	return names, err
}

// holding finds the image of the repository that a digest is part of. What was not fetched yet has to be, to know: all in a
// repository, until it is found; but of all the images in an engine, only the one of that ID.
func (s *source) holding(ctx context.Context, dgst digest.Digest) (*known, error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	ids := []digest.Digest{}
	for _, k := range s.engine.images.in(s.at) {
		if _, ok := k.parts[dgst]; ok {
			return k, ctx.Err()
		}
		ids = append(ids, k.id)
	}
	candidates, err := s.unknown(ctx, dgst, ids)
	if err != nil {
		return nil, err
	}
	for _, id := range candidates {
		k, err := s.engine.images.look(ctx, s.at, id)
		if err != nil {
			return nil, err
		}
		if _, ok := k.parts[dgst]; ok {
			return k, nil
		}
	}
	return nil, fmt.Errorf("no image has it: %w", image.ErrNotFound)
}

// unknown are the images that may be what a digest is part of, beside the known ones: the likeliest first.
func (s *source) unknown(ctx context.Context, dgst digest.Digest, ids []digest.Digest) ([]digest.Digest, error) {
	if s.at == (image.Repository{}) {
		found, err := s.engine.client.inspect(ctx, dgst.String())
		return []digest.Digest{found.ID}, err
	}
	names, err := s.names(ctx)
	var more []digest.Digest
	for _, n := range names {
		switch {
		case slices.Contains(ids, n.id) || slices.Contains(more, n.id):
		case n.id == dgst:
			more = slices.Insert(more, 0, n.id)
		default:
			more = append(more, n.id)
		}
	}
	return more, err
}

// Stat implements image.Source.
func (s *source) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	k, err := s.holding(ctx, dgst)
	if err != nil {
		return image.Descriptor{}, s.failed("stat", dgst.String(), err)
	}
	d := k.parts[dgst]
	return image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, nil
}

// Fetch implements image.Source. Layers are uncompressed, as the engine gives them.
func (s *source) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	return s.open(ctx, d, func(src image.Source) (io.ReadCloser, error) { return src.Fetch(ctx, d) })
}

// FetchRange implements image.Source.
func (s *source) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	return s.open(ctx, d, func(src image.Source) (io.ReadCloser, error) { return src.FetchRange(ctx, d, off, n) })
}

func (s *source) open(ctx context.Context, d image.Descriptor, open func(image.Source) (io.ReadCloser, error)) (io.ReadCloser, error) {
	k, err := s.holding(ctx, d.Digest)
	if err != nil {
		return nil, s.failed("fetch", d.Digest.String(), err)
	}
	r, err := s.engine.images.content(ctx, k.id, open)
	if err != nil {
		return nil, s.failed("fetch", d.Digest.String(), err)
	}
	return r, nil
}

// Tags implements image.Source: sorted.
func (s *source) Tags(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if s.at == (image.Repository{}) {
			return // what has an ID needs no tag, and what has a tag has a repository
		}
		names, err := s.names(ctx)
		if err != nil {
			yield("", s.engine.failed("list the tags of", s.at.String(), err))
			return
		}
		for _, tag := range sorted(names, after, func(n name) string { return n.tag }) {
			if !yield(tag, nil) {
				return
			}
		}
	}
}

// Referrers implements image.Source: an engine keeps none.
func (s *source) Referrers(ctx context.Context, d image.Descriptor, _ string) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(image.Descriptor{}, s.failed("list the referrers of", d.Digest.String(), err))
		}
	}
}

// Close does nothing: what was fetched is the Engine's.
func (s *source) Close() error { return nil }
