package layer

import (
	"context"

	"github.com/regfs/regfs/image"
)

// Tree is the folder of what one layer contains. It opens nothing yet. src must be of a type that == works for.
func (l *Layers) Tree(src image.Source, d image.Descriptor, w Whiteouts) File {
	return newTree(func(ctx context.Context) (files, error) { return l.open(ctx, src, d) }, w)
}

// Root is the root folder of an image's layers, the base first, merged as the image-spec says (layer.md, "Applying Changesets").
// It opens nothing yet, and uses layers only as they are needed, from the top down. src must be of a type that == works for.
func (l *Layers) Root(src image.Source, layers []image.Descriptor) File {
	open := func(ctx context.Context, n int) (files, error) {
		if n > 0 {
			defer l.ahead(src, layers[n], layers[n-1])()
		}
		return l.open(ctx, src, layers[n])
	}
	report := func(n int, problem string) {
		if l.o.Report != nil {
			l.o.Report(layers[n], problem)
		}
	}
	return newRoot(len(layers), open, report)
}

// ahead has the layer below indexed while somebody waits for the index of one: who looks for a name mostly finds it further down. The
// build ends soon after stop is called, unless somebody wants it by then.
func (l *Layers) ahead(src image.Source, d, below image.Descriptor) (stop func()) {
	if l.isOpen(d) {
		return func() {}
	}
	ctx, stop := context.WithCancel(l.ctx)
	// Refused only when all is closing.
	_ = l.spawn(func() {
		if f, err := l.open(ctx, src, below); err == nil {
			f.release()
		}
	})
	return stop
}
