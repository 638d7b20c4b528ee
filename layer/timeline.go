package layer

import (
	"cmp"
	"slices"
	"sort"
)

// state is what is at a path at one time while an archive is unpacked.
type state byte

const (
	absent  state = iota
	folder        // a folder
	other         // anything else
	blocked       // nothing, and nothing can be: a folder above it is something else
)

// event is a change of what is at a path, by the entry seq.
type event struct {
	seq uint32
	now state
}

// timeline is all that happens at a path, in order.
type timeline []event

// before is the state at a path just before an entry, and which entry made it so.
func (t timeline) before(seq uint32) event {
	i := sort.Search(len(t), func(i int) bool { return t[i].seq >= seq })
	if i == 0 {
		return event{}
	}
	return t[i-1]
}

// last is how it ends.
func (t timeline) last() event {
	if len(t) == 0 {
		return event{}
	}
	return t[len(t)-1]
}

// below is what happens to the things in the folder: what is not a folder any more has nothing in it.
func (t timeline) below() timeline {
	var child timeline
	for _, e := range t {
		was := child.last().now
		switch e.now {
		case other, blocked:
			child = append(child, event{e.seq, blocked})
		case folder, absent:
			if was == blocked || e.now == absent {
				child = append(child, event{e.seq, absent})
			}
		}
	}
	return child
}

// with adds events.
func (t timeline) with(more timeline) timeline {
	all := append(slices.Clone(t), more...)
	slices.SortStableFunc(all, func(a, b event) int { return cmp.Compare(a.seq, b.seq) })
	return all
}
