package fs

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/regfs/regfs/image"
)

// child is one name of a folder whose names are all known at once.
type child struct {
	name   string
	ino    uint64
	dir    bool
	hidden bool // found by name, not listed
	node   func(ctx context.Context) (Node, error)
}

func (c child) entry() Entry {
	if c.dir {
		return dirEntry(c.name, c.ino)
	}
	return fileEntry(c.name, c.ino)
}

// childCost is about what a child takes in memory, in bytes.
const childCost = 512

// part is some of a folder's children: which names they can have, and what they are. A folder is made of parts so that a
// lookup asks only for what can tell the name it looks for, and of nobody for a name like .git.
//
// A part that is not found has no children; and what was made of something that lacks a part is not kept, since that may come.
type part struct {
	may  func(name string) bool
	make func(ctx context.Context) (children []child, keep bool, err error)
}

// anyOf is a part that has some of these names.
func anyOf(names []string, make func(context.Context) ([]child, error)) part {
	return part{func(name string) bool { return slices.Contains(names, name) }, whole(make)}
}

// whole makes children that lack nothing.
func whole(make func(context.Context) ([]child, error)) func(context.Context) ([]child, bool, error) {
	return func(ctx context.Context) ([]child, bool, error) {
		children, err := make(ctx)
		return children, true, err
	}
}

// free is a part that sends no request, and so may have any names.
func free(make func() []child) part {
	return part{func(string) bool { return true }, func(context.Context) ([]child, bool, error) { return make(), true, nil }}
}

// folder is a folder whose names come from what stands behind it, and never change.
type folder struct {
	dir
	tree *Tree
	// key tells what the children are remembered under.
	key   string
	parts []part
}

func (t *Tree) folder(key string, parts ...part) *folder {
	return &folder{dir{attr: Attr{Ino: t.ino(key), Mode: dirMode, Fixed: true}}, t, key, parts}
}

func (f *folder) Lookup(ctx context.Context, name string) (Node, error) {
	for i, p := range f.parts {
		if !p.may(name) {
			continue
		}
		children, err := f.children(ctx, i)
		if err != nil {
			return nil, err
		}
		if n, ok := slices.BinarySearchFunc(children, name, func(c child, name string) int { return strings.Compare(c.name, name) }); ok {
			return children[n].node(ctx)
		}
	}
	return nil, fmt.Errorf("%q: %w", name, image.ErrNotFound)
}

func (f *folder) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for i := range f.parts {
			children, err := f.children(ctx, i)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, c := range children {
				if !c.hidden && !yield(c.entry(), nil) {
					return
				}
			}
		}
	}
}

// children are those of one part, sorted by name.
func (f *folder) children(ctx context.Context, i int) ([]child, error) {
	key := fmt.Sprintf("%s\x00%d", f.key, i)
	if children, ok := f.tree.lists.peek(key); ok {
		return children, nil
	}
	children, keep, err := f.parts[i].make(ctx)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	slices.SortStableFunc(children, func(a, b child) int { return strings.Compare(a.name, b.name) })
	children = slices.CompactFunc(children, func(a, b child) bool { return a.name == b.name })
	if keep {
		f.tree.lists.put(key, children, childCost*(len(children)+1))
	}
	return children, nil
}

func ignoreMissing(err error) error {
	if isMissing(err) {
		return nil
	}
	return err
}

// leaf is a file that stands below a slash path in a folder.
type leaf struct {
	path string
	ino  uint64
	node func(ctx context.Context) (Node, error)
}

// leaves makes all leaves of a folder, sorted by path; keep is as for a part.
type leaves func(ctx context.Context) (all []leaf, keep bool, err error)

// nested makes folders of leaves: the children of the one at prefix, which is "" or ends in a slash.
func (t *Tree) nested(key, prefix string, from leaves) func(context.Context) ([]child, bool, error) {
	return func(ctx context.Context) ([]child, bool, error) {
		all, keep, err := from(ctx)
		if err != nil {
			return nil, false, err
		}
		return t.level(key, prefix, all, from), keep, nil
	}
}

// level is one folder of leaves. What is a leaf and a folder too is the leaf.
func (t *Tree) level(key, prefix string, all []leaf, from leaves) []child {
	var children []child
	for _, l := range all {
		rest, ok := strings.CutPrefix(l.path, prefix)
		if !ok {
			continue
		}
		name, _, deeper := strings.Cut(rest, "/")
		if !deeper {
			children = append(children, child{name: name, ino: l.ino, node: l.node})
		} else if len(children) == 0 || children[len(children)-1].name != name {
			children = append(children, t.nestedDir(key, prefix, name, from))
		}
	}
	return children
}

func (t *Tree) nestedDir(key, prefix, name string, from leaves) child {
	sub := prefix + name + "/"
	f := t.folder(key+"/"+sub, part{func(string) bool { return true }, t.nested(key, sub, from)})
	return child{name: name, ino: f.attr.Ino, dir: true, node: func(context.Context) (Node, error) { return f, nil }}
}

// sorted puts leaves in the order of their paths.
func sorted(leaves []leaf) []leaf {
	slices.SortFunc(leaves, func(a, b leaf) int { return strings.Compare(a.path, b.path) })
	return leaves
}
