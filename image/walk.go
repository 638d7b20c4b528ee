package image

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// How much one image may be, so that a hostile index costs a bounded walk. Real ones stay far below.
const (
	maxDepth       = 8
	maxDescriptors = 100_000
)

// Walk visits root, which is a manifest or an index, and all it reaches, parents before children and each digest once. For a
// manifest or an index, fn gets what it says, or the error that kept it from being read: fn returns nil to go on without what
// lies below it. For blobs both are nil. Subjects and referrers are not visited. Walk ends with fn's first error.
func Walk(ctx context.Context, src Source, root Descriptor, fn func(d Descriptor, m *Manifest, err error) error) error {
	w := walk{ctx: ctx, src: src, fn: fn, seen: map[digest.Digest]bool{}}
	return w.visit(root, 0)
}

type walk struct {
	ctx  context.Context
	src  Source
	fn   func(Descriptor, *Manifest, error) error
	seen map[digest.Digest]bool
}

func (w *walk) visit(d Descriptor, depth int) error {
	if w.seen[d.Digest] {
		return nil
	}
	w.seen[d.Digest] = true
	if len(w.seen) > maxDescriptors || depth > maxDepth {
		return fmt.Errorf("%s: more than %d descriptors or %d indexes deep: %w", d.Digest, maxDescriptors, maxDepth, ErrInvalid)
	}
	if !IsManifest(d.MediaType) {
		return w.fn(d, nil, nil)
	}
	_, raw, err := w.src.Manifest(w.ctx, d.Digest.String())
	var m *Manifest
	if err == nil {
		m, err = ParseManifest(d.MediaType, raw)
	}
	if err := w.fn(d, m, err); err != nil || m == nil {
		return err
	}
	for _, child := range m.Children() {
		if err := w.visit(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}
