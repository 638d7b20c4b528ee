package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

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
	count    int // of entries
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
	// The folder's entries so far.
	pending []pending
	names   []byte
}

// pending is an entry whose folder is not complete.
type pending struct {
	ino     uint64
	link    *pendingLink // what a hard link means is known last
	nameEnd uint32
	kind    uint8 // the type, as in a mode's highest four bits
}

// version is one of the entries for a path.
type version struct {
	item
	ino uint64 // 0 as long as it has no record
}

// build makes the tree, and returns the root's number.
func (b *builder) build(s *sorter) (root uint64, err error) {
	var group []version
	for it, err := range s.all() {
		if err != nil {
			return 0, err
		}
		if len(group) > 0 && group[0].path != it.path {
			if err := b.path(group); err != nil {
				return 0, err
			}
			group = group[:0]
		}
		it.data = append([]byte(nil), it.data...)
		if group = append(group, version{item: it}); len(group) > maxVersions+maxLinks {
			return 0, fmt.Errorf("%q is there %d times: %w", it.path, len(group), errTooMuch)
		}
	}
	if len(group) > 0 {
		if err := b.path(group); err != nil {
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
func (b *builder) path(group []version) error {
	l, err := b.enter(group[0].path)
	if err != nil {
		return err
	}
	if err := b.applyAll(l, group); err != nil {
		return err
	}
	if err := b.show(l, group); err != nil {
		return err
	}
	return b.resolve(l, group)
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
func (b *builder) applyAll(l *level, group []version) error {
	var own timeline
	for _, v := range group {
		if v.kind == isMeant {
			continue
		}
		switch before := b.above().times.before(v.seq).now; {
		case l.path != "" && (before == other || before == blocked):
			b.problems.add(v.path, errors.New("a folder above it is a file or a link"))
		case l.path == "" && v.kind != isFolder:
			b.problems.add("/", errors.New("the root is not a folder"))
		case v.kind == isFolder:
			own = append(own, event{v.seq, folder})
		default:
			own = append(own, event{v.seq, other})
		}
	}
	if len(own) > maxVersions {
		return fmt.Errorf("%q is there %d times: %w", l.path, len(own), errTooMuch)
	}
	l.times = l.times.with(own)
	return nil
}

// find is the entry seq of a group.
func find(group []version, seq uint32) *version {
	for i := range group {
		if group[i].seq == seq && group[i].kind != isMeant {
			return &group[i]
		}
	}
	return nil
}

// resolve tells the hard links that mean this path what they mean.
func (b *builder) resolve(l *level, group []version) error {
	for _, m := range group {
		if m.kind != isMeant {
			continue
		}
		switch e := l.times.before(m.seq); e.now {
		case folder:
			b.problems.add(string(m.data), errors.New("a hard link to a folder"))
			b.links.toFolder(m.seq)
		case other:
			if err := b.mean(m.seq, find(group, e.seq)); err != nil {
				return err
			}
		}
	}
	return nil
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
func (b *builder) show(l *level, group []version) error {
	last := l.times.last()
	if last.now != folder && last.now != other {
		return nil
	}
	v := find(group, last.seq)
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
	if err := b.ownName(l, group, v); err != nil {
		return err
	}
	return b.add(l.path, pending{ino: v.ino, kind: v.data[5] >> 4})
}

// ownName notes the name of a file that others may link to.
func (b *builder) ownName(l *level, group []version, v *version) error {
	if !slices.ContainsFunc(group, func(v version) bool { return v.kind == isMeant }) {
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
	into.names = append(into.names, path[strings.LastIndexByte(path, '/')+1:]...)
	p.nameEnd = uint32(len(into.names))
	into.pending = append(into.pending, p)
	return nil
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
		implied := record{mode: unix.S_IFDIR | 0o755, flags: flagImplied}
		l.record = implied.encode()
	}
	binary.LittleEndian.PutUint32(l.record[recordA:], first)
	binary.LittleEndian.PutUint32(l.record[recordA+4:], uint32(len(l.pending)))
	off, err := b.inodes.append(l.record)
	return uint64(off) + 1, err
}

// flush writes a folder's entries, with their names beside one another.
func (b *builder) flush(l *level) error {
	base, err := b.names.append(l.names)
	if err != nil {
		return err
	}
	start := uint32(0)
	for _, p := range l.pending {
		off, err := b.entries.append(encodeEntry(p.ino, p.kind, base+int64(start), p.nameEnd-start))
		if err != nil {
			return err
		}
		if p.link != nil {
			p.link.entry = off
			b.links.links = append(b.links.links, *p.link)
		}
		start = p.nameEnd
	}
	return nil
}

func encodeEntry(ino uint64, kind uint8, nameOff int64, nameLen uint32) []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, entrySize), ino|uint64(kind)<<56)
	return binary.LittleEndian.AppendUint64(b, uint64(nameOff)|uint64(nameLen)<<48)
}
