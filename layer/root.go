package layer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// layerShift is where an inode number has the number of its layer. A layer's own numbers are smaller.
const layerShift = 40

// merge is what the files of one root filesystem share. Layers are numbered from the base up.
type merge struct {
	// open opens a layer, to be released.
	open func(ctx context.Context, layer int) (files, error)
	// report is told what is wrong with a layer.
	report func(layer int, problem string)
	// below are the root folders of the first so many layers merged; the last is the root filesystem.
	below  []*merged
	links  links
	counts counts
}

// newRoot merges so many layers. It opens none.
func newRoot(layers int, open func(context.Context, int) (files, error), report func(int, string)) File {
	m := &merge{open: open, report: report, below: make([]*merged, layers+1)}
	m.links = links{turn: make(chan struct{}, 1), upTo: layers}
	for n := range m.below {
		m.below[n] = newMerged(m, nil, "")
		m.below[n].layers = n
	}
	return m.root()
}

func (m *merge) root() *merged { return m.below[len(m.below)-1] }

// part is a file of one of the layers.
type part struct {
	layer int
	ino   inode
}

func (p part) number() uint64 { return uint64(p.layer)<<layerShift | uint64(p.ino) }

// glance is what one layer says of a name in one of its folders.
type glance struct {
	part
	typ uint32
	// there is a name that the layer has.
	there bool
	// last says that what lower layers have under the name is replaced, or removed.
	last bool
	// opaque is a folder that hides what is in those of lower layers.
	opaque bool
}

// look looks up a name in a folder of one layer.
func (m *merge) look(ctx context.Context, dir part, name string) (glance, error) {
	f, err := m.open(ctx, dir.layer)
	if err != nil {
		return glance{}, err
	}
	defer f.release()
	e, err := f.lookup(dir.ino, name)
	there := err == nil
	if !there && !errors.Is(err, image.ErrNotFound) {
		return glance{}, err
	}
	if there && !isDir(e.Type) {
		return glance{part: part{dir.layer, inode(e.Ino)}, typ: e.Type, there: true, last: true}, nil
	}
	gone, err := has(f, dir.ino, whiteoutPrefix+name)
	if err != nil || !there {
		return glance{last: gone}, err
	}
	opaque, err := has(f, inode(e.Ino), opaqueName)
	return glance{part{dir.layer, inode(e.Ino)}, e.Type, true, gone, opaque}, err
}

// lookRoot looks at the root of one layer.
func (m *merge) lookRoot(ctx context.Context, layer int) (glance, error) {
	f, err := m.open(ctx, layer)
	if err != nil {
		return glance{}, err
	}
	defer f.release()
	opaque, err := has(f, f.root(), opaqueName)
	return glance{part: part{layer, f.root()}, typ: unix.S_IFDIR, there: true, opaque: opaque}, err
}

// node is what a name stands for in the merged layers: a folder, or else a part, which may be a foreign link.
type node struct {
	part
	typ    uint32
	folder *merged
}

// walk goes along a path as far as there are folders. rest is what is left of the path behind a file that is on the way.
func (f *merged) walk(ctx context.Context, path string) (n node, rest string, err error) {
	n = node{folder: f}
	for name := range strings.SplitSeq(path, "/") {
		if n.folder == nil {
			return n, path, nil
		}
		if n, err = n.folder.find(ctx, name); err != nil {
			return node{}, "", err
		}
		path = path[min(len(path), len(name)+1):]
	}
	return n, "", nil
}

// target is the file that a foreign link stands for in the layers below its own, and the path it has there; other files stand for
// themselves.
func (m *merge) target(ctx context.Context, n node) (_ node, path string, err error) {
	hops := maxHops
	return m.follow(ctx, n, &hops)
}

// follow is target, and goes through so many symbolic links at the most. It ends, as each hard link leads further down.
func (m *merge) follow(ctx context.Context, n node, hops *int) (_ node, path string, err error) {
	for n.folder == nil && isForeign(n.typ) {
		info, err := m.stat(ctx, n.part)
		if err != nil {
			return node{}, "", err
		}
		if n, path, err = m.reach(ctx, n.layer, info.Target, hops); err != nil {
			return node{}, "", err
		}
		if n.folder != nil {
			return node{}, "", notFound(path)
		}
	}
	return n, path, nil
}

// reach finds what stands at a path in the first layers, through symbolic links on the way, as link(2) does. They lead to nothing
// outside of the root.
func (m *merge) reach(ctx context.Context, layers int, path string, hops *int) (_ node, real string, err error) {
	for ; *hops >= 0; *hops-- {
		n, rest, err := m.below[layers].walk(ctx, path)
		if err != nil || rest == "" {
			return n, path, err
		}
		if n, _, err = m.follow(ctx, n, hops); err != nil {
			return node{}, "", err
		}
		if n.typ != unix.S_IFLNK {
			break
		}
		info, err := m.stat(ctx, n.part)
		if err != nil {
			return node{}, "", err
		}
		if path, err = behind(path[:len(path)-len(rest)-1], info.Target, "/"+rest); err != nil {
			break
		}
	}
	return node{}, "", notFound(path)
}

// resolve is target for what is shown: a link to nowhere is reported.
func (m *merge) resolve(ctx context.Context, n node) (node, error) {
	t, _, err := m.target(ctx, n)
	if !errors.Is(err, image.ErrNotFound) {
		return t, err
	}
	if err := m.links.take(ctx, m, n.layer); err != nil {
		return node{}, err
	}
	return node{}, err
}

// stat is what a layer says of its file.
func (m *merge) stat(ctx context.Context, p part) (Info, error) {
	f, err := m.open(ctx, p.layer)
	if err != nil {
		return Info{}, err
	}
	defer f.release()
	return f.stat(p.ino)
}

func notFound(name string) error { return fmt.Errorf("look up %q: %w", name, image.ErrNotFound) }
