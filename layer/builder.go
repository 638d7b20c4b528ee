package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// builder makes the tree of an index out of sorted items: it applies the entries of an archive as if they were unpacked one after
// another. What can't be there is left out, and told.
type builder struct {
	names   *section // of entries
	entries *section // see entrySize
	inodes  *section // records; an inode's number is where its record is, and one more
	texts   *section // paths and targets of hard links
	links   linker

	stack    []*level
	moves    *moves
	count    int // of entries
	linked   int // of hard links
	problems *problems
}

// entrySize is how long an entry of a folder is: the inode's number with the type in the highest byte, and where the name is with its
// length in the two highest bytes.
const entrySize = 16

// level is a path that is being worked on: the last one, and all folders above it.
type level struct {
	path  string
	times timeline
	// record is that of the folder, if an entry describes it.
	record []byte
	// symlinks is what the path was a symbolic link to, and by which entry.
	symlinks []symlink
	// The folder's entries so far. The names of the last ones are not in the section yet.
	pending []pending
	written int
	names   []byte
}

// pending is an entry whose folder is not complete.
type pending struct {
	ino     uint64
	link    *pendingLink // what a hard link means is known last
	name    int64        // where the name is, in the level's names or in the section
	nameLen uint8
	kind    uint8 // the type, as in a mode's highest four bits
}

// build makes the tree, and returns the root's number.
func (b *builder) build(s *sorter) (root uint64, err error) {
	var g group
	for it, err := range s.all() {
		if err != nil {
			return 0, err
		}
		if b.moves.stale(it) {
			continue
		}
		if !g.empty() && g.path != it.path {
			if err := b.path(&g); err != nil {
				return 0, err
			}
			g.reset()
		}
		if err := g.add(it); err != nil {
			return 0, err
		}
	}
	if !g.empty() {
		if err := b.path(&g); err != nil {
			return 0, err
		}
	}
	return b.finish()
}

// finish closes all folders.
func (b *builder) finish() (uint64, error) {
	for len(b.stack) > 1 {
		if err := b.pop(); err != nil {
			return 0, err
		}
	}
	return b.folder(b.stack[0])
}

// path works on all that is said of one path.
func (b *builder) path(g *group) error {
	l, err := b.enter(g.path)
	if err != nil {
		return err
	}
	if err := b.applyAll(l, g); err != nil {
		return err
	}
	if err := b.noteSymlinks(l, g); err != nil {
		return err
	}
	if err := b.show(l, g); err != nil {
		return err
	}
	return b.resolve(l, g)
}

// enter makes a path's level the last one.
func (b *builder) enter(path string) (*level, error) {
	for !isBelow(path, b.top().path) {
		if err := b.pop(); err != nil {
			return nil, err
		}
	}
	for b.top().path != path {
		parent := b.top()
		rest := path[len(parent.path):]
		if parent.path != "" {
			rest = rest[1:]
		}
		name, _, _ := strings.Cut(rest, "/")
		b.stack = append(b.stack, &level{path: join(parent.path, name), times: parent.times.below()})
	}
	return b.top(), nil
}

func (b *builder) top() *level { return b.stack[len(b.stack)-1] }

func (b *builder) above() *level { return b.stack[max(0, len(b.stack)-2)] }

func isBelow(path, folder string) bool {
	return folder == "" || path == folder || strings.HasPrefix(path, folder) && path[len(folder)] == '/'
}

func join(folder, name string) string {
	if folder == "" {
		return name
	}
	return folder + "/" + name
}

// applyAll adds what the entries do to the path's timeline.
func (b *builder) applyAll(l *level, g *group) error {
	var own timeline
	for _, v := range g.versions {
		switch before := b.above().times.before(v.seq).now; {
		case l.path != "" && (before == other || before == blocked):
			if err := b.move(v.item); err != nil {
				return err
			}
		case l.path == "" && v.kind != isFolder:
			b.problems.add("/", errors.New("the root is not a folder"))
		case v.kind == isFolder:
			own = append(own, event{v.seq, folder})
		default:
			own = append(own, event{v.seq, other})
		}
	}
	if l.times = l.times.with(own); len(l.times) > maxVersions {
		return fmt.Errorf("%q changes %d times: %w", l.path, len(l.times), errTooMuch)
	}
	return nil
}

// resolve tells the hard links that mean this path what they mean.
func (b *builder) resolve(l *level, g *group) error {
	for _, m := range g.meant {
		var err error
		switch e := l.times.before(m.seq); e.now {
		case folder:
			b.links.toFolder(m.seq)
		case other:
			err = b.mean(m.seq, g.find(e.seq))
		case blocked:
			err = b.move(item{path: g.path, seq: m.seq, kind: isMeant, hops: m.hops})
		case absent:
			err = b.lower(m, g.path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lower notes that a hard link means a file of a lower layer, if that is not under the name that the archive has for it.
func (b *builder) lower(m use, path string) error {
	if m.hops == 0 {
		return nil
	}
	ref, err := b.text(path)
	b.links.movedTo(m.seq, ref)
	return err
}

// mean tells a hard link that it means v.
func (b *builder) mean(link uint32, v *version) error {
	m := meaning{seq: link, via: v.seq}
	if v.kind == isLink {
		if err := b.meanLink(v); err != nil {
			return err
		}
		return b.links.resolve(m)
	}
	if err := b.write(v); err != nil {
		return err
	}
	m.ino, m.kind = v.ino, v.data[5]>>4
	return b.links.resolve(m)
}

// meanLink keeps the target of a hard link that another one means.
func (b *builder) meanLink(v *version) error {
	if _, known := b.links.targets[v.seq]; known {
		return nil
	}
	target, err := b.text(string(v.data))
	if err == nil {
		b.links.toLink(v.seq, target)
	}
	return err
}

// show puts what is at the path in the end into its folder, or leaves it to pop, if it is one itself.
func (b *builder) show(l *level, g *group) error {
	last := l.times.last()
	if last.now != folder && last.now != other {
		return nil
	}
	v := g.find(last.seq)
	switch {
	case last.now == folder:
		if v != nil {
			l.record = v.data
		}
		return nil
	case v == nil:
		return nil
	case v.kind == isLink:
		return b.addLink(l, v)
	}
	binary.LittleEndian.PutUint32(v.data[recordA:], 1)
	if err := b.write(v); err != nil {
		return err
	}
	if err := b.ownName(l, g, v); err != nil {
		return err
	}
	return b.add(l.path, pending{ino: v.ino, kind: v.data[5] >> 4})
}

// ownName notes the name of a file that others may link to.
func (b *builder) ownName(l *level, g *group, v *version) error {
	if len(g.meant) == 0 {
		return nil
	}
	ref, err := b.text(l.path)
	b.links.own = append(b.links.own, inodeName{v.ino, ref})
	return err
}

// write gives a version its inode.
func (b *builder) write(v *version) error {
	if v.ino != 0 {
		return nil
	}
	off, err := b.inodes.append(v.data)
	v.ino = uint64(off) + 1
	return err
}

func (b *builder) addLink(l *level, v *version) error {
	if b.linked++; b.linked > maxLinks {
		return fmt.Errorf("more than %d hard links: %w", maxLinks, errTooMuch)
	}
	path, err := b.text(l.path)
	if err != nil {
		return err
	}
	target, err := b.text(string(v.data))
	if err != nil {
		return err
	}
	return b.add(l.path, pending{link: &pendingLink{seq: v.seq, path: path, target: target}})
}

func (b *builder) text(s string) (textRef, error) {
	off, err := b.texts.append([]byte(s))
	return textRef{off, uint32(len(s))}, err
}

// add makes an entry in the folder above the last level.
func (b *builder) add(path string, p pending) error {
	if b.count++; b.count > maxEntries {
		return fmt.Errorf("more than %d files: %w", maxEntries, errTooMuch)
	}
	into := b.above()
	name := path[strings.LastIndexByte(path, '/')+1:]
	p.name, p.nameLen = int64(len(into.names)), uint8(len(name))
	into.names = append(into.names, name...)
	if into.pending = append(into.pending, p); len(into.names) > namesMemory {
		return b.writeNames(into)
	}
	return nil
}

// namesMemory is how many bytes of a folder's names are in memory at once.
const namesMemory = 256 << 10

// writeNames writes a folder's names beside one another.
func (b *builder) writeNames(l *level) error {
	base, err := b.names.append(l.names)
	for i := range l.pending[l.written:] {
		l.pending[l.written+i].name += base
	}
	l.names, l.written = l.names[:0], len(l.pending)
	return err
}

// pop ends the last level. A folder that nobody describes is there if something is in it.
func (b *builder) pop() error {
	l := b.top()
	is := l.times.last().now
	if is == folder || is == absent && len(l.pending) > 0 {
		ino, err := b.folder(l)
		if err != nil {
			return err
		}
		if err := b.add(l.path, pending{ino: ino, kind: unix.S_IFDIR >> 12}); err != nil {
			return err
		}
	}
	b.stack = b.stack[:len(b.stack)-1]
	return nil
}

// folder writes a folder's entries and its inode.
func (b *builder) folder(l *level) (uint64, error) {
	first := uint32(b.entries.size / entrySize)
	if err := b.flush(l); err != nil {
		return 0, err
	}
	if l.record == nil {
		implied := record{mode: unix.S_IFDIR | 0o755, flags: flagImplied, mtime: time.Unix(0, 0)}
		l.record = implied.encode()
	}
	binary.LittleEndian.PutUint32(l.record[recordA:], first)
	binary.LittleEndian.PutUint32(l.record[recordA+4:], uint32(len(l.pending)))
	off, err := b.inodes.append(l.record)
	return uint64(off) + 1, err
}

// flush writes a folder's entries.
func (b *builder) flush(l *level) error {
	if err := b.writeNames(l); err != nil {
		return err
	}
	for _, p := range l.pending {
		off, err := b.entries.append(encodeEntry(p.ino, p.kind, p.name, p.nameLen))
		if err != nil {
			return err
		}
		if p.link != nil {
			p.link.entry = off
			b.links.links = append(b.links.links, *p.link)
		}
	}
	return nil
}

func encodeEntry(ino uint64, kind uint8, nameOff int64, nameLen uint8) []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, entrySize), ino|uint64(kind)<<56)
	return binary.LittleEndian.AppendUint64(b, uint64(nameOff)|uint64(nameLen)<<48)
}
