package layer

import (
	"context"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// merged is a folder of the root filesystem: those of the layers that are not hidden, merged. Which these are is found out only as
// far down as it matters, as every layer that is looked at must have been indexed.
type merged struct {
	m *merge
	// up is the folder it is in, under this name. The root has none.
	up   *merged
	name string
	// layers is how many layers a root merges.
	layers int
	known  atomic.Pointer[parts]
}

// parts are the folders of the layers that are merged, the topmost first.
type parts struct {
	found []part
	// opaque is how many there are down to the first that hides what is in those below; 0 if none does. These others still tell what
	// the folder is like, if no entry of a layer above describes it.
	opaque int
	// next is the next place to look at: the layer of a root, from the top down, or the part of the folder that this one is in.
	next int
	// done says that there are no more.
	done bool
}

func newMerged(m *merge, up *merged, name string) *merged {
	f := &merged{m: m, up: up, name: name}
	f.known.Store(&parts{})
	return f
}

// part is one of the merged folders, the topmost being 0, if there are so many.
func (f *merged) part(ctx context.Context, i int) (p part, ok bool, err error) {
	return f.at(ctx, i, false)
}

// at is part; it may count those of which the content is hidden, too.
func (f *merged) at(ctx context.Context, i int, hidden bool) (p part, ok bool, err error) {
	for {
		known := f.known.Load()
		switch {
		case !hidden && known.hides(i):
			return part{}, false, nil
		case i < len(known.found):
			return known.found[i], true, nil
		case known.done:
			return part{}, false, nil
		}
		g, err := f.look(ctx, known.next)
		if err != nil {
			return part{}, false, err
		}
		f.known.CompareAndSwap(known, known.with(g))
	}
}

func (k *parts) hides(i int) bool { return k.opaque > 0 && i >= k.opaque }

// look looks for a part in the n-th place.
func (f *merged) look(ctx context.Context, n int) (glance, error) {
	if f.up == nil {
		if n == f.layers {
			return glance{last: true}, nil
		}
		return f.m.lookRoot(ctx, f.layers-1-n)
	}
	p, ok, err := f.up.part(ctx, n)
	if err != nil || !ok {
		return glance{last: true}, err
	}
	return f.m.look(ctx, p, f.name)
}

// with is what is known after one more look.
func (k *parts) with(g glance) *parts {
	next := &parts{k.found, k.opaque, k.next + 1, g.last}
	if g.there && isDir(g.typ) {
		next.found = append(slices.Clip(k.found), g.part)
	}
	if g.opaque && k.opaque == 0 {
		next.opaque = len(next.found)
	}
	return next
}

// find looks up a name in one layer after the other, until one has it or has removed it.
func (f *merged) find(ctx context.Context, name string) (node, error) {
	if isReserved(name) {
		return node{}, notFound(name)
	}
	for i := 0; ; i++ {
		p, ok, err := f.part(ctx, i)
		if err != nil {
			return node{}, err
		}
		if !ok {
			return node{}, notFound(name)
		}
		g, err := f.m.look(ctx, p, name)
		if err != nil {
			return node{}, err
		}
		if g.there {
			return f.node(g, name, i), nil
		}
		if g.last {
			return node{}, notFound(name)
		}
	}
}

// node is what was found in the i-th part.
func (f *merged) node(g glance, name string, i int) node {
	n := node{part: g.part, typ: g.typ}
	if isDir(g.typ) {
		n.folder = newMerged(f.m, f, name)
		n.folder.known.Store((&parts{next: i}).with(g))
	}
	return n
}

func (f *merged) Lookup(ctx context.Context, name string) (File, error) {
	n, err := f.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if n.folder != nil {
		return n.folder, nil
	}
	if n, err = f.m.resolve(ctx, n); err != nil {
		return nil, err
	}
	return &leaf{f.m, n.part}, nil
}

func (f *merged) Stat(ctx context.Context) (Info, error) {
	top, ok, err := f.part(ctx, 0)
	if err != nil {
		return Info{}, err
	}
	if !ok { // an image without layers
		return Info{Ino: 1, Mode: unix.S_IFDIR | 0o755, Links: 1, Implied: true}, nil
	}
	_, info, err := f.described(ctx, top)
	info.Ino, info.Links = top.number(), 1
	return info, err
}

// described is the topmost part that an entry of its layer describes, or else the topmost.
func (f *merged) described(ctx context.Context, top part) (part, Info, error) {
	for i := 0; ; i++ {
		p, ok, err := f.at(ctx, i, true)
		if err != nil {
			return part{}, Info{}, err
		}
		if !ok {
			p = top
		}
		info, err := f.m.stat(ctx, p)
		if err != nil || !ok || !info.Implied {
			return p, info, err
		}
	}
}

func (f *merged) Xattrs(ctx context.Context) (map[string]string, error) {
	top, ok, err := f.part(ctx, 0)
	if err != nil || !ok {
		return nil, err
	}
	p, _, err := f.described(ctx, top)
	if err != nil {
		return nil, err
	}
	return f.m.xattrs(ctx, p)
}

func (f *merged) ReadAt(context.Context, []byte, int64) (int, error) {
	return 0, unix.EISDIR
}

// maxOpening is how many layers are opened at once.
const maxOpening = 8

// all are all parts. When all layers matter, they are indexed at the same time.
func (f *merged) all(ctx context.Context) ([]part, error) {
	if r := f.undecided(); r != nil {
		var opening errgroup.Group
		opening.SetLimit(maxOpening)
		for layer := r.layers - 1 - r.known.Load().next; layer >= 0; layer-- {
			opening.Go(func() error {
				if l, err := f.m.open(ctx, layer); err == nil {
					l.release()
				}
				return nil // an error is told to who needs the layer
			})
		}
		opening.Wait()
	}
	for i := 0; ; i++ {
		if _, ok, err := f.part(ctx, i); err != nil {
			return nil, err
		} else if !ok {
			return f.known.Load().found[:i:i], nil
		}
	}
}

// undecided is the root, unless it is known without further layers which parts there are.
func (f *merged) undecided() *merged {
	for {
		known := f.known.Load()
		if known.done || known.opaque > 0 {
			return nil
		}
		if f.up == nil {
			return f
		}
		f = f.up
	}
}
