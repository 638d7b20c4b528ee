package stage

import (
	"context"
	"regexp"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

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
		return append(rest, p.ignore(candidates)...), nil
	}
	return p.chooseUnnamed(ctx, entries, candidates, rest, tag)
}

// ignore leaves out what is meant for other tags.
func (p *plan) ignore(entries []image.Descriptor) (unnamed []image.Descriptor) {
	for _, d := range entries {
		if refName(d) == "" {
			unnamed = append(unnamed, d)
		} else {
			p.ignored = append(p.ignored, d)
		}
	}
	return unnamed
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
