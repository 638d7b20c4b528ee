package stage

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// Files of the image folder that do something when they are written.
const (
	DigestFile   = "/digest"
	ManifestFile = "/manifest.json"
	IndexFile    = "/index.json"
)

// verbs say which manifest a file's content puts under the tag.
var verbs = map[string]func(l *Staging, ctx context.Context, raw []byte, v View) (image.Descriptor, []byte, error){
	DigestFile:   (*Staging).byDigest,
	ManifestFile: (*Staging).byManifest,
	IndexFile:    (*Staging).byIndex,
}

// verb does what a file of the image folder says. An empty one says nothing yet.
func (l *Staging) verb(ctx context.Context, at string, f *File, v View) error {
	raw, version, err := f.bytes(ctx, image.MaxManifest)
	if err != nil || len(raw) == 0 || l.acted(f, version) {
		return err
	}
	d, err := l.putVerb(ctx, at, raw, v)
	if err != nil {
		l.failed(err)
		if at == DigestFile {
			l.letGo(f, at, version) // it must not read as what the tag points at
		}
		return fmt.Errorf("%s of %s: %w", at[1:], l.site, err)
	}
	v.Saw(l.site.Tag, d)
	l.letGo(f, at, version)
	l.pushed(&plan{images: []pick{{d, l.site.Tag}}, index: f, version: version})
	l.tidy()
	return nil
}

func (l *Staging) putVerb(ctx context.Context, at string, raw []byte, v View) (image.Descriptor, error) {
	d, raw, err := verbs[at](l, ctx, raw, v)
	if err != nil {
		return d, err
	}
	sink, err := l.sink(ctx)
	if err != nil {
		return d, err
	}
	return d, (&beside{sink, l}).Tag(ctx, d, raw, l.site.Tag)
}

// byDigest is the manifest of a digest that the repository has.
func (l *Staging) byDigest(ctx context.Context, raw []byte, _ View) (image.Descriptor, []byte, error) {
	dgst, err := digest.Parse(strings.TrimSpace(string(raw[:min(len(raw), 1000)])))
	if err != nil {
		return image.Descriptor{}, nil, bad("this is no digest, such as sha256:9c7c…: %v", err)
	}
	src, err := l.store.source(ctx, l.site.Repository)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	return src.Manifest(ctx, dgst.String())
}

// byManifest is a manifest as it was written. In the place of an index it would be one platform's in that of all.
func (l *Staging) byManifest(ctx context.Context, raw []byte, v View) (image.Descriptor, []byte, error) {
	d, m, err := parsed(raw)
	if err != nil {
		return d, nil, err
	}
	if m.IsIndex() {
		return d, nil, bad("this is an index: write it to index.json")
	}
	now, err := v.Now(ctx, l.site.Tag)
	if err == nil && image.IsIndex(now.MediaType) {
		return d, nil, bad("the tag is a multi-platform image: write its index.json, or another tag")
	}
	if err != nil && !isMissing(err) {
		return d, nil, err
	}
	return d, raw, l.complete(ctx, m)
}

// byIndex is an index as it was written.
func (l *Staging) byIndex(ctx context.Context, raw []byte, _ View) (image.Descriptor, []byte, error) {
	d, m, err := parsed(raw)
	if err == nil && !m.IsIndex() {
		err = bad("this is a manifest: write it to manifest.json")
	}
	if err != nil {
		return d, nil, err
	}
	return d, raw, l.complete(ctx, m)
}

func parsed(raw []byte) (image.Descriptor, *image.Manifest, error) {
	m, err := image.ParseManifest("", raw)
	if err != nil {
		return image.Descriptor{}, nil, bad("%v", err)
	}
	return image.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}, m, nil
}

// complete fails with the first thing that a manifest names and the repository lacks.
func (l *Staging) complete(ctx context.Context, m *image.Manifest) error {
	src, err := l.store.source(ctx, l.site.Repository)
	if err != nil {
		return err
	}
	l.mu.Lock()
	clear(l.absent)
	l.mu.Unlock()
	for _, d := range m.Children() {
		there, err := l.isThere(ctx, src, thingOf(d))
		if err != nil {
			return err
		}
		if !there && len(d.URLs) == 0 {
			return fmt.Errorf("it names %s, which is not in %s: push that first: %w", d.Digest, l.site.Repository, image.ErrNotFound)
		}
	}
	return nil
}
