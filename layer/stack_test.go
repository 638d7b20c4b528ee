package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// A test's layer is a list of entries in the order of its tar:
//
//	dir/             a folder
//	file             a regular file, which contains its own name
//	name -> target   a symbolic link
//	name => target   a hard link
//
// Each has the number of its layer as its mtime, and as the extended attribute user.layer if it is a folder.

// makeTar makes a tar of a layer.
func makeTar(t testing.TB, number int, entries []string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e, Size: int64(len(e)), Mode: 0o755, ModTime: time.Unix(int64(number), 0)}
		if name, target, ok := strings.Cut(e, " -> "); ok {
			h.Typeflag, h.Name, h.Linkname, h.Size = tar.TypeSymlink, name, target, 0
		} else if name, target, ok := strings.Cut(e, " => "); ok {
			h.Typeflag, h.Name, h.Linkname, h.Size = tar.TypeLink, name, target, 0
		} else if strings.HasSuffix(e, "/") {
			h.Typeflag, h.Size, h.PAXRecords = tar.TypeDir, 0, map[string]string{"SCHILY.xattr.user.layer": fmt.Sprint(number)}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e)[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// stack is an image's layers, the base first. It knows which were opened.
type stack struct {
	place  *place
	layers []image.Descriptor
	// before is called before a layer is opened, if it is set.
	before func(ctx context.Context, n int) error

	mu       sync.Mutex
	opened   map[int]bool
	reported []string
}

func newStack(t testing.TB, layers ...[]string) *stack {
	t.Helper()
	s := &stack{place: newPlace(t), opened: map[int]bool{}}
	for n, entries := range layers {
		s.layers = append(s.layers, s.place.add(makeTar(t, n, entries)))
	}
	return s
}

func (s *stack) open(ctx context.Context, n int) (files, error) {
	if s.before != nil {
		if err := s.before(ctx, n); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	s.opened[n] = true
	s.mu.Unlock()
	return s.place.open(ctx, s.place.blobs, s.layers[n])
}

func (s *stack) report(n int, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reported = append(s.reported, fmt.Sprintf("%d: %s", n, problem))
}

func (s *stack) root() File { return newRoot(len(s.layers), s.open, s.report) }

// tree is a layer alone.
func (s *stack) tree(n int, w Whiteouts) File {
	return s.place.Tree(s.place.blobs, s.layers[n], w)
}

// names are the layers that were opened.
func (s *stack) names() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.opened))
}

// found is a file as a test sees it.
type found struct {
	path string
	text string
	ino  uint64
	info Info
}

// walkTree finds all that is below a folder, and that listings, lookups and stat agree.
func walkTree(t *testing.T, at File, below string) (all []found) {
	t.Helper()
	last := ""
	for e, err := range at.List(t.Context()) {
		if err != nil {
			t.Fatalf("list %q: %v", below, err)
		}
		if e.Name <= last {
			t.Fatalf("list %q: %q comes after %q", below, e.Name, last)
		}
		last = e.Name
		f, err := at.Lookup(t.Context(), e.Name)
		if err != nil {
			t.Fatalf("%q in %q is listed: %v", e.Name, below, err)
		}
		info, err := f.Stat(t.Context())
		if err != nil {
			t.Fatalf("stat %q in %q: %v", e.Name, below, err)
		}
		if info.Ino != e.Ino || info.Mode&unix.S_IFMT != e.Type || info.Ino == 0 || info.Ino >= 1<<60 {
			t.Fatalf("%q in %q is listed as %+v, and is %+v", e.Name, below, e, info)
		}
		all = append(all, found{below + e.Name, describe(t, f, info), info.Ino, info})
		if e.Type == unix.S_IFDIR {
			all = append(all, walkTree(t, f, below+e.Name+"/")...)
		}
	}
	return all
}

// describe tells a file's type, and which entry it is of which layer.
func describe(t *testing.T, f File, info Info) string {
	t.Helper()
	attrs, err := f.Xattrs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	from := fmt.Sprintf("@%d", info.Mtime.Unix())
	switch info.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if info.Implied {
			from = "implied"
		} else if attrs["user.layer"] != fmt.Sprint(info.Mtime.Unix()) {
			t.Errorf("attributes are of different layers: %v, %v", attrs, info.Mtime)
		}
		if attrs[opaqueAttr] != "" {
			return "folder " + from + " opaque=" + attrs[opaqueAttr]
		}
		return "folder " + from
	case unix.S_IFLNK:
		return "-> " + info.Target + " " + from
	case unix.S_IFCHR:
		return fmt.Sprintf("device %d/%d", info.Major, info.Minor)
	}
	content := make([]byte, info.Size)
	if n, err := f.ReadAt(t.Context(), content, 0); err != nil && err != io.EOF || n != len(content) {
		t.Fatal(n, err)
	}
	return string(content) + " " + from
}

// show is what a tree contains, line by line. All files' numbers and link counts are checked.
func show(t *testing.T, root File) (lines []string) {
	t.Helper()
	all := walkTree(t, root, "")
	names := map[uint64]uint32{}
	texts := map[uint64]string{}
	for _, f := range all {
		names[f.ino]++
		if other, ok := texts[f.ino]; ok && other != f.text {
			t.Errorf("%q and %q have the number %#x", other, f.text, f.ino)
		}
		texts[f.ino] = f.text
	}
	for _, f := range all {
		if f.info.Links != names[f.ino] {
			t.Errorf("%q has %d links and %d names", f.path, f.info.Links, names[f.ino])
		}
		line := f.path + ": " + f.text
		if n := names[f.ino]; n > 1 {
			line += fmt.Sprintf(" ×%d", n)
		}
		lines = append(lines, line)
	}
	return lines
}

// lookPath looks up a path.
func lookPath(ctx context.Context, at File, path string) (f File, err error) {
	for name := range strings.SplitSeq(path, "/") {
		if at, err = at.Lookup(ctx, name); err != nil {
			return nil, err
		}
	}
	return at, nil
}

func isMissing(err error) bool { return errors.Is(err, image.ErrNotFound) }
