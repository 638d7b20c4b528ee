package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// sink is a repository of the engine to write to.
type sink struct {
	source

	mu     sync.Mutex
	wanted map[digest.Digest]bool // false for the parts of images that the engine has
}

func newSink(e *Engine, at image.Repository) *sink {
	return &sink{source: source{e, at}, wanted: map[digest.Digest]bool{}}
}

// Expect implements image.Sink: one image for one platform, of layers that are tars, is what an engine can hold, and the engine
// must be there. What an image takes that the engine has need not be pushed.
func (s *sink) Expect(ctx context.Context, d image.Descriptor, raw []byte) error {
	i, err := newItem(d, raw)
	var has bool
	if err == nil {
		has, err = s.engine.has(ctx, i)
	}
	if err != nil {
		return s.failed("put", d.Digest.String(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, part := range i.m.Children() {
		s.wanted[part.Digest] = s.wanted[part.Digest] || !has
	}
	return nil
}

// acceptable tells what keeps an engine from holding an image.
func acceptable(m *image.Manifest) error {
	switch {
	case m.IsIndex():
		return fmt.Errorf("an engine holds images for one platform, and no index of several: choose one: %w", image.ErrUnsupported)
	case m.Config == nil:
		return fmt.Errorf("no engine takes a Docker schema 1 image: %w", image.ErrUnsupported)
	case m.Config.MediaType != v1.MediaTypeImageConfig && m.Config.MediaType != image.MediaTypeDockerConfig:
		return fmt.Errorf("it is no image, its config is a %s: %w", clean(m.Config.MediaType), image.ErrUnsupported)
	case m.Config.Digest.Algorithm() != digest.SHA256:
		return fmt.Errorf("an engine knows images by sha256 only, not by %s: %w", m.Config.Digest.Algorithm(), image.ErrUnsupported)
	}
	for _, l := range m.Layers {
		if !isLayer(l.MediaType) {
			return fmt.Errorf("the layer %s is a %s, which no engine unpacks: %w", l.Digest, clean(l.MediaType), image.ErrUnsupported)
		}
	}
	return nil
}

// isLayer tells whether content of a media type is a tar of files, compressed or not.
func isLayer(mediaType string) bool {
	tar := strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.") || strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.")
	return tar && !strings.HasSuffix(mediaType, "+encrypted")
}

// Push implements image.Sink. A blob is kept here until there is an image of it, for a day at the least. A manifest makes an image of
// what was pushed, without a name.
func (s *sink) Push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	how, err := s.push(ctx, d, content)
	if err != nil {
		return "", s.failed("push", d.Digest.String(), err)
	}
	return how, nil
}

func (s *sink) push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := d.Digest.Validate(); err != nil {
		return "", fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	if image.IsManifest(d.MediaType) {
		return s.pushManifest(ctx, d, content)
	}
	if s.skips(d) {
		return image.Skipped, nil
	}
	if s.engine.pushed.expect(d) {
		return image.Skipped, nil
	}
	return how(content), s.engine.pushed.put(ctx, d, content)
}

func how(content image.Content) image.How {
	if content.Remote {
		return image.Streamed
	}
	return image.Uploaded
}

// skips tells whether a blob is part only of images that the engine has.
func (s *sink) skips(d image.Descriptor) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted, known := s.wanted[d.Digest]
	return known && !wanted
}

func (s *sink) pushManifest(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	raw, err := readManifest(ctx, d, content)
	if err != nil {
		return "", err
	}
	i, err := newItem(d, raw)
	if err != nil {
		return "", err
	}
	has, err := s.engine.has(ctx, i)
	if err != nil {
		return "", err
	}
	if !has {
		err = s.engine.load(ctx, i, "")
	}
	if err == nil && content.Sent != nil {
		content.Sent(int64(len(raw)))
	}
	if err == nil {
		s.engine.pushed.settle(i.m.Children())
	}
	if has {
		return image.Skipped, err
	}
	return how(content), err
}

func readManifest(ctx context.Context, d image.Descriptor, content image.Content) ([]byte, error) {
	r, err := content.Open(ctx, 0)
	if err != nil {
		return nil, err
	}
	v, err := image.Verify(r, d)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	raw, err := io.ReadAll(io.LimitReader(&reader{ctx, v}, image.MaxManifest+1))
	if err == nil && len(raw) > image.MaxManifest {
		err = fmt.Errorf("a manifest of more than %d bytes: %w", image.MaxManifest, image.ErrTooLarge)
	}
	return raw, err
}

// newItem is the image whose manifest raw is, and which d describes, if an engine can hold it.
func newItem(d image.Descriptor, raw []byte) (*item, error) {
	v, err := image.Verify(io.NopCloser(bytes.NewReader(raw)), d)
	if err == nil && !image.IsSchema1(d.MediaType) { // whose digest is not that of all its bytes
		_, err = io.Copy(io.Discard, v)
	}
	if err != nil {
		return nil, err
	}
	m, err := image.ParseManifest(d.MediaType, raw)
	if err == nil {
		err = acceptable(m)
	}
	return &item{image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(raw))}, raw, m}, err
}

// Tag implements image.Sink. In the repository of all images, the tag "" is for an image that gets no name.
func (s *sink) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if err := s.tag(ctx, d, raw, tag); err != nil {
		return s.failed("tag", tag, err)
	}
	return nil
}

func (s *sink) tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	nameless := s.at == image.Repository{}
	if nameless != (tag == "") || !nameless && !image.ValidTag(tag) {
		return fmt.Errorf("no image can have that name there: %w", image.ErrInvalid)
	}
	if nameless {
		_, err := s.push(ctx, d, image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(raw)), nil
		}})
		return err
	}
	i, err := newItem(d, raw)
	if err != nil {
		return err
	}
	if err = s.engine.name(ctx, i, s.at, tag); missing(err) {
		err = s.engine.put(ctx, i, s.at, tag)
	}
	if err == nil {
		s.engine.pushed.settle(i.m.Children())
	}
	return err
}

// Delete implements image.Sink. A tag goes, and with the last name that an image has the image, as it is with docker rmi. With a digest,
// that of a manifest or an ID, all names of the image in this repository go. Of all images, "@" and an ID names one. What a container
// uses stays: ErrRefused.
func (s *sink) Delete(ctx context.Context, ref string) error {
	if err := s.delete(ctx, ref); err != nil {
		return s.failed("delete", ref, err)
	}
	return nil
}

func (s *sink) delete(ctx context.Context, ref string) error {
	if dgst := digest.Digest(ref); dgst.Validate() == nil {
		return s.deleteImage(ctx, dgst)
	}
	if ref == "" {
		return fmt.Errorf("say which: %w", image.ErrInvalid)
	}
	if s.at != (image.Repository{}) && image.ValidTag(ref) {
		return s.engine.client.remove(ctx, s.at.String()+":"+ref)
	}
	id, err := s.id(ctx, ref)
	if err != nil {
		return err
	}
	return s.engine.client.remove(ctx, id.String())
}

// deleteImage takes all names away that an image has here.
func (s *sink) deleteImage(ctx context.Context, dgst digest.Digest) error {
	k, err := s.holding(ctx, dgst)
	if err != nil {
		return err
	}
	if dgst != k.manifest.Digest && dgst != k.id {
		return fmt.Errorf("it is part of an image, and none: %w", image.ErrNotFound)
	}
	if s.at == (image.Repository{}) {
		return s.engine.client.remove(ctx, k.id.String())
	}
	names, err := s.names(ctx)
	if err != nil {
		return err
	}
	found := fmt.Errorf("no image here has that digest any more: %w", image.ErrNotFound)
	for _, n := range names {
		if n.id != k.id {
			continue
		}
		if found = s.engine.client.remove(ctx, s.at.String()+":"+n.tag); found != nil {
			return found
		}
	}
	s.engine.images.lose(s.at, k.id)
	return found
}

// Close does nothing: what was pushed is the Engine's.
func (s *sink) Close() error { return nil }
