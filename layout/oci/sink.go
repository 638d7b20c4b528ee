package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// Expect implements image.Sink: a layout holds everything but Docker schema 1 images.
func (l *Layout) Expect(ctx context.Context, d image.Descriptor, _ []byte) error {
	if err := acceptable(d); err != nil {
		return l.failed("take", d.Digest.String(), err)
	}
	return ctx.Err()
}

// Push implements image.Sink. A blob's file of the right size is taken for the blob; a manifest is read again first, and so is
// what is of unknown size. A manifest with a subject is listed in index.json, without a name, so that it can be found.
func (l *Layout) Push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	how, err := l.push(ctx, d, content)
	if err != nil {
		return "", l.failed("push", d.Digest.String(), err)
	}
	return how, nil
}

func (l *Layout) push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := acceptable(d); err != nil {
		return "", err
	}
	if image.IsManifest(d.MediaType) {
		return l.pushManifest(ctx, d, content)
	}
	if l.has(ctx, d) {
		return image.Skipped, nil
	}
	return how(content), l.store(ctx, d, content)
}

func how(content image.Content) image.How {
	if content.Remote {
		return image.Streamed
	}
	return image.Uploaded
}

// pushManifest looks at what it is before it is stored.
func (l *Layout) pushManifest(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	h := image.Skipped
	raw, err := l.readVerified(ctx, d.Digest)
	if err != nil || d.Size >= 0 && d.Size != int64(len(raw)) {
		h = how(content)
		raw, err = readContent(ctx, d, content)
	}
	if err != nil {
		return "", err
	}
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil {
		return "", err
	}
	if h != image.Skipped {
		err = l.store(ctx, d, memory(raw, content.Sent))
	}
	if err == nil && h != image.Skipped {
		l.unkept.Store(true)
	}
	if err == nil && m.Subject != nil {
		err = l.list(ctx, image.Descriptor{MediaType: m.MediaType, Digest: d.Digest, Size: int64(len(raw))}, "")
	}
	return h, err
}

// readContent reads and verifies a manifest that is about to be stored.
func readContent(ctx context.Context, d image.Descriptor, content image.Content) ([]byte, error) {
	r, err := content.Open(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	v, err := image.Verify(&reader{ctx, r}, d)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(v, image.MaxManifest+1))
	if err == nil && len(raw) > image.MaxManifest {
		err = fmt.Errorf("a manifest of more than %d bytes: %w", image.MaxManifest, image.ErrTooLarge)
	}
	return raw, err
}

// acceptable tells what no layout can hold.
func acceptable(d image.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	if image.IsSchema1(d.MediaType) {
		return fmt.Errorf("no layout can hold a Docker schema 1 image: %w", image.ErrUnsupported)
	}
	if image.IsManifest(d.MediaType) && d.Size > image.MaxManifest {
		return fmt.Errorf("a manifest of %d bytes, more than %d: %w", d.Size, image.MaxManifest, image.ErrTooLarge)
	}
	return nil
}

// has tells whether the blob d is there, as far as Push wants to know it.
func (l *Layout) has(ctx context.Context, d image.Descriptor) bool {
	file, size, err := l.files.Open(ctx, blobPath(d.Digest))
	if err != nil {
		return false
	}
	defer file.Close()
	if d.Size >= 0 {
		return size == d.Size
	}
	r, err := image.Verify(&reader{ctx, file}, image.Descriptor{Digest: d.Digest, Size: size})
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	return err == nil
}

// store writes the content under its name, if it is what it is said to be.
func (l *Layout) store(ctx context.Context, d image.Descriptor, content image.Content) error {
	r, err := content.Open(ctx, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	r, err = image.Verify(&reader{ctx, r}, d)
	if err != nil {
		return err
	}
	return l.files.Write(ctx, blobPath(d.Digest), d.Size, func(w io.Writer) error {
		if content.Sent != nil {
			w = &counter{Writer: w, tell: content.Sent}
		}
		_, err := io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 256<<10))
		return err
	})
}

// counter tells how many bytes were written.
type counter struct {
	io.Writer
	n    int64
	tell func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	c.tell(c.n)
	return n, err
}

// Tag implements image.Sink. A tag is any name that a layout can have. With the tag "", which is no registry's, the image is
// listed without a name, as other programs list what is the only one. An image with a subject needs no tag to be found.
func (l *Layout) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if err := l.tag(ctx, d, raw, tag); err != nil {
		return l.failed("tag", tag, err)
	}
	return nil
}

func (l *Layout) tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if tag != "" && !l.validName(tag) {
		return fmt.Errorf("no image can have that name: %w", image.ErrInvalid)
	}
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil {
		return err
	}
	d.MediaType = m.MediaType
	if _, err := l.push(ctx, d, memory(raw, nil)); err != nil {
		return err
	}
	d.Size = int64(len(raw))
	return l.list(ctx, d, tag)
}

// validName tells whether an image may go by a name: a tag, where there are repositories.
func (l *Layout) validName(name string) bool {
	return image.ValidTag(name) || l.repository == "" && image.ValidLayoutName(name)
}

func memory(raw []byte, sent func(int64)) image.Content {
	return image.Content{Sent: sent, Open: func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw)), nil
	}}
}

// list puts d into index.json. The blobs it names are on the disk before that.
func (l *Layout) list(ctx context.Context, d image.Descriptor, name string) error {
	return l.edit(ctx, d.Digest, func(x *index) bool { return x.put(d, name) })
}

// edit changes index.json, in one step and with nobody else's change lost, when the files of a digest's kind are on the disk.
func (l *Layout) edit(ctx context.Context, dgst digest.Digest, fn func(*index) (changed bool)) error {
	return l.change(ctx, func(x *index, c *files.Change) bool {
		if dgst != "" {
			c.After = []string{blobPath(dgst)}
		}
		return fn(x)
	})
}

// change is edit with more to it than index.json.
func (l *Layout) change(ctx context.Context, fn func(*index, *files.Change) (changed bool)) error {
	unkept := false
	err := l.files.Edit(ctx, func() (c files.Change, err error) {
		unkept = l.unkept.Swap(false) // nobody writes now, and all that was written is kept
		x, err := l.index(ctx)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !fn(x, &c) {
			return files.Change{}, err
		}
		raw := x.bytes()
		if len(raw) > maxIndex {
			return c, fmt.Errorf("index.json would have %d bytes, more than %d: %w", len(raw), maxIndex, image.ErrTooLarge)
		}
		if err := l.mark(ctx, &c); err != nil {
			return c, err
		}
		c.Put = append(c.Put, files.Content{Name: v1.ImageIndexFile, Data: raw})
		return c, nil
	})
	if err != nil && unkept {
		l.unkept.Store(true)
	}
	return err
}

// mark makes files a layout that are none yet.
func (l *Layout) mark(ctx context.Context, c *files.Change) error {
	file, _, err := l.files.Open(ctx, v1.ImageLayoutFile)
	if err == nil {
		return file.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.Put = append(c.Put, files.Content{Name: v1.ImageLayoutFile, Data: marker()})
	return nil
}

// Delete implements image.Sink. With a tag, only its entry in index.json goes. With a digest, all entries of the digest go, and the
// manifest itself; the blobs it names stay in either case, for others may name them too. So may other layouts name a manifest among
// shared blobs: ErrUnsupported.
func (l *Layout) Delete(ctx context.Context, ref string) error {
	if err := l.delete(ctx, ref); err != nil {
		return l.failed("delete", ref, err)
	}
	return nil
}

func (l *Layout) delete(ctx context.Context, ref string) error {
	if dgst := digest.Digest(ref); dgst.Validate() == nil {
		return l.deleteManifest(ctx, dgst)
	}
	found := false
	err := l.edit(ctx, "", func(x *index) bool {
		found = ref != "" && x.remove(func(e entry) bool { return e.name == ref })
		return found
	})
	if err == nil && !found {
		err = fmt.Errorf("no image has that name: %w", image.ErrNotFound)
	}
	return err
}

// deleteManifest takes a manifest out of index.json first, so that it never names what is not there. One that another repository
// has a name for stays.
func (l *Layout) deleteManifest(ctx context.Context, dgst digest.Digest) error {
	_, _, err := l.readManifest(ctx, dgst, "")
	if err != nil && !errors.Is(err, image.ErrDigest) {
		return err
	}
	if l.shared {
		return fmt.Errorf("its blobs are shared with other layouts: delete its tags: %w", image.ErrUnsupported)
	}
	return l.change(ctx, func(x *index, c *files.Change) bool {
		x.remove(func(e entry) bool { return e.Digest == dgst && !e.foreign })
		if _, listed := x.find(func(e entry) bool { return e.Digest == dgst }); !listed {
			c.Remove = []string{blobPath(dgst)}
		}
		return true
	})
}
