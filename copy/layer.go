package copy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// work is what is done to the bytes of a blob on its way. The zero value is nothing.
type work struct {
	// to is what the tar is compressed with; if it is kept, the bytes are.
	to Algorithm
	// diffID is what the tar must be, if it is known and comes to light.
	diffID digest.Digest
	// measure finds out how long the blob is, and what its tar.
	measure bool
	decrypt bool
	encrypt bool
}

// blob copies a blob, after work if there is any.
func (r *run) blob(ctx context.Context, l layer) (result, error) {
	d := l.Descriptor
	r.Events(Event{Descriptor: d, State: Waiting})
	content, err := r.from.Content(ctx, d)
	if errors.Is(err, image.ErrNotFound) && len(d.URLs) > 0 {
		r.Events(Event{Descriptor: d, State: Done, How: image.Skipped})
		return result{Descriptor: d}, nil
	}
	var other *image.FormError
	if errors.As(err, &other) {
		content, err = image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) { return nil, other }}, nil
	}
	if err != nil {
		r.finish(d, "", err)
		return result{}, err
	}
	if l.work != (work{}) {
		return r.convert(ctx, l, content)
	}
	as := d
	as.MediaType = l.mediaType
	how, err := r.send(ctx, d, as, content)
	if t, ok := image.ParseLayerType(l.mediaType); ok && !t.Encrypted && !r.PreserveDigests && errors.As(err, &other) {
		return r.otherForm(ctx, l, t, content)
	}
	if errors.As(err, &other) && r.PreserveDigests {
		err = fmt.Errorf("%w, and digests are to be preserved: %w", err, image.ErrRefused)
	}
	r.finish(d, how, err)
	return result{Descriptor: d}, err
}

// otherForm copies a layer, of the type t, that the source has only in another form, and the destination not at all.
func (r *run) otherForm(ctx context.Context, l layer, t image.LayerType, content image.Content) (result, error) {
	l.work.to = Gzip
	if t.Compression == image.Uncompressed {
		l.work.to = Uncompressed
	}
	t.Compression = l.work.to.result()
	l.mediaType = t.String()
	got, err := r.convert(ctx, l, content)
	got.MediaType = l.mediaType
	return got, err
}

// convert makes of a layer what its work says, and pushes that.
func (r *run) convert(ctx context.Context, l layer, content image.Content) (result, error) {
	out, err := r.make(ctx, l.Descriptor, content, l.work)
	if err != nil {
		err = fmt.Errorf("convert layer %s: %w", l.Digest, err)
		r.finish(l.Descriptor, "", err)
		return result{}, err
	}
	defer out.close()
	as := out.Descriptor
	as.MediaType = l.mediaType
	if as.Digest == l.Digest {
		l.Size = as.Size // of a schema 1 layer, nobody said
	}
	if out.streams {
		return out.result, r.push(ctx, l.Descriptor, as, out.content)
	}
	return out.result, r.pushQuietly(ctx, l.Descriptor, as, out.content)
}

// pushQuietly pushes what a layer became. Of the layer, as the events call it, everything was read before.
func (r *run) pushQuietly(ctx context.Context, was, d image.Descriptor, content image.Content) error {
	if err := r.room.Acquire(ctx, 1); err != nil {
		return err
	}
	defer r.room.Release(1)
	how, err := r.to.Push(ctx, d, content)
	r.finish(was, how, err)
	return err
}

// output is what a layer became.
type output struct {
	result
	content image.Content
	// streams tells that nothing of the content was read yet.
	streams bool
	close   func()
}

// make opens a layer, in the form in which it is to be had, and works on it.
func (r *run) make(ctx context.Context, d image.Descriptor, content image.Content, w work) (*output, error) {
	if err := r.mills.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer r.mills.Release(1)
	if err := r.room.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer r.room.Release(1)
	r.Events(Event{Descriptor: d, State: Moving})
	src, err := content.Open(ctx, 0)
	if err == nil {
		return r.mill(ctx, d, d, src, w)
	}
	var other *image.FormError
	if !errors.As(err, &other) || other.Want.Digest != d.Digest {
		return nil, err
	}
	return r.makeOther(ctx, d, other.Have, w)
}

// makeOther works on the other form that there is of a layer. If it is what is wanted, it goes as it comes.
func (r *run) makeOther(ctx context.Context, d, have image.Descriptor, w work) (*output, error) {
	content, err := r.from.Content(ctx, have)
	if err != nil {
		return nil, err
	}
	t, ok := image.ParseLayerType(have.MediaType)
	if ok && t.Encrypted {
		return nil, fmt.Errorf("it is here only encrypted, as %s: %w", have.Digest, image.ErrUnsupported)
	}
	w.decrypt, w.measure = false, false
	if w.to == KeepCompression {
		w.to = Gzip
	}
	if ok && t.Compression == image.Uncompressed && w.to == Uncompressed && !w.encrypt && have.Size >= 0 {
		as := result{image.Descriptor{Digest: have.Digest, Size: have.Size}, have.Digest}
		return &output{as, content, true, func() {}}, w.verify(have.Digest)
	}
	src, err := content.Open(ctx, 0)
	if err != nil {
		return nil, err
	}
	return r.mill(ctx, d, have, src, w)
}

// verify judges the tar of a layer.
func (w work) verify(diffID digest.Digest) error {
	if w.diffID != "" && w.diffID != diffID {
		return fmt.Errorf("its tar has the digest %s, and not %s, as the config says: %w", diffID, w.diffID, image.ErrDigest)
	}
	return nil
}
