package stage

import (
	"context"
	"errors"
	"fmt"
	"regexp"

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
	return p.refer(ctx, rest)
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

// choose finds the images among the entries, and returns the others.
func (p *plan) choose(ctx context.Context, entries []image.Descriptor) (rest []image.Descriptor, err error) {
	if p.l.site.Tag == "" {
		return p.chooseAll(ctx, entries)
	}
	return p.chooseOne(ctx, entries, p.l.site.Tag)
}

// chooseAll takes every entry with a name for the image of that tag, but for those that the writer has not changed.
func (p *plan) chooseAll(ctx context.Context, entries []image.Descriptor) (rest []image.Descriptor, err error) {
	for _, d := range entries {
		tag := refName(d)
		if tag == "" || listed(d) != "" {
			rest = append(rest, d)
			continue
		}
		if !image.ValidTag(tag) {
			return nil, &indexError{bad("%s: %q is no tag's name", v1.ImageIndexFile, tag)}
		}
		now, err := p.l.now(ctx, p.view, tag)
		if err != nil {
			return nil, err
		}
		if now.Digest == d.Digest {
			p.current = append(p.current, d)
		} else {
			p.images = append(p.images, pick{d, tag})
		}
	}
	return rest, nil
}

// chooseOne finds the one image that is meant for a tag: the entry of that name; else the only one that is neither published
// here already nor attached to another one.
func (p *plan) chooseOne(ctx context.Context, entries []image.Descriptor, tag string) (rest []image.Descriptor, err error) {
	now, err := p.l.now(ctx, p.view, tag)
	if err != nil {
		return nil, err
	}
	var candidates []image.Descriptor
	var named *image.Descriptor
	for _, d := range entries {
		switch {
		case d.Digest == now.Digest:
			p.current = append(p.current[:0], d)
		case refName(d) == tag:
			named = &d
		case listed(d) != "":
			rest = append(rest, d)
		default:
			candidates = append(candidates, d)
		}
	}
	if named != nil {
		p.images, p.current = []pick{{*named, tag}}, nil
		return append(rest, unnamed(candidates)...), nil
	}
	return p.chooseUnnamed(ctx, entries, candidates, rest, tag)
}

// unnamed leaves out what is meant for other tags.
func unnamed(entries []image.Descriptor) []image.Descriptor {
	var all []image.Descriptor
	for _, d := range entries {
		if refName(d) == "" {
			all = append(all, d)
		}
	}
	return all
}

func (p *plan) chooseUnnamed(ctx context.Context, entries, candidates, rest []image.Descriptor, tag string) ([]image.Descriptor, error) {
	var free []image.Descriptor
	unknown := false
	for _, d := range candidates {
		m, err := p.document(ctx, d)
		if err != nil {
			return nil, err
		}
		unknown = unknown || m == nil
		if m != nil && m.Subject != nil && (among(entries, m.Subject.Digest) || among(p.current, m.Subject.Digest)) {
			rest = append(rest, d)
		} else {
			free = append(free, d)
		}
	}
	if len(free) == 1 {
		p.images, p.current = []pick{{free[0], tag}}, nil
		return rest, nil
	}
	if len(free) > 1 && !unknown {
		return nil, bad("%s lists %d new images, and none is called %q: name one of them so (org.opencontainers.image.ref.name)",
			v1.ImageIndexFile, len(free), tag)
	}
	return append(rest, free...), nil
}

func among(entries []image.Descriptor, dgst digest.Digest) bool {
	for _, d := range entries {
		if d.Digest == dgst {
			return true
		}
	}
	return false
}

func refName(d image.Descriptor) string { return d.Annotations[v1.AnnotationRefName] }

// listTag is the name of the tag at which a referrers list is kept (distribution-spec, "Referrers Tag Schema").
var listTag = regexp.MustCompile(`^(sha256|sha512)-([0-9a-f]{64,128})$`)

// listed is the digest whose referrers an entry lists, if that is what it is by its name.
func listed(d image.Descriptor) digest.Digest {
	match := listTag.FindStringSubmatch(refName(d))
	if match == nil || !image.IsIndex(d.MediaType) {
		return ""
	}
	return digest.NewDigestFromEncoded(digest.Algorithm(match[1]), match[2])
}

// refer takes from the other entries what refers to the images. What can't be told yet keeps index.json needed.
func (p *plan) refer(ctx context.Context, rest []image.Descriptor) error {
	for _, d := range rest {
		m, err := p.document(ctx, d)
		if err != nil {
			return err
		}
		subject := listed(d)
		if m != nil && subject == "" && m.Subject != nil {
			subject = m.Subject.Digest
		}
		switch {
		case m == nil:
			p.missing[d.Digest] = true
		case subject == "" && p.l.site.Tag == "":
			// An entry without a name is nobody's image.
		case subject == "" || !p.subject(ctx, subject):
			p.loose = true
		case listed(d) == "":
			p.extras = append(p.extras, d)
		default:
			p.lists = append(p.lists, d.Digest)
			p.extras = append(p.extras, m.Manifests...)
		}
	}
	for _, d := range p.extras {
		if err := p.reach(ctx, d, 0); err != nil {
			return err
		}
	}
	return nil
}

// subject tells whether a digest is one of the images, or part of one, or in the repository.
func (p *plan) subject(ctx context.Context, dgst digest.Digest) bool {
	if p.reached[dgst] {
		return true
	}
	there, err := p.l.isThere(ctx, p.src, thing{dgst, true})
	return err == nil && there
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
