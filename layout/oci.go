package layout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// OCI lists the files of an OCI image layout that holds roots and all they reach, every platform, each blob once, sorted by
// Name. It reads the manifests and no blob; referrers are not part of it.
//
// What an index names and the repository does not have is left out, as in a mirror of some platforms only, and so are foreign
// layers (those with URLs) that are not in the repository. Docker schema 1 images, whose layers have no sizes and whose digest
// is not that of their bytes, are ErrUnsupported. Other errors are the source's, and ErrInvalid for content that can't be.
func OCI(ctx context.Context, src image.Source, roots []Root) ([]File, error) {
	l := lister{ctx: ctx, src: src, blobs: map[digest.Digest]image.Descriptor{}, optional: map[digest.Digest]bool{}}
	for _, r := range roots {
		if err := l.add(r.Descriptor); err != nil {
			return nil, err
		}
	}
	files := []File{
		{Name: v1.ImageIndexFile, Data: Index(roots)},
		{Name: v1.ImageLayoutFile, Data: marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})},
	}
	for d := range maps.Values(l.blobs) {
		files = append(files, File{Name: blobName(d.Digest), Blob: &d})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

// lister collects what roots reach.
type lister struct {
	ctx   context.Context
	src   image.Source
	blobs map[digest.Digest]image.Descriptor
	// optional are entries of indexes that are no manifests: like those, they need not be here.
	optional map[digest.Digest]bool
}

func (l *lister) add(root image.Descriptor) error {
	return image.Walk(l.ctx, l.src, root, func(d image.Descriptor, m *image.Manifest, err error) error {
		switch {
		case errors.Is(err, image.ErrNotFound) && d.Digest != root.Digest:
			return nil
		case err != nil:
			return err
		case m == nil:
			return l.blob(d)
		}
		return l.manifest(d, m)
	})
}

func (l *lister) manifest(d image.Descriptor, m *image.Manifest) error {
	if image.IsSchema1(m.MediaType) {
		return fmt.Errorf("%s is a Docker schema 1 image, which no layout can hold: %w", d.Digest, image.ErrUnsupported)
	}
	for _, entry := range m.Manifests {
		l.optional[entry.Digest] = true
	}
	return l.keep(d)
}

func (l *lister) blob(d image.Descriptor) error {
	if len(d.URLs) > 0 || l.optional[d.Digest] {
		_, err := l.src.Stat(l.ctx, d.Digest)
		if errors.Is(err, image.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return l.keep(d)
}

func (l *lister) keep(d image.Descriptor) error {
	if err := check(d); err != nil {
		return err
	}
	if _, ok := l.blobs[d.Digest]; !ok {
		l.blobs[d.Digest] = d
	}
	return nil
}
