package layer

import (
	"encoding/binary"
	"fmt"
	"iter"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// index reads what is kept of a layer. It is safe for concurrent use.
type index struct {
	*pages
	top   inode
	size  int64 // of the decompressed stream
	parts [sections]struct{ off, end int64 }
}

// openIndex opens an index, which it closes on failure: errDamaged where it is none.
func openIndex(file *os.File, pool *pagePool) (*index, error) {
	x, err := readIndex(file, pool)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open index: %w", err)
	}
	return x, nil
}

func readIndex(file *os.File, pool *pagePool) (*index, error) {
	p, err := newPages(file, pool)
	if err != nil {
		return nil, err
	}
	b, err := p.bytes(0, headerSize)
	if err != nil {
		return nil, err
	}
	rest, ok := strings.CutPrefix(string(b), indexMagic)
	if !ok {
		return nil, errDamaged
	}
	b = []byte(rest)
	x := &index{pages: p, top: inode(binary.LittleEndian.Uint64(b)), size: int64(binary.LittleEndian.Uint64(b[8:]))}
	last := int64(headerSize)
	for i := range x.parts {
		x.parts[i].off = int64(binary.LittleEndian.Uint64(b[16+16*i:]))
		x.parts[i].end = int64(binary.LittleEndian.Uint64(b[24+16*i:]))
		if x.parts[i].off != last || x.parts[i].end < last || x.parts[i].end > p.size {
			return nil, errDamaged
		}
		last = x.parts[i].end
	}
	return x, nil
}

func (x *index) root() inode { return x.top }

func (x *index) close() { x.file.Close() }

// in are n bytes of a section, and rest how many it has from off on.
func (x *index) in(s sectionKind, off int64, n int) ([]byte, error) {
	if off < 0 || n < 0 || int64(n) > x.rest(s, off) {
		return nil, fmt.Errorf("%d bytes at %d of section %d: %w", n, off, s, errDamaged)
	}
	return x.bytes(x.parts[s].off+off, n)
}

func (x *index) rest(s sectionKind, off int64) int64 { return x.parts[s].end - x.parts[s].off - off }

// count is how many records of a size a section has.
func (x *index) count(s sectionKind, size int) int { return int(x.rest(s, 0)) / size }

// problems are what is wrong with the layer.
func (x *index) problems() ([]string, error) {
	b, err := x.in(secProblems, 0, int(x.rest(secProblems, 0)))
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return strings.Split(string(b), "\n"), nil
}

// record reads an inode's record, as much of it as stat wants.
func (x *index) record(ino inode) (record, error) {
	off := int64(ino) - 1
	b, err := x.in(secInodes, off, int(max(0, min(statRecord, x.rest(secInodes, off)))))
	if err != nil {
		return record{}, err
	}
	d := decoder{b: b}
	r := d.stat()
	return r, d.err
}

// whole reads all of an inode's record.
func (x *index) whole(ino inode) (record, error) {
	off := int64(ino) - 1
	b, err := x.in(secInodes, off, recordHead)
	if err != nil {
		return record{}, err
	}
	if b, err = x.in(secInodes, off, int(binary.LittleEndian.Uint32(b))); err != nil {
		return record{}, err
	}
	d := decoder{b: b}
	r := d.all()
	return r, d.err
}

func (x *index) stat(ino inode) (Info, error) {
	r, err := x.record(ino)
	if err != nil {
		return Info{}, err
	}
	info := Info{
		Ino: uint64(ino), Mode: uint32(r.mode), UID: r.uid, GID: r.gid, Size: r.size, Mtime: r.mtime, Major: r.major, Minor: r.minor,
		Links: max(1, r.a), Target: r.target, Implied: r.flags&flagImplied != 0,
	}
	switch r.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		info.Links = 1
	case unix.S_IFLNK:
		info.Size = int64(len(r.target))
	}
	return info, nil
}

func (x *index) xattrs(ino inode) (map[string]string, error) {
	r, err := x.whole(ino)
	return r.xattrs, err
}

// folder is where a folder's entries are; what is no folder has none.
func (x *index) folder(dir inode) (first, n int, err error) {
	r, err := x.record(dir)
	if err != nil || r.mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, 0, err
	}
	return int(r.a), int(r.b), nil
}

// entry reads an entry of a folder.
func (x *index) entry(i int) (Entry, error) {
	b, err := x.in(secEntries, int64(i)*entrySize, entrySize)
	if err != nil {
		return Entry{}, err
	}
	ino, ref := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	name, err := x.in(secNames, int64(ref&(1<<48-1)), int(ref>>48))
	return Entry{Name: string(name), Ino: ino & (1<<56 - 1), Type: uint32(ino>>56) << 12}, err
}

// search finds the first entry of a folder whose name is "from" or sorts after it.
func (x *index) search(first, n int, from string) (int, error) {
	var err error
	i := sort.Search(n, func(i int) bool {
		e, broken := x.entry(first + i)
		if broken != nil {
			err = broken
		}
		return e.Name >= from
	})
	return first + i, err
}

func (x *index) lookup(dir inode, name string) (Entry, error) {
	first, n, err := x.folder(dir)
	if err != nil {
		return Entry{}, err
	}
	i, err := x.search(first, n, name)
	if err != nil {
		return Entry{}, err
	}
	if i < first+n {
		if e, err := x.entry(i); err != nil || e.Name == name {
			return e, err
		}
	}
	return Entry{}, image.ErrNotFound // bare: most are never told, and there are many
}

func (x *index) list(dir inode, from string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		first, n, err := x.folder(dir)
		i := first
		if err == nil && from != "" {
			i, err = x.search(first, n, from)
		}
		for ; err == nil && i < first+n; i++ {
			var e Entry
			if e, err = x.entry(i); err == nil && !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(Entry{}, err)
		}
	}
}

// name reads an inodeName and its path.
func (x *index) name(s sectionKind, i int) (inode, string, error) {
	b, err := x.in(s, int64(i)*nameSize, nameSize)
	if err != nil {
		return 0, "", err
	}
	ino, ref := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	path, err := x.in(secTexts, int64(ref&(1<<48-1)), int(ref>>48))
	return inode(ino), string(path), err
}

func (x *index) paths(ino inode) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		n := x.count(secSeveral, nameSize)
		var err error
		i := sort.Search(n, func(i int) bool {
			at, _, broken := x.name(secSeveral, i)
			if broken != nil {
				err = broken
			}
			return at >= ino
		})
		for ; err == nil && i < n; i++ {
			at, path, broken := x.name(secSeveral, i)
			if err = broken; err == nil && (at != ino || !yield(path, nil)) {
				return
			}
		}
		if err != nil {
			yield("", err)
		}
	}
}

func (x *index) foreign() iter.Seq2[foreignLink, error] {
	return func(yield func(foreignLink, error) bool) {
		for i := range x.count(secForeign, nameSize) {
			ino, path, err := x.name(secForeign, i)
			var r record
			if err == nil {
				r, err = x.record(ino)
			}
			if !yield(foreignLink{path, r.target}, err) || err != nil {
				return
			}
		}
	}
}

// span finds the one that has the content at off, which is below size.
func (x *index) span(off int64) (int, span, error) {
	n := x.count(secSpans, spanSize)
	var err error
	i := sort.Search(n, func(i int) bool {
		s, broken := x.spanAt(i)
		if broken != nil {
			err = broken
		}
		return s.uoff > off
	}) - 1
	if err != nil || i < 0 {
		return 0, span{}, fmt.Errorf("no span has %d: %w", off, errDamaged)
	}
	s, err := x.spanAt(i)
	if err == nil && off >= s.uoff+int64(s.ulen) {
		err = fmt.Errorf("no span has %d: %w", off, errDamaged)
	}
	return i, s, err
}

func (x *index) spanAt(i int) (span, error) {
	b, err := x.in(secSpans, int64(i)*int64(spanSize), spanSize)
	if err != nil {
		return span{}, err
	}
	if s := decodeSpan(b); s.ulen <= maxSpan && s.clen <= maxSpan {
		return s, nil
	}
	return span{}, fmt.Errorf("span %d is too long: %w", i, errDamaged)
}
