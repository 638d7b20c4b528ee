package dockerarchive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
	"github.com/regfs/regfs/layout/oci"
)

// repository is the images of one name or, without one, all images. What index.json has goes first.
type repository struct {
	a          *Archive
	host, name string
	layout     *oci.Layout
}

var (
	_ image.Source = (*repository)(nil)
	_ image.Sink   = (*repository)(nil)
)

// String is the repository's full name.
func (r *repository) String() string {
	if r.host == "" {
		return "all images"
	}
	return r.host + "/" + r.name
}

// Resolve implements image.Source.
func (r *repository) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	d, _, err := r.manifest(ctx, ref)
	if err != nil {
		return image.Descriptor{}, r.a.failed("resolve", r.named(ref), err)
	}
	return d, nil
}

// Manifest implements image.Source.
func (r *repository) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	d, raw, err := r.manifest(ctx, ref)
	if err != nil {
		return image.Descriptor{}, nil, r.a.failed("read manifest", r.named(ref), err)
	}
	return d, raw, nil
}

func (r *repository) manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	v, err := r.a.view(ctx)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	if dgst := digest.Digest(ref); dgst.Validate() == nil {
		return r.byDigest(ctx, v, dgst)
	}
	if r.host == "" {
		return r.nameless(ctx, v, ref)
	}
	d, raw, err := r.layout.Manifest(ctx, ref)
	if !errors.Is(err, image.ErrNotFound) {
		return d, raw, inner(err)
	}
	it := r.item(v, ref)
	if it == nil {
		return d, nil, fmt.Errorf("no image has that name: %w", image.ErrNotFound)
	}
	return v.manifest(ctx, it)
}

// nameless is the image at a position or, for "", the only one.
func (r *repository) nameless(ctx context.Context, v *view, ref string) (image.Descriptor, []byte, error) {
	position, ok := strings.CutPrefix(ref, "@")
	if !ok && ref != "" {
		return image.Descriptor{}, nil, fmt.Errorf("a tag needs the name of a repository: %w", image.ErrNotFound)
	}
	if len(v.items) == 0 { // docker could load nothing of it
		d, raw, err := r.layout.Manifest(ctx, ref)
		return d, raw, inner(err)
	}
	it, err := v.at(position, ref == "")
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	return v.manifest(ctx, it)
}

// named is how people write a tag or a digest of the repository.
func (r *repository) named(ref string) string {
	switch {
	case r.host == "":
		return ref
	case digest.Digest(ref).Validate() == nil:
		return r.String() + "@" + ref
	}
	return r.String() + ":" + ref
}

// inner is an error of the layout in the same archive, without what it says of itself.
func inner(err error) error {
	if err == nil {
		return nil
	}
	if e := errors.Unwrap(err); e != nil {
		return e
	}
	return err
}

func (r *repository) byDigest(ctx context.Context, v *view, dgst digest.Digest) (image.Descriptor, []byte, error) {
	d, raw, err := r.layout.Manifest(ctx, dgst.String())
	if !errors.Is(err, image.ErrNotFound) {
		return d, raw, inner(err)
	}
	c, err := v.find(ctx, dgst)
	if err == nil && c.raw == nil {
		err = fmt.Errorf("it is no image: %w", image.ErrNotFound)
	}
	return c.Descriptor, c.raw, err
}

// item is the image that manifest.json has under a tag or, for "", the only one.
func (r *repository) item(v *view, tag string) *item {
	if tag != "" {
		return v.names[fullName{r.host, r.name, tag}]
	}
	var only *item
	for n, it := range v.names {
		if n.host != r.host || n.repository != r.name || it == only {
			continue
		}
		if only != nil || it == nil {
			return nil
		}
		only = it
	}
	return only
}

// at is the image at a position of manifest.json or the only one.
func (v *view) at(position string, only bool) (*item, error) {
	if only && len(v.items) == 1 {
		return v.items[0], nil
	}
	n, err := strconv.ParseUint(position, 10, 31)
	switch {
	case only:
		return nil, fmt.Errorf("there are %d images, name one or its position, as in @0: %w", len(v.items), image.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("@ is for a position, as in @0: %w", image.ErrNotFound)
	case n >= uint64(len(v.items)):
		return nil, fmt.Errorf("images are counted from @0, and there are %d: %w", len(v.items), image.ErrNotFound)
	}
	return v.items[n], nil
}

// manifest is that of an image of manifest.json: the one that index.json lists, or one that is made.
func (v *view) manifest(ctx context.Context, it *item) (image.Descriptor, []byte, error) {
	root, made, err := v.rootOrMade(ctx, it)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	if made != nil {
		return made.Descriptor, made.raw, nil
	}
	d, raw, err := v.a.all.Manifest(ctx, root.String())
	return d, raw, inner(err)
}

func (v *view) rootOrMade(ctx context.Context, it *item) (root digest.Digest, made *content, err error) {
	if err := v.a.loading.Acquire(ctx, 1); err != nil {
		return "", nil, err
	}
	defer v.a.loading.Release(1)
	if root, err = v.root(ctx, it); err != nil || root != "" {
		return root, nil, err
	}
	made, err = v.make(ctx, it)
	return "", made, err
}

// Stat implements image.Source. The size of a compressed layer, which counts uncompressed, takes reading it once.
func (r *repository) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	d, err := r.layout.Stat(ctx, dgst)
	if !errors.Is(err, image.ErrNotFound) {
		return d, err
	}
	c, err := r.find(ctx, dgst)
	if err != nil {
		return image.Descriptor{}, r.a.failed("stat", dgst.String(), err)
	}
	return c.Descriptor, nil
}

func (r *repository) find(ctx context.Context, dgst digest.Digest) (content, error) {
	v, err := r.a.view(ctx)
	if err != nil {
		return content{}, err
	}
	return v.find(ctx, dgst)
}

// Fetch implements image.Source.
func (r *repository) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	f, err := r.layout.Fetch(ctx, d)
	if !errors.Is(err, image.ErrNotFound) {
		return f, err
	}
	if f, err = r.open(ctx, d); err != nil {
		return nil, r.a.failed("fetch", d.Digest.String(), err)
	}
	return image.Verify(f, d)
}

func (r *repository) open(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	c, err := r.find(ctx, d.Digest)
	switch {
	case err != nil:
		return nil, err
	case c.raw != nil:
		return io.NopCloser(&reader{ctx, bytes.NewReader(c.raw)}), nil
	}
	f, _, _, err := r.a.openLayer(ctx, c.path)
	return f, err
}

// FetchRange implements image.Source. A compressed layer that counts uncompressed is ErrUnsupported.
func (r *repository) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	f, err := r.layout.FetchRange(ctx, d, off, n)
	if !errors.Is(err, image.ErrNotFound) {
		return f, err
	}
	if f, err = r.openRange(ctx, d, off, n); err != nil {
		return nil, r.a.failed("fetch", d.Digest.String(), err)
	}
	return f, nil
}

func (r *repository) openRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	c, err := r.find(ctx, d.Digest)
	switch {
	case err != nil:
		return nil, err
	case off < 0 || n < 0 || n > c.Size-off:
		return nil, fmt.Errorf("no %d bytes at %d of %d: %w", n, off, c.Size, image.ErrInvalid)
	case c.raw != nil:
		return io.NopCloser(&reader{ctx, bytes.NewReader(c.raw[off:][:n])}), nil
	}
	return r.a.openPlain(ctx, c.path, off, n)
}

// openPlain opens a part of a file that is not compressed.
func (a *Archive) openPlain(ctx context.Context, where string, off, n int64) (io.ReadCloser, error) {
	file, size, err := a.files.Open(ctx, where)
	if err != nil {
		return nil, err
	}
	packed, err := files.Packed(file)
	switch {
	case err == nil && packed != "":
		err = fmt.Errorf("it is compressed, and can only be read from its start: %w", image.ErrUnsupported)
	case err == nil && n > size-off:
		err = fmt.Errorf("%s has %d bytes now: %w", files.Clean(where), size, image.ErrDigest)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return &layerReader{io.NopCloser(&reader{ctx, io.NewSectionReader(file, off, n)}), file}, nil
}

// Tags implements image.Source: of what index.json and manifest.json have, sorted.
func (r *repository) Tags(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		v, err := r.a.view(ctx)
		if err != nil {
			yield("", r.a.failed("list the tags of", r.String(), err))
			return
		}
		tags := map[string]bool{}
		for n := range v.names {
			if n.host == r.host && n.repository == r.name {
				tags[n.tag] = true
			}
		}
		if len(tags) == 0 && r.host != "" {
			yield("", r.a.failed("list the tags of", r.String(), image.ErrNotFound))
			return
		}
		for _, tag := range slices.Sorted(maps.Keys(tags)) {
			if tag > after && !yield(tag, nil) {
				return
			}
		}
	}
}

// Referrers implements image.Source.
func (r *repository) Referrers(ctx context.Context, d image.Descriptor, artifactType string) iter.Seq2[image.Descriptor, error] {
	return r.layout.Referrers(ctx, d, artifactType)
}

// Close implements image.Source and image.Sink. The archive stays open. A manifest that was pushed is kept, without a name.
func (r *repository) Close() error { return r.layout.Close() }
