package layer

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// record is what an index keeps of an inode. Its encoding:
//
//	uint32      how long it is in all
//	uint16      type and permissions; the type 0 is a link to a file of a lower layer
//	byte        flags
//	uint32 × 2  a folder's first entry, and how many it has; how many names any other file has, and 0
//	varints     uid, gid, seconds, nanoseconds
//	            a regular file's size and where its content is; a device's numbers; the length of a link's target, and it
//	            how many extended attributes, and each one's name and value with their lengths
//	            how many fragments a sparse file has, and each one's offset and length
type record struct {
	mode     uint16
	flags    byte
	a, b     uint32
	uid, gid uint32
	mtime    time.Time
	size     int64
	data     int64 // where the content begins in the decompressed stream
	major    uint32
	minor    uint32
	target   string
	xattrs   map[string]string
	// sparse are the parts of a sparse file that are not holes, in order; they follow one another in the stream.
	sparse []fragment
}

type fragment struct{ off, size int64 }

const (
	flagImplied byte = 1 << iota
	flagSparse
)

// Where in a record the two numbers are that are known last, and how long all before the varints is.
const (
	recordA    = 7
	recordHead = 15
)

// statRecord is how much of a record has all that stat(2) wants, at the most.
const statRecord = recordHead + 10*binary.MaxVarintLen64 + maxPath

func (r *record) encode() []byte {
	b := make([]byte, 4, 128)
	b = binary.LittleEndian.AppendUint16(b, r.mode)
	b = append(b, r.flags)
	b = binary.LittleEndian.AppendUint32(b, r.a)
	b = binary.LittleEndian.AppendUint32(b, r.b)
	b = binary.AppendUvarint(b, uint64(r.uid))
	b = binary.AppendUvarint(b, uint64(r.gid))
	b = binary.AppendVarint(b, r.mtime.Unix())
	b = binary.AppendUvarint(b, uint64(r.mtime.Nanosecond()))
	b = r.appendKind(b)
	b = r.appendXattrs(b)
	b = r.appendSparse(b)
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	return b
}

func (r *record) appendKind(b []byte) []byte {
	switch r.mode & unix.S_IFMT {
	case unix.S_IFREG:
		b = binary.AppendUvarint(b, uint64(r.size))
		b = binary.AppendUvarint(b, uint64(r.data))
	case unix.S_IFCHR, unix.S_IFBLK:
		b = binary.AppendUvarint(b, uint64(r.major))
		b = binary.AppendUvarint(b, uint64(r.minor))
	case unix.S_IFLNK, 0:
		b = binary.AppendUvarint(b, uint64(len(r.target)))
		b = append(b, r.target...)
	}
	return b
}

func (r *record) appendXattrs(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(r.xattrs)))
	for _, name := range slices.Sorted(maps.Keys(r.xattrs)) {
		for _, s := range []string{name, r.xattrs[name]} {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
	}
	return b
}

func (r *record) appendSparse(b []byte) []byte {
	if r.flags&flagSparse == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(r.sparse)))
	for _, f := range r.sparse {
		b = binary.AppendUvarint(b, uint64(f.off))
		b = binary.AppendUvarint(b, uint64(f.size))
	}
	return b
}

// decoder takes apart what was encoded. Its error stays.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%s: %w", what, errDamaged)
	}
	d.b = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) text() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail("a text")
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) uint32() uint32 {
	if len(d.b) < 4 {
		d.fail("a number")
		return 0
	}
	v := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

// stat decodes all up to the extended attributes.
func (d *decoder) stat() record {
	if len(d.b) < recordHead {
		d.fail("a record")
		return record{}
	}
	r := record{mode: binary.LittleEndian.Uint16(d.b[4:]), flags: d.b[6]}
	d.b = d.b[recordA:]
	r.a, r.b = d.uint32(), d.uint32()
	r.uid, r.gid = uint32(d.uvarint()), uint32(d.uvarint())
	sec := d.varint()
	r.mtime = time.Unix(sec, int64(d.uvarint()))
	switch r.mode & unix.S_IFMT {
	case unix.S_IFREG:
		r.size, r.data = int64(d.uvarint()), int64(d.uvarint())
	case unix.S_IFCHR, unix.S_IFBLK:
		r.major, r.minor = uint32(d.uvarint()), uint32(d.uvarint())
	case unix.S_IFLNK, 0:
		r.target = d.text()
	}
	return r
}

// all decodes a whole record.
func (d *decoder) all() record {
	r := d.stat()
	if n := d.uvarint(); n > 0 {
		r.xattrs = map[string]string{}
		for range n {
			name := d.text()
			if r.xattrs[name] = d.text(); d.err != nil {
				break
			}
		}
	}
	if r.flags&flagSparse != 0 {
		for range d.uvarint() {
			r.sparse = append(r.sparse, fragment{int64(d.uvarint()), int64(d.uvarint())})
			if d.err != nil {
				break
			}
		}
	}
	return r
}
