package dir

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/disk"
)

// mediaTypeBlob is what is said of content that nothing tells the type of.
const mediaTypeBlob = "application/octet-stream"

// Resolve implements image.Source. The image is "": there are no tags. A digest is that of the image, or of a manifest below it.
func (x *Dir) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	d, _, err := x.Manifest(ctx, ref)
	return d, err
}

// Manifest implements image.Source.
func (x *Dir) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	d, raw, err := x.manifest(ctx, ref)
	if err != nil {
		return image.Descriptor{}, nil, x.failed("read manifest", ref, err)
	}
	return d, raw, nil
}

func (x *Dir) manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	if err := ctx.Err(); err != nil {
		return image.Descriptor{}, nil, err
	}
	if dgst := digest.Digest(ref); dgst.Validate() == nil {
		return x.digested(ctx, dgst)
	}
	if ref != "" {
		return image.Descriptor{}, nil, fmt.Errorf("a dir: has one image, and no tags: %w", image.ErrNotFound)
	}
	return x.root(ctx, digest.Canonical)
}

// root reads what the image is.
func (x *Dir) root(ctx context.Context, alg digest.Algorithm) (image.Descriptor, []byte, error) {
	d, raw, err := x.document(ctx, manifestFile, alg)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("it has no image: there is no %s, so nobody finished writing one: %w", manifestFile, image.ErrNotFound)
	}
	return d, raw, err
}

// digested reads a manifest by its digest.
func (x *Dir) digested(ctx context.Context, dgst digest.Digest) (image.Descriptor, []byte, error) {
	d, raw, err := x.instance(ctx, dgst)
	if !errors.Is(err, fs.ErrNotExist) {
		return d, raw, err
	}
	d, raw, err = x.root(ctx, dgst.Algorithm())
	if err == nil && d.Digest != dgst {
		err = fmt.Errorf("its image is %s, and no other manifest has that digest: %w", d.Digest, image.ErrNotFound)
	}
	return d, raw, err
}

// instance reads the file of a manifest below an index.
func (x *Dir) instance(ctx context.Context, dgst digest.Digest) (image.Descriptor, []byte, error) {
	d, raw, err := x.document(ctx, instanceFile(dgst), dgst.Algorithm())
	if err == nil && d.Digest != dgst {
		err = fmt.Errorf("%s has the digest %s: %w", instanceFile(dgst), d.Digest, image.ErrDigest)
	}
	return d, raw, err
}

// document reads a manifest from a file.
func (x *Dir) document(ctx context.Context, name string, alg digest.Algorithm) (image.Descriptor, []byte, error) {
	if err := ctx.Err(); err != nil {
		return image.Descriptor{}, nil, err
	}
	raw, err := x.folder.ReadFile(name, image.MaxManifest)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	d, err := describe("", raw, alg)
	if err != nil {
		return image.Descriptor{}, nil, fmt.Errorf("%s: %w", name, err)
	}
	return d, raw, nil
}

// describe tells what a manifest is, by what it says itself, else by what it was said to be, else by its looks.
func describe(mediaType string, raw []byte, alg digest.Algorithm) (image.Descriptor, error) {
	m, err := image.ParseManifest(mediaType, raw)
	if err != nil {
		return image.Descriptor{}, err
	}
	var signed struct {
		Signatures []json.RawMessage `json:"signatures"`
	}
	if m.MediaType == image.MediaTypeDockerSchema1 && json.Unmarshal(raw, &signed) == nil && len(signed.Signatures) > 0 {
		m.MediaType = image.MediaTypeDockerSchema1Signed
	}
	dgst, err := image.DigestManifest(alg, m.MediaType, raw)
	return image.Descriptor{MediaType: m.MediaType, Digest: dgst, Size: int64(len(raw))}, err
}

// Stat implements image.Source.
func (x *Dir) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	d, content, err := x.open(ctx, dgst)
	if err != nil {
		return image.Descriptor{}, x.failed("stat", dgst.String(), err)
	}
	return d, content.Close()
}

// Fetch implements image.Source.
func (x *Dir) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	found, content, err := x.open(ctx, d.Digest)
	if err != nil {
		return nil, x.failed("fetch", d.Digest.String(), err)
	}
	if found.MediaType == mediaTypeBlob {
		return image.Verify(disk.Whole(ctx, content, found.Size), d)
	}
	// Its digest was found to be right, which need not be that of the bytes: schema 1 does not count signatures.
	if d.Size >= 0 && d.Size != found.Size {
		err := fmt.Errorf("it has %d bytes and not the %d it is said to have: %w", found.Size, d.Size, image.ErrDigest)
		return nil, x.failed("fetch", d.Digest.String(), err)
	}
	return disk.Whole(ctx, content, found.Size), nil
}

// FetchRange implements image.Source.
func (x *Dir) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	found, content, err := x.open(ctx, d.Digest)
	if err != nil {
		return nil, x.failed("fetch", d.Digest.String(), err)
	}
	r, err := disk.Range(ctx, content, found.Size, off, n)
	if err != nil {
		return nil, x.failed("fetch", d.Digest.String(), err)
	}
	return r, nil
}

// open opens content of any digest that somebody may ask for: of a blob, which is to be verified, or of a manifest, which is.
func (x *Dir) open(ctx context.Context, dgst digest.Digest) (image.Descriptor, disk.Content, error) {
	if err := ctx.Err(); err != nil {
		return image.Descriptor{}, nil, err
	}
	if err := dgst.Validate(); err != nil {
		return image.Descriptor{}, nil, fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	file, size, err := x.folder.Open(blobFile(dgst))
	if err == nil {
		return image.Descriptor{MediaType: mediaTypeBlob, Digest: dgst, Size: size}, file, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return image.Descriptor{}, nil, err
	}
	d, raw, err := x.digested(ctx, dgst)
	return d, memory{bytes.NewReader(raw)}, err
}

// memory is content at hand.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// Tags implements image.Source: there are none.
func (x *Dir) Tags(ctx context.Context, _ string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := ctx.Err(); err != nil {
			yield("", x.failed("list the tags", "", err))
		}
	}
}

// Referrers implements image.Source: there are none, since there is but one image.
func (x *Dir) Referrers(ctx context.Context, d image.Descriptor, _ string) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(image.Descriptor{}, x.failed("list the referrers of", d.Digest.String(), err))
		}
	}
}
