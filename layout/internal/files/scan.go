package files

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/regfs/regfs/image"
)

// How much of an archive's list of members is kept: more than a hundred thousand images need, and still no burden.
const (
	maxMembers = 500_000
	maxNames   = 64 << 20 // bytes
)

// tarBlock is what all in a tar is a multiple of, and tarEnd what is at its end, zeros.
const (
	tarBlock = 512
	tarEnd   = 2 * tarBlock
)

// member is a file of a tar.
type member struct {
	off, size int64
	// link is the name of the member that a link leads to.
	link string
	// odd says why the member can't be read, "" if it can.
	odd string
}

// listing is what a tar has, by clean names.
type listing struct {
	members map[string]member
	names   int
	// cut tells that nothing marks the end of the tar.
	cut bool
}

// scan reads the headers of a tar. What is no tar, or ends within a member, is ErrInvalid.
func scan(ctx context.Context, r io.ReaderAt, size int64) (*listing, error) {
	l := &listing{members: map[string]member{}}
	section := &ahead{r: io.NewSectionReader(r, 0, size)}
	t := tar.NewReader(section)
	end := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := t.Next()
		if err == io.EOF {
			l.cut = size-end < tarEnd
			return l, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, damaged(err, end)
		}
		off, _ := section.Seek(0, io.SeekCurrent)
		m := newMember(h, off)
		if end = roundUp(off + m.size); end < off || off+m.size > size {
			return nil, fmt.Errorf("it is cut short, within %s: %w", Clean(h.Name), image.ErrInvalid)
		}
		if err := l.add(h.Name, m); err != nil {
			return nil, err
		}
	}
}

// ahead reads some more than it is asked for, since small members lie side by side.
type ahead struct {
	r        *io.SectionReader
	off      int64 // where the next Read begins
	buf      [8 * tarBlock]byte
	from, to int64 // what of the archive buf has
}

func (a *ahead) Read(p []byte) (int, error) {
	if a.off < a.from || a.off >= a.to {
		n, err := a.r.ReadAt(a.buf[:], a.off)
		if a.from, a.to = a.off, a.off+int64(n); n == 0 {
			return 0, err
		}
	}
	n := copy(p, a.buf[a.off-a.from:a.to-a.from])
	a.off += int64(n)
	return n, nil
}

func (a *ahead) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += a.off
	case io.SeekEnd:
		off += a.r.Size()
	}
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	a.off = off
	return off, nil
}

func damaged(err error, at int64) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) && at == 0:
		return fmt.Errorf("no tar archive, or one that is cut short: %w", image.ErrInvalid)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it is cut short: %w", image.ErrInvalid)
	case errors.Is(err, tar.ErrHeader) && at == 0:
		return fmt.Errorf("no tar archive: %w", image.ErrInvalid)
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("a damaged tar archive, behind byte %d: %w", at, image.ErrInvalid)
	}
	return err
}

// newMember is what a header tells of a file whose content begins at off.
func newMember(h *tar.Header, off int64) member {
	m := member{off: off}
	switch {
	case sparse(h):
		// Its content is not as long as it is said to be; the reader of the next header knows.
		m.odd = "a sparse file"
	case h.Typeflag == tar.TypeReg:
		m.size = h.Size
	case h.Typeflag == tar.TypeSymlink:
		m.link = path.Join(path.Dir(path.Clean(h.Name)), h.Linkname)
		if path.IsAbs(h.Linkname) {
			m.link, m.odd = "", "a link that leads out of the archive"
		}
	case h.Typeflag == tar.TypeLink:
		m.link = path.Clean(h.Linkname)
	default:
		m.odd = notRegular
	}
	return m
}

func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// add enters a member. Of a blob that is there twice the later one counts, as when the archive is unpacked; which of two other
// members of one name counts depends on who reads, so neither does.
func (l *listing) add(name string, m member) error {
	clean, ok := cleanName(name)
	if !ok {
		return nil
	}
	if l.names += len(clean) + len(m.link); l.names > maxNames || len(l.members) >= maxMembers {
		return fmt.Errorf("it has more than %d members, or %d bytes of names: %w", maxMembers, maxNames, image.ErrInvalid)
	}
	_, twice := l.members[clean]
	if twice && !strings.HasPrefix(clean, "blobs/") && m.odd != notRegular {
		m.odd = "there twice, and who reads it may take either"
	}
	l.members[clean] = m
	return nil
}

// notRegular is what folders are, which may be there many times.
const notRegular = "not a regular file"

// cleanName is a member's name as others would write it. Names that lead out of the archive are nobody's.
func cleanName(name string) (string, bool) {
	if name == "" || path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), "..") {
		return "", false
	}
	name = path.Clean(name)
	return name, name != "."
}

func roundUp(n int64) int64 { return (n + tarBlock - 1) / tarBlock * tarBlock }
