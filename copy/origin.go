package copy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/regfs/regfs/image"
)

// From copies out of src. at is the repository that src reads, so that places which can take content from there by themselves
// do; it is zero where src is no registry's.
func From(src image.Source, at image.Repository) Origin { return &origin{src, at} }

type origin struct {
	src image.Source
	at  image.Repository
}

func (o *origin) Manifest(ctx context.Context, d image.Descriptor) ([]byte, error) {
	_, raw, err := o.src.Manifest(ctx, d.Digest.String())
	return raw, err
}

// Content is a foreign layer's only if the source has it: asking is what tells.
func (o *origin) Content(ctx context.Context, d image.Descriptor) (image.Content, error) {
	if len(d.URLs) > 0 {
		if _, err := o.src.Stat(ctx, d.Digest); err != nil {
			return image.Content{}, err
		}
	}
	return Stream(o.src, o.at, d), nil
}

// Stream is d as src has it, read when it is wanted, from wherever it is wanted.
func Stream(src image.Source, at image.Repository, d image.Descriptor) image.Content {
	content := image.Content{Remote: true, Open: func(ctx context.Context, off int64) (io.ReadCloser, error) {
		return openAt(ctx, src, d, off)
	}}
	if at != (image.Repository{}) {
		content.Origins = []image.Repository{at}
	}
	return content
}

// openAt reads d from off on, where src can't start there by reading all before it. It asks for a range even of the whole: who
// pushes verifies what comes, and a range is not kept in a cache on its way.
func openAt(ctx context.Context, src image.Source, d image.Descriptor, off int64) (io.ReadCloser, error) {
	if d.Size >= off {
		r, err := src.FetchRange(ctx, d, off, d.Size-off)
		if !errors.Is(err, image.ErrUnsupported) {
			return r, err
		}
	}
	r, err := src.Fetch(ctx, d)
	if err != nil || off == 0 {
		return r, err
	}
	if _, err := io.CopyN(io.Discard, r, off); err != nil {
		r.Close()
		if err == io.EOF {
			err = fmt.Errorf("%s ends before byte %d: %w", d.Digest, off, image.ErrDigest)
		}
		return nil, err
	}
	return r, nil
}
