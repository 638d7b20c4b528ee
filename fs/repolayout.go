package fs

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout"
)

// repositoryLayout is a whole repository as one OCI image layout: every tag's image, by name. To know what index.json says
// costs a HEAD a tag; a blob that is named costs no more than anywhere else.
type repositoryLayout struct {
	dir
	repo *repository
	path string
}

// newRepositorySite is the layout as it can be written to.
func newRepositorySite(r *repository) *site {
	l := newRepositoryLayout(r)
	return &site{r, stage.Site{Repository: r.at}, l.path, func(context.Context) (Node, error) { return l, nil }}
}

func newRepositoryLayout(r *repository) *repositoryLayout {
	path := r.path + "/" + layoutName
	return &repositoryLayout{dir{attr: Attr{Ino: r.tree.ino(path), Mode: dirMode, Volatile: true}}, r, path}
}

func (l *repositoryLayout) Lookup(_ context.Context, name string) (Node, error) {
	switch name {
	case v1.ImageLayoutFile:
		return l.repo.tree.text(l.path+"/"+name, layoutMarker), nil
	case v1.ImageIndexFile:
		return l.index(), nil
	case v1.ImageBlobsDir:
		return newBlobs(l.repo, l.path+"/"+name, l.blobs), nil
	}
	return nil, fmt.Errorf("%q: %w", name, image.ErrNotFound)
}

// layoutMarker is the content of the file oci-layout (image-spec, image-layout.md).
const layoutMarker = `{"imageLayoutVersion":"` + v1.ImageLayoutVersion + `"}`

func (l *repositoryLayout) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, name := range []string{v1.ImageBlobsDir, v1.ImageIndexFile, v1.ImageLayoutFile} {
			c := child{name: name, ino: l.repo.tree.ino(l.path + "/" + name), dir: name == v1.ImageBlobsDir}
			if !yield(c.entry(), nil) {
				return
			}
		}
	}
}

// index is index.json as it is for the process that asks.
func (l *repositoryLayout) index() Node {
	return &made{ino: l.repo.tree.ino(l.path + "/" + v1.ImageIndexFile), content: func(ctx context.Context) ([]byte, error) {
		roots, err := l.roots(ctx)
		return layout.Index(roots), err
	}}
}

// blobs is all that the layout's images are made of.
func (l *repositoryLayout) blobs(ctx context.Context) ([]image.Descriptor, error) {
	roots, err := l.roots(ctx)
	if err != nil {
		return nil, err
	}
	files, err := layout.OCI(ctx, l.repo.src, roots)
	if err != nil {
		return nil, err
	}
	var all []image.Descriptor
	for _, f := range files {
		if f.Blob != nil {
			all = append(all, *f.Blob)
		}
	}
	return all, nil
}

// headsAtOnce is how many tags are asked for at the same time.
const headsAtOnce = 8

// roots are all tags, resolved once for each process. Schema 1 images can't be in a layout.
func (l *repositoryLayout) roots(ctx context.Context) ([]layout.Root, error) {
	who := callerOf(ctx)
	return l.repo.tree.pins.snapshot(ctx, who, l.repo.path, func(ctx context.Context) ([]layout.Root, error) {
		return l.resolveAll(ctx, who)
	})
}

func (l *repositoryLayout) resolveAll(ctx context.Context, who process) ([]layout.Root, error) {
	var mu sync.Mutex
	var names []string
	found := map[string]image.Descriptor{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(headsAtOnce)
	for name, err := range l.repo.src.Tags(gctx, "") {
		if err != nil {
			g.Go(func() error { return err })
			break
		}
		names = append(names, name)
		g.Go(func() error {
			d, err := l.resolve(gctx, who, name)
			mu.Lock()
			defer mu.Unlock()
			found[name] = d
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return inOrder(names, found), nil
}

// resolve is what a tag names, or nothing if it went away since it was listed.
func (l *repositoryLayout) resolve(ctx context.Context, who process, tag string) (image.Descriptor, error) {
	d, err := l.repo.tree.pins.resolve(ctx, who, l.repo.path, tag, func(ctx context.Context) (image.Descriptor, error) {
		return l.repo.src.Resolve(ctx, tag)
	})
	if isMissing(err) {
		return image.Descriptor{}, nil
	}
	return d, err
}

func inOrder(names []string, found map[string]image.Descriptor) []layout.Root {
	roots := []layout.Root{}
	for _, name := range names {
		if d := found[name]; d.Digest != "" && !image.IsSchema1(d.MediaType) {
			roots = append(roots, layout.Root{Descriptor: d, Tag: name})
		}
	}
	return roots
}
