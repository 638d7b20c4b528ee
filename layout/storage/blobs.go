//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/plain"
)

// mediaTypeBlob is what is said of content that nothing tells the type of.
const mediaTypeBlob = "application/octet-stream"

// maxConfig is the longest config that is read, in bytes.
const maxConfig = 16 << 20

// emptyLayer is what schema 1 manifests have in the place of layers that change no file, and no store keeps.
const emptyLayer = digest.Digest("sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4")

// blob is content that a store has: a manifest's or a config's bytes, or a layer.
type blob struct {
	image.Descriptor
	bytes []byte
	layer *storage.Layer
}

// Stat implements image.Source. An image.FormError for a layer in the form in which a manifest names it.
func (s *source) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	b, err := s.blob(ctx, image.Descriptor{Digest: dgst, Size: -1})
	return b.Descriptor, s.failed("stat", dgst.String(), err)
}

// Fetch implements image.Source. A layer is had as a tar only: in any other form it is an image.FormError. All of it is copied to a
// temporary file of the store and verified first: the store is locked for all others as long as a layer is read from it; and what
// makes the tar again would follow the names in a hostile one to files of the machine, which nobody may be shown.
func (s *source) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	r, err := s.open(ctx, d)
	return r, s.failed("fetch", d.Digest.String(), err)
}

func (s *source) open(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	b, err := s.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	if b.layer == nil {
		return image.Verify(io.NopCloser(bytes.NewReader(b.bytes)), d)
	}
	r, size, err := s.store.tar(ctx, b.layer.ID, d.Digest)
	if err == nil && d.Size >= 0 && d.Size != size {
		r.Close()
		err = fmt.Errorf("it has %d bytes, and not %d: %w", size, d.Size, image.ErrDigest)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// blob looks for content of a digest. A manifest is one of this repository; others are of any image of the store.
func (s *source) blob(ctx context.Context, d image.Descriptor) (blob, error) {
	if err := d.Digest.Validate(); err != nil {
		return blob{}, fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	described, raw, err := s.manifest(ctx, d.Digest.String())
	if !errors.Is(translate(err), image.ErrNotFound) {
		return blob{described, raw, nil}, err
	}
	for _, look := range []func(context.Context, image.Descriptor) (blob, error){s.config, s.unpacked, s.packed, s.elsewhere} {
		b, err := look(ctx, d)
		if !errors.Is(translate(err), image.ErrNotFound) || errors.As(err, new(*image.FormError)) {
			return b, err
		}
	}
	return blob{}, fmt.Errorf("no image has it: %w", image.ErrNotFound)
}

// config is that of the image which has its ID from it.
func (s *source) config(ctx context.Context, d image.Descriptor) (blob, error) {
	return s.kept(ctx, d.Digest.Encoded(), d.Digest)
}

// kept is content that is kept with an image, under its digest.
func (s *source) kept(ctx context.Context, id string, dgst digest.Digest) (blob, error) {
	raw, err := s.store.data(ctx, id, dgst.String(), maxConfig)
	if errors.Is(err, storage.ErrSizeUnknown) {
		err = image.ErrNotFound
	}
	return blob{image.Descriptor{MediaType: mediaTypeBlob, Digest: dgst, Size: int64(len(raw))}, raw, nil}, err
}

// unpacked is a layer, by the digest of its tar.
func (s *source) unpacked(ctx context.Context, d image.Descriptor) (blob, error) {
	layers, err := ask(ctx, func() ([]storage.Layer, error) { return s.store.lib.LayersByUncompressedDigest(d.Digest) })
	if err == nil && len(layers) == 0 {
		err = image.ErrNotFound
	}
	if err != nil {
		return blob{}, err
	}
	return layerBlob(&layers[0], d.Digest), nil
}

func layerBlob(layer *storage.Layer, dgst digest.Digest) blob {
	return blob{image.Descriptor{MediaType: mediaTypeBlob, Digest: dgst, Size: max(layer.UncompressedSize, -1)}, nil, layer}
}

// packed is the FormError of a layer, by the digest that it came with.
func (s *source) packed(ctx context.Context, d image.Descriptor) (blob, error) {
	layers, err := ask(ctx, func() ([]storage.Layer, error) { return s.store.lib.LayersByCompressedDigest(d.Digest) })
	if err == nil && len(layers) > 0 && diffID(&layers[0]) != "" {
		return blob{}, formError(d, &layers[0])
	}
	if err == nil {
		err = image.ErrNotFound
	}
	return blob{}, err
}

// elsewhere looks through all images, for what is kept with one of another ID, and for what a manifest of this repository calls a layer.
func (s *source) elsewhere(ctx context.Context, d image.Descriptor) (blob, error) {
	images, err := ask(ctx, s.store.lib.Images)
	if err != nil {
		return blob{}, err
	}
	key := d.Digest.String()
	if i := slices.IndexFunc(images, func(img storage.Image) bool { return slices.Contains(img.BigDataNames, key) }); i >= 0 {
		return s.kept(ctx, images[i].ID, d.Digest)
	}
	layer, err := s.named(ctx, images, d.Digest)
	if err != nil {
		return blob{}, err
	}
	if diffID(layer) == d.Digest {
		return layerBlob(layer, d.Digest), nil
	}
	return blob{}, formError(d, layer)
}

func formError(want image.Descriptor, layer *storage.Layer) error {
	return &image.FormError{Want: want, Have: image.Descriptor{
		MediaType: plain.MediaType(want.MediaType), Digest: diffID(layer), Size: max(layer.UncompressedSize, -1),
	}}
}

// expectedDiffID is a flag of layers that were pulled file by file, of which nobody has seen the tar: what it should be.
const expectedDiffID = "expected-layer-diffid"

// diffID is the digest of a layer's tar; "" if nobody knows it.
func diffID(layer *storage.Layer) digest.Digest {
	if layer.UncompressedDigest != "" {
		return layer.UncompressedDigest
	}
	expected, _ := layer.Flags[expectedDiffID].(string)
	if dgst := digest.Digest(expected); dgst.Validate() == nil {
		return dgst
	}
	return ""
}

// named is the layer that a manifest of this repository calls by a digest, or whose tar should have it.
func (s *source) named(ctx context.Context, images []storage.Image, dgst digest.Digest) (*storage.Layer, error) {
	layers, err := ask(ctx, s.store.lib.Layers)
	if err != nil {
		return nil, err
	}
	byID := map[string]*storage.Layer{}
	for i := range layers {
		byID[layers[i].ID] = &layers[i]
	}
	for i := range images {
		if !s.has(&images[i]) {
			continue
		}
		layer, err := s.namedBy(ctx, &images[i], chain(byID, images[i].TopLayer), dgst)
		if layer != nil || err != nil {
			return layer, err
		}
	}
	return nil, image.ErrNotFound
}

// chain is a layer and those below it, the base first.
func chain(byID map[string]*storage.Layer, top string) []*storage.Layer {
	var layers []*storage.Layer
	for l := byID[top]; l != nil && len(layers) <= len(byID); l = byID[l.Parent] {
		layers = append(layers, l)
	}
	slices.Reverse(layers)
	return layers
}

// namedBy is the one of an image's layers that one of its manifests calls by a digest.
func (s *source) namedBy(ctx context.Context, img *storage.Image, layers []*storage.Layer, dgst digest.Digest) (*storage.Layer, error) {
	for _, key := range img.BigDataNames {
		if !strings.HasPrefix(key, storage.ImageDigestManifestBigDataNamePrefix) {
			continue
		}
		_, raw, err := s.read(ctx, img, key, "")
		if ctx.Err() != nil {
			return nil, err
		}
		m, err2 := image.ParseManifest(schema1Type(raw), raw)
		if err != nil || err2 != nil {
			continue // which is nobody's manifest
		}
		called := slices.DeleteFunc(slices.Clone(m.Layers), func(d image.Descriptor) bool { return d.Digest == emptyLayer })
		for i, layer := range layers {
			if diffID(layer) == dgst || len(called) == len(layers) && called[i].Digest == dgst && diffID(layer) != "" {
				return layer, nil
			}
		}
	}
	return nil, nil
}

// tar is the tar of a layer, and how long it is.
func (s *Store) tar(ctx context.Context, id string, dgst digest.Digest) (io.ReadCloser, int64, error) {
	sp, err := s.newSpool()
	if err != nil {
		return nil, 0, err
	}
	defer sp.release()
	diff, err := askFor(ctx, func() (io.ReadCloser, error) {
		uncompressed := archive.Uncompressed
		return s.lib.Diff("", id, &storage.DiffOptions{Compression: &uncompressed})
	}, func(r io.ReadCloser) { r.Close() })
	if err == nil {
		diff, err = image.Verify(diff, image.Descriptor{Digest: dgst, Size: -1})
	}
	if err != nil {
		return nil, 0, err
	}
	go func() { // until all is there, or nobody waits for it
		_, err := io.CopyBuffer(struct{ io.Writer }{sp}, struct{ io.Reader }{diff}, make([]byte, spoolStep))
		sp.end(errors.Join(err, diff.Close()))
	}()
	if err := sp.wait(ctx); err != nil {
		return nil, 0, err
	}
	size, _, _ := sp.state()
	return sp.reader(ctx), size, nil
}
