package copy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// index copies what of an index was asked for, and returns the index as it is to be, or the image that fits in its place.
func (r *run) index(ctx context.Context, s source, depth int) (made, error) {
	kept, err := r.kept(s, depth)
	if err != nil {
		return made{}, fmt.Errorf("%s: %w", s.Digest, err)
	}
	return r.indexAs(ctx, s, kept, r.indexTypes(s), depth)
}

// indexAs copies the entries of an index that are kept, and returns the index in the first of the media types that the destination
// takes, or the image that fits.
func (r *run) indexAs(ctx context.Context, s source, kept []int, types []string, depth int) (made, error) {
	fitting := r.Parts == Fitting && depth == 0
	m, rest, err := r.settleIndex(ctx, s, kept, types)
	if fitting && errors.Is(err, image.ErrUnsupported) {
		return r.chosen(ctx, s, depth)
	}
	if err == nil && r.Parts != IndexOnly {
		told := m.Digest
		if m, err = r.entries(ctx, s, kept, m.MediaType, depth); err == nil && m.Digest != told {
			err = r.expect(ctx, s, m)
		}
	}
	switch {
	case len(rest) > 0:
		m.next = func(ctx context.Context) (made, error) { return r.indexAs(ctx, s, kept, rest, depth) }
	case fitting:
		m.next = func(ctx context.Context) (made, error) { return r.chosen(ctx, s, depth) }
	}
	return m, err
}

// chosen copies the image for the one platform that was asked for.
func (r *run) chosen(ctx context.Context, s source, depth int) (made, error) {
	d, ok := image.Select(s.Manifests, r.Platforms[0])
	if !ok {
		return made{}, fmt.Errorf("%s has no image for %s, only for %s: %w", s.Digest, platformName(&r.Platforms[0]), s.platforms(), image.ErrNotFound)
	}
	if depth >= maxDepth {
		return made{}, fmt.Errorf("%s: more than %d indexes deep: %w", s.Digest, maxDepth, image.ErrInvalid)
	}
	// What its entry says of it beside, the index said for who chooses.
	return r.below(ctx, image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, depth+1)
}

// kept are the numbers of the entries that are copied. Below the root index, nothing is cut.
func (r *run) kept(s source, depth int) ([]int, error) {
	found := make([]bool, len(r.Platforms))
	var kept []int
	for i, d := range s.Manifests {
		keep := r.Parts != Listed || depth > 0
		for n, p := range r.Platforms {
			if d.Platform != nil && image.IsPlatform(*d.Platform, p) {
				found[n], keep = true, true
			}
		}
		if keep {
			kept = append(kept, i)
		}
	}
	if n := slices.Index(found, false); n >= 0 && r.Parts == Listed && depth == 0 {
		return nil, fmt.Errorf("there is no image for %s, only for %s: %w", platformName(&r.Platforms[n]), s.platforms(), image.ErrNotFound)
	}
	return kept, nil
}

// platforms names the first of those that an index has.
func (s source) platforms() string {
	const most = 20
	var names []string
	for _, d := range s.Manifests {
		if name := platformName(d.Platform); !slices.Contains(names, name) && len(names) < most {
			names = append(names, name)
		}
	}
	return fmt.Sprintf("%q", strings.Join(names, ", "))
}

func platformName(p *image.Platform) string {
	if p == nil {
		return "none"
	}
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

// settleIndex tells the destination of the index, with the entries as the source has them, and finds the first type that it takes.
// The others are what is left of them.
func (r *run) settleIndex(ctx context.Context, s source, kept []int, types []string) (m made, others []string, first error) {
	for i, mediaType := range types {
		m, err := s.withEntries(mediaType, kept, s.Manifests, false)
		if err == nil {
			err = r.expect(ctx, s, m)
		}
		if err == nil || !errors.Is(err, image.ErrUnsupported) {
			return m, types[i+1:], err
		}
		if first == nil {
			first = err
		}
	}
	return made{}, nil, first
}

// indexTypes are the media types that an index may get, the best first.
func (r *run) indexTypes(s source) []string {
	types := []string{v1.MediaTypeImageIndex, image.MediaTypeDockerList}
	switch {
	case r.Format == OCI, r.Format == KeepFormat && r.ociOnly() && r.Parts != IndexOnly:
		return types[:1]
	case r.Format != KeepFormat:
		return types[1:]
	case r.PreserveDigests:
		return []string{s.MediaType}
	case s.MediaType == image.MediaTypeDockerList:
		slices.Reverse(types)
	}
	return types
}

// entries copies the entries of an index, and makes the index of what they became.
func (r *run) entries(ctx context.Context, s source, kept []int, mediaType string, depth int) (made, error) {
	entries := slices.Clone(s.Manifests)
	err := r.each(ctx, len(kept), func(ctx context.Context, i int) error {
		d := &entries[kept[i]]
		got, err := r.copyOnce(ctx, unworked(*d), depth+1)
		if err == nil {
			d.MediaType, d.Digest, d.Size = got.MediaType, got.Digest, got.Size
		}
		return err
	})
	if err != nil {
		return made{}, err
	}
	return s.withEntries(mediaType, kept, entries, r.Compression.To.result() == image.Zstd)
}

// annotationZstd marks images of zstd layers in an index: who has a choice takes those, and others can pass them over.
const annotationZstd = "io.github.containers.compression.zstd"

// withEntries is the index s as one of that media type, with the entries of the numbers kept. Those that differ from the ones that
// it had are marked where they were made zstd. What does not change keeps its bytes.
func (s source) withEntries(mediaType string, kept []int, entries []image.Descriptor, zstd bool) (made, error) {
	same := mediaType == s.Manifest.MediaType && len(kept) == len(s.Manifests)
	for _, i := range kept {
		d := &entries[i]
		if d.Digest == s.Manifests[i].Digest && d.MediaType == s.Manifests[i].MediaType {
			continue
		}
		same, d.Data = false, nil
		if zstd && mediaType == v1.MediaTypeImageIndex {
			d.Annotations = with(d.Annotations, map[string]string{annotationZstd: "true"})
		}
	}
	switch {
	case same:
		return s.made, nil
	case mediaType == image.MediaTypeDockerList:
		return newMade(mediaType, s.dockerList(kept, entries)), nil
	case s.Manifest.MediaType == image.MediaTypeDockerList:
		return newMade(mediaType, newIndex(kept, entries)), nil
	}
	raw, err := s.editIndex(kept, entries)
	return newMade(mediaType, raw), err
}

// newMade describes a manifest that was made.
func newMade(mediaType string, raw []byte) made {
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	return made{Descriptor: d, raw: raw}
}

// editIndex changes entries in their places, and takes those out that are not kept.
func (s source) editIndex(kept []int, entries []image.Descriptor) ([]byte, error) {
	doc, err := parseObject(s.raw)
	if err != nil {
		return nil, err
	}
	var olds []json.RawMessage
	if err := json.Unmarshal(doc.get("manifests"), &olds); err != nil || len(olds) != len(entries) {
		return nil, fmt.Errorf("%s: its entries are in doubt: %w", s.Digest, image.ErrInvalid)
	}
	var news []json.RawMessage
	for _, i := range kept {
		raw, err := editDescriptor(olds[i], s.Manifests[i], entries[i])
		if err != nil {
			return nil, err
		}
		news = append(news, raw)
	}
	doc.set("manifests", news)
	return doc.bytes(), nil
}

// editDescriptor changes what differs between two descriptors, of which raw is the first one.
func editDescriptor(raw []byte, was, d image.Descriptor) ([]byte, error) {
	o, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	if was.MediaType == d.MediaType && was.Digest == d.Digest {
		return o.bytes(), nil
	}
	o.set("mediaType", d.MediaType)
	o.set("digest", d.Digest)
	o.set("size", d.Size)
	o.drop("data")
	if len(d.Annotations) > 0 {
		o.set("annotations", d.Annotations)
	} else {
		o.drop("annotations")
	}
	return o.bytes(), nil
}

func newIndex(kept []int, entries []image.Descriptor) []byte {
	x := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []image.Descriptor{}}
	for _, i := range kept {
		x.Manifests = append(x.Manifests, entries[i])
	}
	return encode(x)
}

// dockerEntry is an entry of Docker's manifest list.
type dockerEntry struct {
	dockerDescriptor
	Platform image.Platform `json:"platform"`
}

// dockerList makes a manifest list. Every entry of one has a platform.
func (s source) dockerList(kept []int, entries []image.Descriptor) []byte {
	list := struct {
		SchemaVersion int           `json:"schemaVersion"`
		MediaType     string        `json:"mediaType"`
		Manifests     []dockerEntry `json:"manifests"`
	}{2, image.MediaTypeDockerList, []dockerEntry{}}
	for _, i := range kept {
		e := dockerEntry{dockerDescriptor: newDockerDescriptor(entries[i]), Platform: image.Platform{OS: "unknown", Architecture: "unknown"}}
		if p := entries[i].Platform; p != nil {
			e.Platform = *p
		}
		list.Manifests = append(list.Manifests, e)
	}
	return encode(list)
}
