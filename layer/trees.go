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
	open := func(ctx context.Context, n int) (files, error) { return l.open(ctx, src, layers[n]) }
	report := func(n int, problem string) {
		if l.o.Report != nil {
			l.o.Report(layers[n], problem)
		}
	}
	return newRoot(len(layers), open, report)
}
