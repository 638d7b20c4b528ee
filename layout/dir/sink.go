package dir

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/disk"
	"github.com/regfs/regfs/layout/internal/files"
)

// Expect implements image.Sink: the folder holds any image.
func (x *Dir) Expect(ctx context.Context, _ image.Descriptor, _ []byte) error { return ctx.Err() }

// Push implements image.Sink. A blob's file of the right size is taken for the blob; a manifest is read again first, and so is
// what is of unknown size. What no image comes to have is removed by a later Tag.
func (x *Dir) Push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	how, err := x.push(ctx, d, content)
	if err != nil {
		return "", x.failed("push", d.Digest.String(), err)
	}
	return how, nil
}

func (x *Dir) push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := d.Digest.Validate(); err != nil {
		return "", fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	if err := x.allow(ctx, d.Digest.Algorithm()); err != nil {
		return "", err
	}
	if image.IsManifest(d.MediaType) {
		return x.pushManifest(ctx, d, content)
	}
	if x.has(ctx, d) {
		return image.Skipped, nil
	}
	return how(content), x.store(ctx, d, content)
}

func how(content image.Content) image.How {
	if content.Remote {
		return image.Streamed
	}
	return image.Uploaded
}

// allow makes the folder of the version that has digests of an algorithm.
func (x *Dir) allow(ctx context.Context, alg digest.Algorithm) error {
	if v, err := x.version(); err != nil || v == version1_2 || alg == digest.Canonical {
		return err
	}
	return x.folder.Locked(ctx, func() error { return x.folder.Replace(versionFile, []byte(version1_2.String())) })
}

// has tells whether the blob d is there, as far as Push wants to know it.
func (x *Dir) has(ctx context.Context, d image.Descriptor) bool {
	file, size, err := x.folder.Open(blobFile(d.Digest))
	if err != nil {
		return false
	}
	defer file.Close()
	if d.Size >= 0 {
		return size == d.Size
	}
	r, err := image.Verify(disk.Whole(ctx, file, size), image.Descriptor{Digest: d.Digest, Size: size})
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	return err == nil
}

// store writes the blob under its name, if it is what it is said to be.
func (x *Dir) store(ctx context.Context, d image.Descriptor, content image.Content) error {
	r, err := content.Open(ctx, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	v, err := image.Verify(r, d)
	if err != nil {
		return err
	}
	return x.folder.Write(blobFile(d.Digest), func(w io.Writer) error {
		const piece = 256 << 10
		_, err := io.CopyBuffer(&counter{w, 0, content.Sent}, disk.Reader(ctx, v), make([]byte, piece))
		return err
	})
}

// counter tells how many bytes were written.
type counter struct {
	w    io.Writer
	n    int64
	tell func(int64) // or nil
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if c.tell != nil {
		c.tell(c.n)
	}
	return n, err
}

// pushManifest stores a manifest as one below an index, which is what it is unless it is tagged.
func (x *Dir) pushManifest(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	if found, _, err := x.instance(ctx, d.Digest); err == nil && (d.Size < 0 || d.Size == found.Size) {
		return image.Skipped, nil
	}
	raw, err := readManifest(ctx, d, content)
	if err == nil {
		err = x.storeManifest(d, raw)
	}
	if err == nil && content.Sent != nil {
		content.Sent(int64(len(raw)))
	}
	return how(content), err
}

// readManifest reads a manifest that is about to be stored.
func readManifest(ctx context.Context, d image.Descriptor, content image.Content) ([]byte, error) {
	if d.Size > image.MaxManifest {
		return nil, fmt.Errorf("a manifest of %d bytes, more than %d: %w", d.Size, image.MaxManifest, image.ErrTooLarge)
	}
	r, err := content.Open(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(disk.Reader(ctx, r), image.MaxManifest+1))
	if err == nil && len(raw) > image.MaxManifest {
		err = fmt.Errorf("a manifest of more than %d bytes: %w", image.MaxManifest, image.ErrTooLarge)
	}
	return raw, err
}

// storeManifest stores a manifest, if it is one, and the one that it is said to be.
func (x *Dir) storeManifest(d image.Descriptor, raw []byte) error {
	if err := matches(d, raw); err != nil {
		return err
	}
	return x.folder.Replace(instanceFile(d.Digest), raw)
}

// matches tells whether a manifest is the one that d describes.
func matches(d image.Descriptor, raw []byte) error {
	if d.Size >= 0 && d.Size != int64(len(raw)) {
		return fmt.Errorf("%s: %d bytes came instead of %d: %w", d.Digest, len(raw), d.Size, image.ErrDigest)
	}
	alg := d.Digest.Algorithm()
	got, err := describe(d.MediaType, raw, alg)
	if err != nil { // the wrong bytes may be no manifest either
		got.Digest = alg.FromBytes(raw)
	}
	if got.Digest != d.Digest {
		return fmt.Errorf("%s: the content has the digest %s: %w", d.Digest, got.Digest, image.ErrDigest)
	}
	return err
}

// Tag implements image.Sink, with the tag "" only: it puts the image in the place of the one that is there, in one step, and removes
// what the old one had and the new one has not.
func (x *Dir) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if err := x.tag(ctx, d, raw, tag); err != nil {
		return x.failed("write image", tag, err)
	}
	return nil
}

func (x *Dir) tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if tag != "" {
		return fmt.Errorf("a dir: has one image, and no tags: leave %s away: %w", files.Clean(tag), image.ErrUnsupported)
	}
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	if err := matches(d, raw); err != nil {
		return err
	}
	return x.folder.Locked(ctx, func() error { return x.replace(ctx, d, raw) })
}

// Delete implements image.Sink: ErrUnsupported, since without its image the folder would be of no use.
func (x *Dir) Delete(_ context.Context, ref string) error {
	return x.failed("delete", ref, fmt.Errorf("a dir: has one image: remove the folder instead: %w", image.ErrUnsupported))
}
