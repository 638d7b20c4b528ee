package layer

import (
	"cmp"
	"fmt"
	"slices"
)

// group is all that an archive says of one path, in the order of its entries.
type group struct {
	path     string
	versions []version
	// meant are the hard links that mean the path.
	meant []use
	size  int
}

// version is one of the entries for a path.
type version struct {
	item
	ino uint64 // 0 as long as it has no record
}

// use is a hard link, by its entry.
type use struct {
	seq  uint32
	hops uint8
}

// maxGroup is how many bytes may be said of one path, in all of its versions.
const maxGroup = 64 << 20

func (g *group) empty() bool { return len(g.versions)+len(g.meant) == 0 }

func (g *group) reset() { *g = group{versions: g.versions[:0], meant: g.meant[:0]} }

// add adds an item of the group's path, or the first one.
func (g *group) add(it item) error {
	if g.empty() {
		g.path = it.path
	}
	if it.kind == isMeant {
		g.meant = append(g.meant, use{it.seq, it.hops})
	} else {
		it.path, it.data = g.path, slices.Clone(it.data)
		g.versions, g.size = append(g.versions, version{item: it}), g.size+len(it.data)
	}
	if len(g.versions) > maxVersions || len(g.meant) > maxLinks || g.size > maxGroup {
		return fmt.Errorf("%q is there %d times, with %d bytes, and %d hard links mean it: %w", it.path, len(g.versions), g.size, len(g.meant), errTooMuch)
	}
	return nil
}

// find is the entry seq, or nil.
func (g *group) find(seq uint32) *version {
	i, ok := slices.BinarySearchFunc(g.versions, seq, func(v version, seq uint32) int { return cmp.Compare(v.seq, seq) })
	if !ok {
		return nil
	}
	return &g.versions[i]
}
