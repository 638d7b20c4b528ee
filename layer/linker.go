package layer

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// linker finds out which inodes the hard links of an archive mean.
type linker struct {
	// means has, for each hard link by its seq, what it links to. A link that is not there means a file that the archive does not have.
	means []meaning
	// links are those hard links that are there in the end.
	links []pendingLink
	// own are the names that files have by themselves, where links mean them, too.
	own []inodeName
	// targets are those of hard links that others mean.
	targets map[uint32]textRef
	// folders are hard links to folders, which are nothing.
	folders map[uint32]bool
	// moved is where files of lower layers are that hard links mean, if not under the names that the archive has for them.
	moved map[uint32]textRef
}

// meaning is what a hard link means: an inode, or another hard link.
type meaning struct {
	seq  uint32
	ino  uint64 // 0 where it is what the hard link via means
	via  uint32
	kind uint8
}

// pendingLink is the entry of a hard link.
type pendingLink struct {
	seq          uint32
	entry        int64 // where it is in builder.entries
	path, target textRef
}

// textRef is where a text is in builder.texts.
type textRef struct {
	off int64
	len uint32
}

// inodeName is one of the names of an inode with several.
type inodeName struct {
	ino  uint64
	path textRef
}

// nameSize is how long an inodeName is in an index: the inode's number, and where the path is with its length in the two highest bytes.
const nameSize = 16

func (n inodeName) encode(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, n.ino)
	return binary.LittleEndian.AppendUint64(b, uint64(n.path.off)|uint64(n.path.len)<<48)
}

func (l *linker) resolve(m meaning) error {
	if len(l.means) == maxLinks {
		return fmt.Errorf("more than %d hard links: %w", maxLinks, errTooMuch)
	}
	l.means = append(l.means, m)
	return nil
}

func (l *linker) toFolder(seq uint32) {
	if l.folders == nil {
		l.folders = map[uint32]bool{}
	}
	l.folders[seq] = true
}

func (l *linker) toLink(seq uint32, target textRef) {
	if l.targets == nil {
		l.targets = map[uint32]textRef{}
	}
	l.targets[seq] = target
}

func (l *linker) movedTo(seq uint32, path textRef) {
	if l.moved == nil {
		l.moved = map[uint32]textRef{}
	}
	l.moved[seq] = path
}

// find is what a hard link means in the end, or the last link on the way, which means a file that the archive does not have. A link
// that is meant is an earlier one, so this ends.
func (l *linker) find(seq uint32) (m meaning, last uint32, ok bool) {
	for {
		i, ok := slices.BinarySearchFunc(l.means, seq, func(m meaning, seq uint32) int { return cmp.Compare(m.seq, seq) })
		if !ok {
			return meaning{}, seq, false
		}
		if l.means[i].ino != 0 {
			return l.means[i], seq, true
		}
		seq = l.means[i].via
	}
}

// shorten has each hard link mean at once what it means in the end, or else the last link on the way: in a long chain, each would go
// all the way.
func (l *linker) shorten() {
	slices.SortFunc(l.means, func(a, b meaning) int { return cmp.Compare(a.seq, b.seq) })
	for i := range l.means {
		m := &l.means[i]
		if m.ino != 0 {
			continue
		}
		if end, last, ok := l.find(m.via); ok {
			m.ino, m.kind = end.ino, end.kind
		} else {
			m.via = last
		}
	}
}

// settle completes the entries of hard links, and counts the names of files that have several. It returns these names, and those of
// hard links to files that the archive does not have, by inode.
func (b *builder) settle() (several, foreign []inodeName, err error) {
	l := &b.links
	l.shorten()
	for _, link := range l.links {
		m, last, ok := l.find(link.seq)
		if !ok {
			if last != link.seq {
				link.seq, link.target = last, l.targets[last]
			}
			if m.ino, err = b.foreignInode(link); err != nil {
				return nil, nil, err
			}
			foreign = append(foreign, inodeName{m.ino, link.path})
		} else {
			several = append(several, inodeName{m.ino, link.path})
		}
		word := binary.LittleEndian.AppendUint64(nil, m.ino|uint64(m.kind)<<56)
		if err := b.entries.patch(word, link.entry); err != nil {
			return nil, nil, err
		}
	}
	several = append(several, l.own...)
	slices.SortStableFunc(several, func(a, b inodeName) int { return cmp.Compare(a.ino, b.ino) })
	return several, foreign, b.countNames(several)
}

// foreignInode stands for a file that the archive does not have.
func (b *builder) foreignInode(link pendingLink) (uint64, error) {
	target := link.target
	if to, ok := b.links.moved[link.seq]; ok {
		target = to
	}
	if b.links.folders[link.seq] {
		path, err := b.readText(link.path)
		if err != nil {
			return 0, err
		}
		b.problems.add(path, errors.New("a hard link to a folder"))
		target.len = 0
	}
	text, err := b.readText(target)
	if err != nil {
		return 0, err
	}
	r := record{target: text, mtime: time.Unix(0, 0)}
	off, err := b.inodes.append(r.encode())
	return uint64(off) + 1, err
}

func (b *builder) readText(ref textRef) (string, error) {
	text := make([]byte, ref.len)
	err := b.texts.read(text, ref.off)
	return string(text), err
}

func (b *builder) countNames(sorted []inodeName) error {
	for len(sorted) > 0 {
		n := 1
		for n < len(sorted) && sorted[n].ino == sorted[0].ino {
			n++
		}
		count := binary.LittleEndian.AppendUint32(nil, uint32(n))
		if err := b.inodes.patch(count, int64(sorted[0].ino)-1+recordA); err != nil {
			return err
		}
		sorted = sorted[n:]
	}
	return nil
}
