// Package single serves one image that a place has without a manifest: all of it is made of what the place has, the same each time.
package single

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/disk"
	"github.com/regfs/regfs/layout/internal/files"
)

// Layer is a layer, and how its content is opened, whoever verifies it.
type Layer struct {
	image.Descriptor
	Open func() (disk.Content, error)
}

// Image is an image with all that it is made of.
type Image struct {
	manifest image.Descriptor
	parts    map[digest.Digest]Layer // with the config and the manifest
	raw      []byte
}

// NewImage makes the image of a config, which is to have the layers' diff IDs, and its layers.
func NewImage(config v1.Image, layers []Layer) (*Image, error) {
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	// It has no media type in it, as skopeo's had none up to 1.9: the digest is to be the same.
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Layers: []image.Descriptor{}}
	i := &Image{parts: map[digest.Digest]Layer{}}
	m.Config = i.add(v1.MediaTypeImageConfig, raw)
	for _, l := range layers {
		i.parts[l.Digest] = l
		m.Layers = append(m.Layers, l.Descriptor)
	}
	if i.raw, err = json.Marshal(m); err != nil {
		return nil, err
	}
	i.manifest = i.add(v1.MediaTypeImageManifest, i.raw)
	return i, nil
}

// add is for content at hand.
func (i *Image) add(mediaType string, raw []byte) image.Descriptor {
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	i.parts[d.Digest] = Layer{d, func() (disk.Content, error) { return memory{bytes.NewReader(raw)}, nil }}
	return d
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// Source is an image.Source of one image, which is made when it is first asked for.
type Source struct {
	place string
	build func(context.Context) (*Image, error)
	free  func() error
	room  chan struct{} // who makes the image, or looks at it, holds what is in it
	image *Image
}

var _ image.Source = (*Source)(nil)

// New makes a Source of the image that build makes, which may be called again when it failed. The place is what errors name. free, if
// not nil, lets go of what build needs and made.
func New(place string, build func(context.Context) (*Image, error), free func() error) *Source {
	s := &Source{place: place, build: build, free: free, room: make(chan struct{}, 1)}
	s.room <- struct{}{}
	return s
}

func (s *Source) failed(op, object string, err error) error {
	return files.Failed(op, object, s.place, err)
}

// made is the image. One makes it, with its own context; if that ends, the next one who waits does.
func (s *Source) made(ctx context.Context) (*Image, error) {
	select {
	case <-s.room:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { s.room <- struct{}{} }()
	if s.image == nil {
		i, err := s.build(ctx)
		if err != nil {
			return nil, err
		}
		s.image = i
	}
	return s.image, nil
}

// Resolve implements image.Source: "" and the manifest's digest are the image. It has no tags.
func (s *Source) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	d, _, err := s.Manifest(ctx, ref)
	return d, err
}

// Manifest implements image.Source.
func (s *Source) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	i, err := s.named(ctx, ref)
	if err != nil {
		op := "read manifest"
		if ref == "" {
			op = "read"
		}
		return image.Descriptor{}, nil, s.failed(op, ref, err)
	}
	return i.manifest, bytes.Clone(i.raw), nil
}

// named makes the image only if it can be the one that is asked for.
func (s *Source) named(ctx context.Context, ref string) (*Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if ref != "" && digest.Digest(ref).Validate() != nil {
		return nil, fmt.Errorf("there is one image, and it has no tags: %w", image.ErrNotFound)
	}
	i, err := s.made(ctx)
	if err == nil && ref != "" && i.manifest.Digest.String() != ref {
		err = fmt.Errorf("the image is %s: %w", i.manifest.Digest, image.ErrNotFound)
	}
	return i, err
}

// Stat implements image.Source.
func (s *Source) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	p, err := s.part(ctx, dgst)
	if err != nil {
		return image.Descriptor{}, s.failed("stat", dgst.String(), err)
	}
	return p.Descriptor, nil
}

func (s *Source) part(ctx context.Context, dgst digest.Digest) (Layer, error) {
	if err := ctx.Err(); err != nil {
		return Layer{}, err
	}
	if err := dgst.Validate(); err != nil {
		return Layer{}, fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	i, err := s.made(ctx)
	if err != nil {
		return Layer{}, err
	}
	p, ok := i.parts[dgst]
	if !ok {
		return Layer{}, fmt.Errorf("the image has no such content: %w", image.ErrNotFound)
	}
	return p, nil
}

// Fetch implements image.Source.
func (s *Source) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	p, content, err := s.open(ctx, d.Digest)
	if err != nil {
		return nil, s.failed("fetch", d.Digest.String(), err)
	}
	return image.Verify(disk.Whole(ctx, content, p.Size), d)
}

// FetchRange implements image.Source.
func (s *Source) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	p, content, err := s.open(ctx, d.Digest)
	var r io.ReadCloser
	if err == nil {
		r, err = disk.Range(ctx, content, p.Size, off, n)
	}
	if err != nil {
		return nil, s.failed("fetch", d.Digest.String(), err)
	}
	return r, nil
}

func (s *Source) open(ctx context.Context, dgst digest.Digest) (Layer, disk.Content, error) {
	p, err := s.part(ctx, dgst)
	if err != nil {
		return p, nil, err
	}
	content, err := p.Open()
	return p, content, err
}

// Tags implements image.Source: there are none.
func (s *Source) Tags(ctx context.Context, _ string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := ctx.Err(); err != nil {
			yield("", s.failed("list the tags", "", err))
		}
	}
}

// Referrers implements image.Source: there are none.
func (s *Source) Referrers(ctx context.Context, d image.Descriptor, _ string) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(image.Descriptor{}, s.failed("list the referrers of", d.Digest.String(), err))
		}
	}
}

// Close closes the place, when nobody makes its image any more. What is being read stays readable.
func (s *Source) Close() error {
	<-s.room // and nobody gets it again
	s.build = func(context.Context) (*Image, error) { return nil, errClosed }
	s.image = nil
	s.room <- struct{}{}
	if s.free == nil {
		return nil
	}
	return s.free()
}

var errClosed = errors.New("it is closed")
