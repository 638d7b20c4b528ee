package layout

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/regfs/regfs/image"
)

const tarBlock = 512

// tarEnd is what ends a tar: two blocks of zeros.
const tarEnd = 2 * tarBlock

// Tar is files as one tar archive that is nowhere stored whole, the same bytes for the same files always: in their order, each
// folder before what is in it, times 0, modes 0644 and 0755, owner 0. It is safe for concurrent use.
type Tar struct {
	members []member
	size    int64
}

// member is a file or, with a name ending in a slash, a folder: a header, the content, and zeros up to a whole block.
type member struct {
	File
	off     int64 // of the header, in the archive
	content int64 // of the content, after off
}

// NewTar arranges files, whose names differ, as a tar. ErrInvalid if they are too large to be one, or have no size.
func NewTar(files []File) (*Tar, error) {
	t := &Tar{}
	folders := map[string]bool{".": true}
	for _, f := range files {
		if err := t.addFolders(path.Dir(f.Name), folders); err != nil {
			return nil, err
		}
		if err := t.add(f); err != nil {
			return nil, err
		}
	}
	t.size += tarEnd
	return t, nil
}

// Size is how long the archive is, in bytes.
func (t *Tar) Size() int64 { return t.size }

func (t *Tar) addFolders(dir string, have map[string]bool) error {
	if have[dir] {
		return nil
	}
	have[dir] = true
	if err := t.addFolders(path.Dir(dir), have); err != nil {
		return err
	}
	return t.add(File{Name: dir + "/"})
}

func (t *Tar) add(f File) error {
	header, err := tarHeader(f)
	if err != nil {
		return fmt.Errorf("tar header of %s: %v: %w", f.Name, err, image.ErrInvalid)
	}
	m := member{File: f, off: t.size, content: int64(len(header))}
	// The room left for headers and the end is more than any archive needs for them.
	if f.Size() < 0 || f.Size() > math.MaxInt64/2-t.size {
		return fmt.Errorf("%s of %d bytes does not fit a tar: %w", f.Name, f.Size(), image.ErrInvalid)
	}
	t.members = append(t.members, m)
	t.size += m.length()
	return nil
}

// length is that of the whole member, a multiple of tarBlock.
func (m *member) length() int64 {
	return m.content + (m.Size()+tarBlock-1)/tarBlock*tarBlock
}

// at finds the member that the byte off of the archive belongs to, or nil in the zeros at its end.
func (t *Tar) at(off int64) *member {
	i := sort.Search(len(t.members), func(i int) bool { return t.members[i].off > off }) - 1
	if i < 0 || off >= t.members[i].off+t.members[i].length() {
		return nil
	}
	return &t.members[i]
}

// header is made anew for each read: an archive of a hundred thousand files keeps none.
func (m *member) header() []byte {
	b, _ := tarHeader(m.File) // it worked when the member was added
	return b
}

// tarHeader is the header of f: one block, or more in PAX format where a long name or a large size wants it.
func tarHeader(f File) ([]byte, error) {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Mode: 0o644, Size: f.Size(), ModTime: time.Unix(0, 0)}
	if strings.HasSuffix(f.Name, "/") {
		h.Typeflag, h.Mode = tar.TypeDir, 0o755
	}
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(h)
	return b.Bytes(), err
}
