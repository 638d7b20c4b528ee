package layer

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// scanner makes an index of a blob that is a tar archive, compressed or not.
type scanner struct {
	catalog
	store Store
	in    *input
	out   *stream
}

// catalog takes the entries of an archive, one after the other.
type catalog struct {
	sorter   *sorter
	seq      uint32
	problems problems
}

// scan reads a blob from its start to its end, and puts what it found into a file without a name. The last byte of r comes only if the
// blob is what it should be. An archive that can't be understood is image.ErrInvalid. The problems that are known already are kept
// with those that are found.
func scan(store Store, r io.Reader, known ...string) (*os.File, error) {
	d, err := newDraft(store)
	if err != nil {
		return nil, err
	}
	defer d.close()
	s := &scanner{catalog: catalog{sorter: &sorter{store: store}, problems: problems{texts: known}}, store: store, in: newInput(r)}
	defer s.sorter.close()
	err = s.run(d)
	if err == nil {
		var file *os.File
		if file, err = d.write(store); err == nil {
			return file, nil
		}
	}
	return nil, s.blame(err)
}

// blame says whose fault an error is: who can't read a blob, or can't write, learnt nothing about what is in it. A blob is to blame
// only if it is what it should be, which is known at its end.
func (s *scanner) blame(err error) error {
	if here := (*localError)(nil); errors.As(err, &here) && s.in.err == nil {
		return here.error
	}
	if s.in.toEnd(); s.in.err != nil {
		return s.in.err
	}
	return &contentError{err}
}

// contentError is the fault of what a blob contains, which will be the same each time.
type contentError struct{ error }

func (e *contentError) Error() string   { return e.error.Error() + ": " + image.ErrInvalid.Error() }
func (e *contentError) Unwrap() []error { return []error{e.error, image.ErrInvalid} }

func (s *scanner) run(d *draft) error {
	spans, err := newSpanner(s.in, d.spans, d.data)
	if err != nil {
		return err
	}
	br := bufio.NewReaderSize(s.in, inputSize)
	r, done, err := decompress(br, s.in.offset, spans.mark)
	if err != nil {
		return err
	}
	defer done()
	s.out = &stream{r: r, spans: spans}
	if err := s.entries(tar.NewReader(s.out)); err != nil {
		return err
	}
	if err := s.drain(br); err != nil {
		return err
	}
	if err := spans.finish(); err != nil {
		return err
	}
	d.size, d.problems = s.out.off, s.problems
	return d.build(s.store, s.sorter, s.seq)
}

// drain reads on to the end of all: only then is it known that all is sound.
func (s *scanner) drain(br *bufio.Reader) error {
	buf := make([]byte, 64<<10)
	for _, r := range []io.Reader{s.out, br} {
		for {
			_, err := r.Read(buf)
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// entries reads the archive.
func (s *scanner) entries(tr *tar.Reader) error {
	for start := int64(0); ; {
		s.out.record(start)
		h, err := tr.Next()
		s.out.stop()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if start, err = s.entry(h, start); err != nil {
			return err
		}
	}
}

// entry takes one entry, which began at start, and says where it ends.
func (s *scanner) entry(h *tar.Header, start int64) (end int64, err error) {
	data := padded(s.out.off) // behind a global header some padding is still to be read
	end = data
	var parts []fragment
	sparse := isSparse(h)
	switch {
	case sparse:
		if parts, end, err = sparseMap(h, s.out.raw); err != nil {
			return 0, err
		}
		end += start
	case hasContent(h.Typeflag):
		end += padded(h.Size)
	}
	if err := s.next(); err != nil {
		return 0, err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return end, nil
	}
	r, err := newRecord(h, data)
	if sparse {
		r.flags |= flagSparse
		r.sparse = parts
	}
	if sparse && err == nil {
		err = fits(parts, end-data)
	}
	if err != nil {
		s.problems.add(h.Name, err)
		return end, nil
	}
	return end, s.add(h, &r)
}

// next counts an entry.
func (c *catalog) next() error {
	if c.seq++; c.seq > 2*maxEntries {
		return fmt.Errorf("more than %d entries: %w", 2*maxEntries, errTooMuch)
	}
	return nil
}

// hasContent tells whether an entry's size is that of something that follows. archive/tar takes all but these for files.
func hasContent(typeflag byte) bool {
	switch typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo, tar.TypeXGlobalHeader:
		return false
	}
	return true
}

// add sorts an entry in.
func (c *catalog) add(h *tar.Header, r *record) error {
	path, err := cleanPath(h.Name)
	if err != nil {
		c.problems.add(h.Name, err)
		return nil
	}
	if h.Typeflag == tar.TypeLink {
		return c.addLink(path, h.Linkname)
	}
	kind := isOther
	if r.mode&unix.S_IFMT == unix.S_IFDIR {
		kind = isFolder
	}
	return c.sorter.add(item{path: path, seq: c.seq, kind: kind, data: r.encode()})
}

// addLink sorts a hard link in, and that it means its target.
func (c *catalog) addLink(path, target string) error {
	clean, err := cleanPath(target)
	if err != nil {
		c.problems.add(path, fmt.Errorf("a hard link to %w", err))
		return nil
	}
	if err := c.sorter.add(item{path: path, seq: c.seq, kind: isLink, data: []byte(clean)}); err != nil {
		return err
	}
	return c.sorter.add(item{path: clean, seq: c.seq, kind: isMeant})
}

// types of entries.
var types = map[byte]uint16{
	tar.TypeReg: unix.S_IFREG, tar.TypeCont: unix.S_IFREG, tar.TypeGNUSparse: unix.S_IFREG, tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK,
	tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO, tar.TypeLink: 0,
}

// newRecord makes an inode's record of an entry whose content begins at data. It fails for what no file system can hold.
func newRecord(h *tar.Header, data int64) (record, error) {
	kind, ok := types[h.Typeflag]
	r := record{
		mode: kind | uint16(h.Mode&0o7777), uid: uint32(h.Uid), gid: uint32(h.Gid), mtime: h.ModTime, size: h.Size, data: data,
		major: uint32(h.Devmajor), minor: uint32(h.Devminor), target: h.Linkname, xattrs: xattrs(h),
	}
	if kind == unix.S_IFLNK {
		r.mode = kind | 0o777 // Linux knows no other permissions of symbolic links
	}
	size := 0
	for name, value := range r.xattrs {
		size += len(name) + len(value)
	}
	switch {
	case !ok:
		return r, fmt.Errorf("an entry of the unknown type %q", h.Typeflag)
	case h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32:
		return r, fmt.Errorf("the owner %d:%d", h.Uid, h.Gid)
	case h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32:
		return r, fmt.Errorf("the device %d:%d", h.Devmajor, h.Devminor)
	case kind == unix.S_IFLNK && (len(h.Linkname) > maxPath || h.Linkname == "" || strings.Contains(h.Linkname, "\x00")):
		return r, fmt.Errorf("a symbolic link's target of %d bytes, or with a NUL", len(h.Linkname))
	case size > maxXattrs:
		return r, fmt.Errorf("extended attributes of %d bytes", size)
	}
	return r, nil
}

// paxXattr is how the records of extended attributes begin.
const paxXattr = "SCHILY.xattr."

// xattrs are the extended attributes of an entry. Those that overlayfs gives a meaning to are left out: a layer must not tell the
// kernel where other files are.
func xattrs(h *tar.Header) map[string]string {
	var all map[string]string
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || name == "" || len(name) > maxName || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if all == nil {
			all = map[string]string{}
		}
		all[name] = value
	}
	return all
}
