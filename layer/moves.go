package layer

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An entry whose folder is a symbolic link at its time is put where that leads, within the root, as by those who unpack: behind
// "lib -> usr/lib", "lib/a" is usr/lib/a. That can move what is below it, too, and change what other entries find; so the tree is
// built again with what was moved under its new name, until nothing moves.
const (
	// maxHops is how many links an entry may go through, as in Linux. It fits into six bits.
	maxHops = 40
	// maxAgain is how many entries may be looked at again.
	maxAgain = 4 * maxEntries
)

var errBelow = errors.New("a folder above it is a file")

// symlink is what a path was a symbolic link to.
type symlink struct {
	seq    uint32
	target textRef
}

// moves are the entries that are not where their names say. What an entry says comes with how many links it went through; only
// what went through the most of them counts.
type moves struct {
	store Store
	last  uint32 // the last entry of the archive
	// entries and meant are how many links each entry went through by its own name, and by that of what it links to.
	entries, meant []uint8
	// moved is what moved in this pass, under its new name.
	moved *sorter
}

func (m *moves) hops(it item) []uint8 {
	if it.kind == isMeant {
		return m.meant
	}
	return m.entries
}

// stale tells that something moved on.
func (m *moves) stale(it item) bool {
	hops := m.hops(it)
	return hops != nil && hops[it.seq] != it.hops
}

// add moves something.
func (m *moves) add(it item) error {
	if m.moved == nil {
		m.moved = &sorter{store: m.store}
	}
	if m.entries == nil {
		m.entries, m.meant = make([]uint8, m.last+1), make([]uint8, m.last+1)
	}
	it.hops++
	m.hops(it)[it.seq] = it.hops
	return m.moved.add(it)
}

// apply adds to a sorter what was moved, and tells whether there was something.
func (m *moves) apply(to *sorter) (bool, error) {
	if m.moved == nil {
		return false, nil
	}
	moved := m.moved
	m.moved = nil
	return true, to.merged(moved)
}

func (m *moves) close() {
	if m.moved != nil {
		m.moved.close()
	}
}

// noteSymlinks notes which of the path's versions are symbolic links.
func (b *builder) noteSymlinks(l *level, g *group) error {
	for _, v := range g.versions {
		if v.kind != isOther || v.data[5]>>4 != unix.S_IFLNK>>12 {
			continue
		}
		d := decoder{b: v.data}
		ref, err := b.text(d.stat().target)
		if err != nil {
			return err
		}
		l.symlinks = append(l.symlinks, symlink{v.seq, ref})
	}
	return nil
}

// move moves something that is below what is no folder at its time, or leaves it out.
func (b *builder) move(it item) error {
	to, err := b.through(it)
	switch {
	case err == nil:
		it.path = to
		return b.moves.add(it)
	case errors.As(err, new(*localError)):
		return err
	case it.kind != isMeant:
		b.problems.add(it.path, err)
	}
	return nil
}

// through is where a path below a symbolic link leads.
func (b *builder) through(it item) (string, error) {
	for _, l := range b.stack[:len(b.stack)-1] {
		e := l.times.before(it.seq)
		if e.now != other {
			continue
		}
		i := slices.IndexFunc(l.symlinks, func(s symlink) bool { return s.seq == e.seq })
		if i < 0 {
			return "", errBelow
		}
		target, err := b.readText(l.symlinks[i].target)
		if err != nil {
			return "", err
		}
		return follow(it, l.path, target)
	}
	return "", errBelow
}

// follow replaces the beginning of a path, a symbolic link, by where it leads.
func follow(it item, link, target string) (string, error) {
	to, err := behind(link, target, it.path[len(link):])
	switch {
	case err != nil:
		return "", fmt.Errorf("behind a symbolic link: %w", err)
	case to == it.path || it.hops == maxHops:
		return "", errors.New("too many symbolic links above it")
	}
	return to, nil
}

// behind is where a path leads that goes on behind a symbolic link: never out of the root.
func behind(link, target, rest string) (string, error) {
	if !strings.HasPrefix(target, "/") {
		target = path.Dir("/"+link) + "/" + target
	}
	return cleanPath(path.Clean("/" + target + rest))
}
