package layer

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// ent is an entry of an archive, written as it is told, right or wrong.
type ent struct {
	name, link   string
	typ          byte   // '0' where it is 0; v7 for the zero byte
	body         string // what follows the header, filled up to a whole block
	size         int64  // what the header says, if not the body's length
	mode         int64  // 0 is 0644, or 0755 for a folder
	uid, gid     int64
	mtime        int64
	major, minor int64
	magic        string            // ustar's where it is ""
	pax          map[string]string // of an extended header before it
	edit         func(header []byte)
}

const (
	v7       = 0xff
	gnuMagic = "ustar  \x00"
	oldMagic = "\x00\x00\x00\x00\x00\x00\x00\x00"
)

// bytes are an entry as an archive has it.
func (e ent) bytes() []byte {
	var out []byte
	if e.pax != nil {
		out = ent{name: "PaxHeaders/x", typ: 'x', body: paxRecords(e.pax)}.bytes()
	}
	h := make([]byte, 512)
	copy(h[0:100], e.name)
	mode := e.mode
	if mode == 0 {
		mode = 0o644
		if e.typ == '5' {
			mode = 0o755
		}
	}
	number8(h[100:108], mode)
	number8(h[108:116], e.uid)
	number8(h[116:124], e.gid)
	number8(h[124:136], cmp.Or(e.size, int64(len(e.body))))
	number8(h[136:148], e.mtime)
	switch e.typ {
	case 0:
		h[156] = '0'
	case v7:
	default:
		h[156] = e.typ
	}
	copy(h[157:257], e.link)
	copy(h[257:265], cmp.Or(e.magic, "ustar\x0000"))
	if e.magic != oldMagic {
		number8(h[329:337], e.major)
		number8(h[337:345], e.minor)
	}
	if e.edit != nil {
		e.edit(h)
	}
	sign(h)
	out = append(append(out, h...), e.body...)
	return append(out, make([]byte, -len(e.body)&511)...)
}

// sign puts the checksum into a header.
func sign(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// number8 writes a number in octal digits or, where they don't fit, as GNU does.
func number8(field []byte, n int64) {
	if n >= 0 && n < 1<<(3*(len(field)-1)) {
		copy(field, fmt.Sprintf("%0*o", len(field)-1, n))
		return
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	fill := byte(0)
	if n < 0 {
		fill = 0xff
	}
	for i := range field {
		field[i] = fill
	}
	copy(field[max(0, len(field)-8):], b[max(0, 8-len(field)):])
	field[0] |= 0x80
}

func paxRecords(records map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(records)) {
		b.WriteString(paxRecord(k, records[k]))
	}
	return b.String()
}

func paxRecord(k, v string) string {
	n := len(k) + len(v) + 3
	for n != len(k)+len(v)+3+len(fmt.Sprint(n)) {
		n = len(k) + len(v) + 3 + len(fmt.Sprint(n))
	}
	return fmt.Sprintf("%d %s=%s\n", n, k, v)
}

// archive is a whole archive.
func archive(entries ...ent) []byte { return append(headless(entries...), make([]byte, 1024)...) }

// headless is one without an end.
func headless(entries ...ent) []byte {
	var b []byte
	for _, e := range entries {
		b = append(b, e.bytes()...)
	}
	return b
}

// shown is a file of a tree, in words.
type shown struct {
	path    string
	info    Info
	xattrs  map[string]string
	content []byte
}

// String is all that a test wants to know: what is usual is left out.
func (n shown) String(first map[uint64]string) string {
	i := n.info
	var b strings.Builder
	fmt.Fprintf(&b, "%s %c", n.path, kindLetter(i.Mode))
	if i.Mode&unix.S_IFMT != unix.S_IFLNK {
		fmt.Fprintf(&b, "%o", i.Mode&0o7777)
	}
	if i.UID != 0 || i.GID != 0 {
		fmt.Fprintf(&b, " %d:%d", i.UID, i.GID)
	}
	if i.Mtime.UnixNano() != 0 {
		fmt.Fprintf(&b, " @%d.%09d", i.Mtime.Unix(), i.Mtime.Nanosecond())
	}
	switch i.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		fmt.Fprintf(&b, " -> %s", shorten(i.Target))
	case unix.S_IFCHR, unix.S_IFBLK:
		fmt.Fprintf(&b, " (%d,%d)", i.Major, i.Minor)
	case unix.S_IFREG:
		fmt.Fprintf(&b, " %s", shorten(string(n.content)))
	case 0:
		fmt.Fprintf(&b, " => %s", i.Target)
	}
	for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
		fmt.Fprintf(&b, " {%s=%q}", k, n.xattrs[k])
	}
	if i.Links > 1 {
		fmt.Fprintf(&b, " %d", i.Links)
		if first[i.Ino] != n.path {
			fmt.Fprintf(&b, "=%s", first[i.Ino])
		}
	}
	if i.Implied {
		b.WriteString(" implied")
	}
	return b.String()
}

func shorten(s string) string {
	if len(s) > 40 {
		return fmt.Sprintf("%q…%d", s[:8], len(s))
	}
	return fmt.Sprintf("%q", s)
}

func kindLetter(mode uint32) byte {
	return map[uint32]byte{unix.S_IFREG: 'f', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', 0: '?'}[mode&unix.S_IFMT]
}

// inWords is a tree in words, in its order.
func inWords(nodes []shown) (lines []string) {
	first := map[uint64]string{}
	for _, n := range nodes {
		if _, ok := first[n.info.Ino]; !ok {
			first[n.info.Ino] = n.path
		}
		lines = append(lines, n.String(first))
	}
	return lines
}

// walkAll reads all of a tree.
func walkAll(ctx context.Context, f files) (nodes []shown, err error) {
	var visit func(path string, ino inode) error
	visit = func(path string, ino inode) error {
		n, err := readNode(ctx, f, path, ino)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		nodes = append(nodes, n)
		last := ""
		for e, err := range f.list(ino, "") {
			if err != nil {
				return err
			}
			if e.Name <= last {
				return fmt.Errorf("%s: %q is not behind %q", path, e.Name, last)
			}
			last = e.Name
			if found, err := f.lookup(ino, e.Name); err != nil || found != e {
				return fmt.Errorf("%s: %q is %v when listed, and %v: %w", path, e.Name, e, found, err)
			}
			info, err := f.stat(inode(e.Ino))
			if err != nil || info.Mode&unix.S_IFMT != e.Type {
				return fmt.Errorf("%s: %q is %o, and its entry %o: %w", path, e.Name, info.Mode, e.Type, err)
			}
			if err := visit(strings.TrimPrefix(path+"/"+e.Name, "./"), inode(e.Ino)); err != nil {
				return err
			}
		}
		return nil
	}
	return nodes, visit(".", f.root())
}

func readNode(ctx context.Context, f files, path string, ino inode) (shown, error) {
	n := shown{path: path}
	var err error
	if n.info, err = f.stat(ino); err != nil {
		return n, err
	}
	if n.xattrs, err = f.xattrs(ino); err != nil {
		return n, err
	}
	if n.info.Mode&unix.S_IFMT == unix.S_IFREG && n.info.Size <= 1<<28 {
		n.content = make([]byte, n.info.Size)
		var got int
		if got, err = f.readAt(ctx, ino, n.content, 0); got == len(n.content) && err == io.EOF {
			err = nil
		}
	}
	return n, err
}

func isInvalid(err error) bool { return errors.Is(err, image.ErrInvalid) }

// tree is what Layers show of a blob.
func (p *place) tree(t testing.TB, blob []byte) ([]shown, error) {
	t.Helper()
	f, err := p.Layers.open(t.Context(), p.blobs, p.add(blob))
	if err != nil {
		return nil, err
	}
	defer f.release()
	return walkAll(t.Context(), f)
}

func at(sec, nsec int64) time.Time { return time.Unix(sec, nsec) }

func long(n int) string { return strings.Repeat("n", n) }

// longPath is a path of n bytes with names that are not too long.
func longPath(n int) string {
	s := strings.Repeat(strings.Repeat("p", 199)+"/", n/200+1)[:n]
	return s[:n-1] + "q"
}
