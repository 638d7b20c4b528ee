//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"

	"github.com/regfs/regfs/image"
)

// source reads one repository, or, where at is zero, the images of all of them and those without a name.
type source struct {
	store *Store
	at    image.Repository
}

// imageID is the beginning of one that is long enough to be asked for.
var imageID = regexp.MustCompile(`^[0-9a-f]{3,64}$`)

// manifestKey is what a manifest is kept under, beside storage.ImageDigestBigDataKey, which is for the one that came last.
func manifestKey(dgst digest.Digest) string {
	return storage.ImageDigestManifestBigDataNamePrefix + "-" + dgst.String()
}

// Resolve implements image.Source. "@" and the beginning of an ID names an image, too. An index is found by its digest only: a tag names
// the image that it was stored with. A digest is that of an image with a name in this repository.
func (s *source) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	d, _, err := s.manifest(ctx, ref)
	return d, s.failed("resolve", ref, err)
}

// Manifest implements image.Source.
func (s *source) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	d, raw, err := s.manifest(ctx, ref)
	return d, raw, s.failed("read manifest", ref, err)
}

// failed says which image of which repository it is about.
func (s *source) failed(op, ref string, err error) error {
	return s.store.failed(op, at(s.at, ref), err)
}

// at is how people write a tag, a digest or an ID of a repository.
func at(repository image.Repository, ref string) string {
	switch {
	case repository == image.Repository{}:
		return ref
	case ref == "" || strings.HasPrefix(ref, "@"):
		return repository.String() + ref
	case strings.Contains(ref, ":"):
		return repository.String() + "@" + ref
	}
	return repository.String() + ":" + ref
}

func (s *source) manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	img, err := s.find(ctx, ref)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	dgst := digest.Digest(ref)
	if dgst.Validate() != nil {
		return s.read(ctx, img, storage.ImageDigestBigDataKey, img.BigDataDigests[storage.ImageDigestBigDataKey])
	}
	d, raw, err := s.read(ctx, img, manifestKey(dgst), dgst)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrSizeUnknown) {
		return s.read(ctx, img, storage.ImageDigestBigDataKey, dgst)
	}
	return d, raw, err
}

// find is the image of a tag, a digest, or "@" and an ID, or for "" the only one.
func (s *source) find(ctx context.Context, ref string) (*storage.Image, error) {
	id, isID := strings.CutPrefix(ref, "@")
	var img *storage.Image
	var err error
	switch {
	case ref == "":
		return s.only(ctx)
	case isID:
		img, err = s.byID(ctx, id)
	case digest.Digest(ref).Validate() == nil:
		return s.byDigest(ctx, digest.Digest(ref))
	case s.at == image.Repository{} || !image.ValidTag(ref):
		return nil, fmt.Errorf("no image can have that name: %w", image.ErrNotFound)
	default:
		img, err = ask(ctx, func() (*storage.Image, error) { return s.store.lib.Image(s.at.String() + ":" + ref) })
	}
	if errors.Is(err, storage.ErrImageUnknown) {
		err = fmt.Errorf("no image has that name: %w", image.ErrNotFound)
	}
	if err == nil && !s.has(img) {
		err = fmt.Errorf("image %s is of no such repository: %w", img.ID, image.ErrNotFound)
	}
	return img, err
}

func (s *source) byID(ctx context.Context, id string) (*storage.Image, error) {
	if !imageID.MatchString(id) {
		return nil, fmt.Errorf("no image has such an ID: %w", image.ErrNotFound)
	}
	img, err := ask(ctx, func() (*storage.Image, error) { return s.store.lib.Image(id) })
	if errors.Is(err, storage.ErrImageUnknown) || err == nil && !strings.HasPrefix(img.ID, id) {
		err = fmt.Errorf("no image has such an ID: %w", image.ErrNotFound)
	}
	return img, err
}

func (s *source) byDigest(ctx context.Context, dgst digest.Digest) (*storage.Image, error) {
	images, err := ask(ctx, func() ([]*storage.Image, error) { return s.store.lib.ImagesByDigest(dgst) })
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if s.has(img) {
			return img, nil
		}
	}
	return nil, fmt.Errorf("no image has that digest: %w", image.ErrNotFound)
}

func (s *source) only(ctx context.Context) (*storage.Image, error) {
	images, err := s.images(ctx)
	if err != nil {
		return nil, err
	}
	switch len(images) {
	case 0:
		return nil, fmt.Errorf("there is no image: %w", image.ErrNotFound)
	case 1:
		return &images[0], nil
	}
	return nil, fmt.Errorf("there are %d images, name one: %w", len(images), image.ErrNotFound)
}

// images are those of the repository.
func (s *source) images(ctx context.Context) ([]storage.Image, error) {
	images, err := ask(ctx, s.store.lib.Images)
	return slices.DeleteFunc(images, func(img storage.Image) bool { return !s.has(&img) }), err
}

// has tells whether an image has a name in the repository.
func (s *source) has(img *storage.Image) bool {
	return s.at == image.Repository{} || slices.ContainsFunc(names(img), func(n name) bool { return n.Repository == s.at })
}

// read reads and verifies one of an image's manifests.
func (s *source) read(ctx context.Context, img *storage.Image, key string, dgst digest.Digest) (image.Descriptor, []byte, error) {
	raw, err := s.store.data(ctx, img.ID, key, image.MaxManifest)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	m, err := image.ParseManifest(schema1Type(raw), raw)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	if dgst == "" {
		dgst = digest.FromBytes(raw) // which old stores do not say
	}
	got, err := image.DigestManifest(dgst.Algorithm(), m.MediaType, raw)
	if err == nil && got != dgst {
		err = fmt.Errorf("manifest %s has the digest %s: %w", dgst, got, image.ErrDigest)
	}
	return image.Descriptor{MediaType: m.MediaType, Digest: dgst, Size: int64(len(raw))}, raw, err
}

// schema1Type is the media type of a signed schema 1 manifest, which does not say so itself, and "" of all else.
func schema1Type(raw []byte) string {
	if !bytes.Contains(raw, []byte(`"signatures"`)) {
		return ""
	}
	var doc struct {
		SchemaVersion int               `json:"schemaVersion"`
		Signatures    []json.RawMessage `json:"signatures"`
	}
	if json.Unmarshal(raw, &doc) == nil && doc.SchemaVersion == 1 && len(doc.Signatures) > 0 {
		return image.MediaTypeDockerSchema1Signed
	}
	return ""
}

// data reads what is kept with an image, at most so many bytes.
func (s *Store) data(ctx context.Context, id, key string, most int64) ([]byte, error) {
	return ask(ctx, func() ([]byte, error) {
		size, err := s.lib.ImageBigDataSize(id, key)
		if err != nil {
			return nil, err
		}
		if size > most {
			return nil, fmt.Errorf("%s has %d bytes, more than %d: %w", key, size, most, image.ErrInvalid)
		}
		return s.lib.ImageBigData(id, key)
	})
}

// Tags implements image.Source.
func (s *source) Tags(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		tags, err := s.tags(ctx)
		if err != nil {
			yield("", s.failed("list the tags of", "", err))
			return
		}
		for _, tag := range tags {
			if tag > after && !yield(tag, nil) {
				return
			}
		}
	}
}

func (s *source) tags(ctx context.Context) ([]string, error) {
	exists := s.at == image.Repository{}
	tags, err := s.store.collect(ctx, func(n name) (string, bool) {
		exists = exists || n.Repository == s.at
		return n.tag, n.Repository == s.at && n.tag != "" && n.digest == ""
	})
	if err == nil && !exists {
		err = fmt.Errorf("no image has a name in it: %w", image.ErrNotFound)
	}
	return tags, err
}

// Referrers implements image.Source: a store holds nothing that refers to an image.
func (s *source) Referrers(ctx context.Context, _ image.Descriptor, _ string) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(image.Descriptor{}, s.failed("list the referrers in", "", err))
		}
	}
}

// Close implements image.Source. The store stays open.
func (s *source) Close() error { return nil }

// FetchRange implements image.Source: nothing can be had from its middle.
func (s *source) FetchRange(_ context.Context, d image.Descriptor, _, _ int64) (io.ReadCloser, error) {
	return nil, s.failed("fetch a range of", d.Digest.String(), image.ErrUnsupported)
}
