package stage

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// plan is what an index.json asks for: images to push, and what is lacking.
type plan struct {
	l    *Staging
	view View
	src  image.Source

	index   *File
	version uint64 // of index
	// images go under tags; those that are published as they are need no push, but what is staged of them is not needed.
	images  []pick
	current []image.Descriptor
	// ignored are images that are named for other tags: they are not pushed here, and what is staged of them is not needed.
	ignored []image.Descriptor
	// extras refer to an image as their subject, and are pushed by digest. lists are referrers lists (distribution-spec,
	// "Referrers Tag Schema") that clients keep in a layout: the registry keeps its own.
	extras []image.Descriptor
	lists  []digest.Digest
	// loose: an entry is not understood yet, so that index.json is still needed.
	loose bool

	held    map[digest.Digest]*held
	reached map[digest.Digest]bool
	missing map[digest.Digest]bool // whether it is a manifest
}

// pick is an image and the tag it is to be pushed to.
type pick struct {
	image.Descriptor
	tag string
}

// How much one image may be, as in package copy.
const (
	maxDepth       = 8
	maxDescriptors = 100_000
)

// plan reads index.json and finds out what it asks for; nil where there is none, or none that is finished. release is to be
// called in the end.
func (l *Staging) plan(ctx context.Context, v View) (*plan, error) {
	e, ok := l.Lookup(v1.ImageIndexFile)
	if !ok || e.Kind != Regular {
		return nil, nil
	}
	raw, version, err := e.File.bytes(ctx, image.MaxManifest)
	if err != nil || len(raw) == 0 || l.acted(e.File, version) {
		return nil, err
	}
	m, err := image.ParseManifest(v1.MediaTypeImageIndex, raw)
	if err == nil && !m.IsIndex() {
		err = errors.New("it is a manifest and no index")
	}
	if err != nil {
		return nil, &indexError{bad("%s: %v", v1.ImageIndexFile, err)}
	}
	if len(m.Manifests) == 0 {
		return nil, nil
	}
	p, err := l.newPlan(ctx, v)
	if err != nil {
		return nil, err
	}
	p.index, p.version = e.File, version
	if err := p.make(ctx, m.Manifests); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

func (l *Staging) newPlan(ctx context.Context, v View) (*plan, error) {
	src, err := l.store.source(ctx, l.site.Repository)
	return &plan{
		l: l, view: v, src: src,
		held: map[digest.Digest]*held{}, reached: map[digest.Digest]bool{}, missing: map[digest.Digest]bool{},
	}, err
}

// indexError is what is wrong with index.json itself, which is no news to who wrote another file.
type indexError struct{ error }

func (e *indexError) Unwrap() error { return e.error }

func (p *plan) release() {
	for _, h := range p.held {
		if h != nil {
			h.release()
		}
	}
}

// make goes through what index.json lists: which images are meant, then all they reach, then what refers to them.
func (p *plan) make(ctx context.Context, entries []image.Descriptor) error {
	for _, d := range entries {
		if !image.IsManifest(d.MediaType) {
			return &indexError{bad("%s: %s is of the media type %q, which is no manifest's", v1.ImageIndexFile, d.Digest, d.MediaType)}
		}
	}
	rest, err := p.choose(ctx, entries)
	if err != nil {
		return err
	}
	for _, d := range p.images {
		if err := p.reach(ctx, d.Descriptor, 0); err != nil {
			return err
		}
	}
	for _, d := range p.current {
		if err := p.keepNone(ctx, d, 0); err != nil {
			return err
		}
	}
	if err := p.refer(ctx, rest); err != nil {
		return err
	}
	for _, d := range p.ignored {
		if err := p.keepNone(ctx, d, 0); err != nil {
			return err
		}
	}
	return nil
}

// keepNone goes through what is published as it is: what is staged of it is not needed.
func (p *plan) keepNone(ctx context.Context, d image.Descriptor, depth int) error {
	if p.reached[d.Digest] || len(p.reached) >= maxDescriptors || depth > maxDepth {
		return nil
	}
	p.reached[d.Digest] = true
	if _, err := p.take(ctx, d); err != nil || !image.IsManifest(d.MediaType) {
		return err
	}
	m, err := p.document(ctx, d)
	if err != nil || m == nil {
		return err
	}
	for _, child := range m.Children() {
		if err := p.keepNone(ctx, child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// take looks for a blob among what is staged, and holds it; nil where it is not, or not whole.
func (p *plan) take(ctx context.Context, d image.Descriptor) (*held, error) {
	if h, ok := p.held[d.Digest]; ok {
		return h, nil
	}
	if d.Digest.Validate() != nil {
		return nil, bad("%q is no digest", d.Digest)
	}
	at := blobPath(d.Digest)
	e, ok := p.l.Lookup(at)
	if !ok || e.Kind != Regular {
		return nil, nil
	}
	h, err := e.File.hold(ctx, at, d.Digest)
	if err != nil || h == nil {
		return nil, err
	}
	p.held[d.Digest] = h
	if d.Size >= 0 && d.Size != h.size {
		return nil, bad("%s has %d bytes and not %d, as is said of it", at, h.size, d.Size)
	}
	return h, nil
}

// document reads a manifest, staged or there; nil where it is neither.
func (p *plan) document(ctx context.Context, d image.Descriptor) (*image.Manifest, error) {
	h, err := p.take(ctx, d)
	if err != nil {
		return nil, err
	}
	var raw []byte
	if h != nil {
		raw, err = h.bytes(ctx)
	} else if there, e := p.l.isThere(ctx, p.src, thing{d.Digest, true}); e != nil || !there {
		return nil, e
	} else {
		_, raw, err = p.src.Manifest(ctx, d.Digest.String())
	}
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil && h != nil {
		err = bad("%s: %v", h.at, err)
	}
	return m, err
}

// reach goes through all that a descriptor reaches. What the repository has it has with all below it.
func (p *plan) reach(ctx context.Context, d image.Descriptor, depth int) error {
	if p.reached[d.Digest] {
		return nil
	}
	p.reached[d.Digest] = true
	if len(p.reached) > maxDescriptors || depth > maxDepth {
		return bad("%s: more than %d descriptors or %d indexes deep", d.Digest, maxDescriptors, maxDepth)
	}
	h, err := p.take(ctx, d)
	if err != nil {
		return err
	}
	if h == nil {
		return p.lack(ctx, d)
	}
	if !image.IsManifest(d.MediaType) {
		return nil
	}
	m, err := p.document(ctx, d)
	if err != nil || m == nil {
		return err
	}
	for _, child := range m.Children() {
		if err := p.reach(ctx, child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// lack notes what is not staged, unless the repository has it, or nobody needs to: the layers that have URLs.
func (p *plan) lack(ctx context.Context, d image.Descriptor) error {
	there, err := p.l.isThere(ctx, p.src, thingOf(d))
	if err == nil && !there && len(d.URLs) == 0 {
		p.missing[d.Digest] = image.IsManifest(d.MediaType)
	}
	return err
}

// need says what is missing, for people.
func (p *plan) need() error {
	for dgst := range p.missing {
		return fmt.Errorf("%s is not here yet, of %d that are missing: %w", dgst, len(p.missing), image.ErrNotFound)
	}
	return nil
}
