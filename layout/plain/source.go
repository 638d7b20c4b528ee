package plain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// Source is a Source whose images have no layers but those that can be had. It is safe for concurrent use.
//
// A layer that the place has only in another form (image.FormError) is named in that form, by media type, digest and size, and no more
// by annotations that told of the compression. All else of a manifest keeps its value, if not its place. An index names the manifests
// that come of this. So an image has the same digest each time, and not the one that the place knows it by, which goes on to work:
// what is asked for by that is had as it is.
type Source struct {
	image.Source

	mu   sync.Mutex
	made map[digest.Digest]made
}

// made is a manifest of our making.
type made struct {
	image.Descriptor
	raw  []byte
	from image.Descriptor
}

// maxDepth is how deep indexes may be within each other.
const maxDepth = 8

// maxMade is how many manifests of our making are kept at most.
const maxMade = 256

// New shows what is in src. Closing it closes src.
func New(src image.Source) *Source { return &Source{Source: src, made: map[digest.Digest]made{}} }

// Resolve implements image.Source.
func (s *Source) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	m, err := s.manifest(ctx, ref)
	return m.Descriptor, err
}

// Manifest implements image.Source.
func (s *Source) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	m, err := s.manifest(ctx, ref)
	return m.Descriptor, m.raw, err
}

func (s *Source) manifest(ctx context.Context, ref string) (made, error) {
	dgst := digest.Digest(ref)
	if dgst.Validate() == nil {
		return s.byDigest(ctx, dgst)
	}
	d, raw, err := s.Source.Manifest(ctx, ref)
	if err != nil {
		return made{}, err
	}
	return s.make(ctx, d, raw, 0)
}

// byDigest is what the place has, or what was made of something else. Who asks for a manifest of our making may have its name from an
// earlier run, so all tags are looked at before there is none.
func (s *Source) byDigest(ctx context.Context, dgst digest.Digest) (made, error) {
	if m, ok := s.known(dgst); ok {
		return m, nil
	}
	d, raw, err := s.Source.Manifest(ctx, dgst.String())
	if !errors.Is(err, image.ErrNotFound) {
		return made{d, raw, d}, err
	}
	for tag, err2 := range s.Source.Tags(ctx, "") {
		if err2 != nil {
			return made{}, err
		}
		s.manifest(ctx, tag) // one that can't be read is not the one
		if m, ok := s.known(dgst); ok {
			return m, nil
		}
	}
	return made{}, err
}

func (s *Source) known(dgst digest.Digest) (made, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.made[dgst]
	return m, ok
}

// make makes what a manifest is shown as.
func (s *Source) make(ctx context.Context, d image.Descriptor, raw []byte, depth int) (made, error) {
	m, err := image.ParseManifest(d.MediaType, raw)
	if err == nil && depth > maxDepth {
		err = fmt.Errorf("%s: more than %d indexes deep: %w", d.Digest, maxDepth, image.ErrInvalid)
	}
	if err != nil {
		return made{}, err
	}
	changes, err := s.layers(ctx, m)
	list := "layers"
	if m.IsIndex() {
		changes, err = s.manifests(ctx, m, depth)
		list = "manifests"
	}
	if err != nil || len(changes) == 0 {
		return made{d, raw, d}, err
	}
	rewritten, err := rewrite(raw, list, changes)
	if err == nil {
		err = checkRewritten(rewritten, changes)
	}
	if err != nil {
		return made{}, fmt.Errorf("%s: %v: %w", d.Digest, err, image.ErrInvalid)
	}
	got := made{image.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(rewritten), Size: int64(len(rewritten))}, rewritten, d}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.made) >= maxMade {
		clear(s.made) // what is asked for again is made again
	}
	s.made[got.Digest] = got
	return got, nil
}

// layers are those that the place has in another form, by their digest. Schema 1 can name nothing else.
func (s *Source) layers(ctx context.Context, m *image.Manifest) (map[digest.Digest]image.Descriptor, error) {
	changes := map[digest.Digest]image.Descriptor{}
	if image.IsSchema1(m.MediaType) {
		return nil, nil
	}
	for _, layer := range m.Layers {
		_, err := s.Source.Stat(ctx, layer.Digest)
		var form *image.FormError
		switch {
		case errors.As(err, &form) && form.Have.Size >= 0:
			form.Have.MediaType = MediaType(layer.MediaType)
			changes[layer.Digest] = form.Have
		case err != nil && !errors.Is(err, image.ErrNotFound):
			return nil, err
		}
	}
	return changes, nil
}

// manifests are those of an index that come out as others. What the place does not have stays as it is named.
func (s *Source) manifests(ctx context.Context, m *image.Manifest, depth int) (map[digest.Digest]image.Descriptor, error) {
	changes := map[digest.Digest]image.Descriptor{}
	for _, d := range m.Manifests {
		_, raw, err := s.Source.Manifest(ctx, d.Digest.String())
		if errors.Is(err, image.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		got, err := s.make(ctx, d, raw, depth+1)
		if err != nil {
			return nil, err
		}
		if got.Digest != d.Digest {
			changes[d.Digest] = image.Descriptor{MediaType: d.MediaType, Digest: got.Digest, Size: got.Size}
		}
	}
	return changes, nil
}

// compressionTells are the beginnings of annotations that are about a layer's compression.
var compressionTells = []string{
	"io.github.containers.zstd-chunked.", "containerd.io/snapshot/stargz/", "io.containers.estargz.",
}

// rewrite changes descriptors in one list of a manifest. Members come out sorted, and their values as they were written.
func rewrite(raw []byte, list string, changes map[digest.Digest]image.Descriptor) ([]byte, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	var entries []map[string]json.RawMessage
	if err := json.Unmarshal(doc[list], &entries); err != nil {
		return nil, err
	}
	for _, entry := range entries {
		var dgst digest.Digest
		if err := json.Unmarshal(entry["digest"], &dgst); err != nil {
			return nil, err
		}
		if d, ok := changes[dgst]; ok {
			entry["mediaType"], entry["digest"], entry["size"] = encode(d.MediaType), encode(d.Digest), encode(d.Size)
			forget(entry)
		}
	}
	doc[list] = encode(entries)
	return encode(doc), nil
}

// checkRewritten tells that a manifest still names what it should not: one that has a list twice, in other letters, can.
func checkRewritten(raw []byte, changes map[digest.Digest]image.Descriptor) error {
	m, err := image.ParseManifest("", raw)
	if err != nil {
		return err
	}
	for _, d := range slices.Concat(m.Layers, m.Manifests) {
		if _, ok := changes[d.Digest]; ok {
			return fmt.Errorf("it is ambiguous: %s stands in it twice, in other letters", d.Digest)
		}
	}
	return nil
}

// forget takes out of a descriptor what is no longer so.
func forget(entry map[string]json.RawMessage) {
	delete(entry, "data")
	var annotations map[string]json.RawMessage
	if json.Unmarshal(entry["annotations"], &annotations) != nil {
		return
	}
	before := len(annotations)
	maps.DeleteFunc(annotations, func(key string, _ json.RawMessage) bool {
		return slices.ContainsFunc(compressionTells, func(tell string) bool { return strings.HasPrefix(key, tell) })
	})
	switch {
	case len(annotations) == before:
	case len(annotations) == 0:
		delete(entry, "annotations")
	default:
		entry["annotations"] = encode(annotations)
	}
}

// encode is for values that have a JSON form.
func encode(value any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Stat implements image.Source.
func (s *Source) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	if m, ok := s.known(dgst); ok {
		return m.Descriptor, nil
	}
	d, err := s.Source.Stat(ctx, dgst)
	if errors.Is(err, image.ErrNotFound) && !errors.As(err, new(*image.FormError)) && dgst.Validate() == nil {
		if m, err := s.byDigest(ctx, dgst); err == nil {
			return m.Descriptor, nil
		}
	}
	return d, err
}

// Fetch implements image.Source.
func (s *Source) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	if image.IsManifest(d.MediaType) && d.Digest.Validate() == nil {
		m, err := s.byDigest(ctx, d.Digest)
		if err != nil {
			return nil, err
		}
		return image.Verify(io.NopCloser(bytes.NewReader(m.raw)), d)
	}
	if m, ok := s.known(d.Digest); ok {
		return image.Verify(io.NopCloser(bytes.NewReader(m.raw)), d)
	}
	return s.Source.Fetch(ctx, d)
}

// Referrers implements image.Source: those of the image as the place knows it.
func (s *Source) Referrers(ctx context.Context, d image.Descriptor, artifactType string) iter.Seq2[image.Descriptor, error] {
	if m, ok := s.known(d.Digest); ok {
		d = m.from
	}
	return s.Source.Referrers(ctx, d, artifactType)
}
