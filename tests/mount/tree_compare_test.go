//go:build linux

package mount_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// node is all that the system tells of a file, but for access and change times, and what can't be the same on two file
// systems: numbers of inodes and devices, blocks, and the sizes and link counts of folders.
type node struct {
	mode, uid, gid uint32
	// size is that of all but folders, and device the number of a device file.
	size   int64
	device uint64
	mtime  time.Time
	links  uint64
	// names are all names of a file that is no folder.
	names  []string
	target string
	xattrs map[string]string
	// content is the sha256 of a regular file.
	content string
}

// tree is a folder's files by path; "." is the folder itself.
type tree map[string]*node

// sameTree fails the test unless the trees are the same, and says what is different. Each quirk may make two nodes more alike;
// either of them may be nil.
func sameTree(t *testing.T, want, got tree, quirks ...quirk) {
	t.Helper()
	if len(want) < 2 {
		t.Errorf("there is nothing to compare with: %d files", len(want))
	}
	differences := differences(want, got, quirks...)
	for i, difference := range differences {
		if i == 20 {
			t.Errorf("and %d more", len(differences)-i)
			break
		}
		t.Error(difference)
	}
}

// quirk knows of something that is different for a reason, and returns what is to be compared instead of want.
type quirk func(path string, want, got node) node

// differences says in words what is not as wanted.
func differences(want, got tree, quirks ...quirk) []string {
	var found []string
	paths := slices.Concat(slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(got)))
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		w, g := want[path], got[path]
		switch {
		case g == nil:
			found = append(found, path+": is missing")
		case w == nil:
			found = append(found, path+": should not be there")
		default:
			expect := *w
			for _, q := range quirks {
				expect = q(path, expect, *g)
			}
			found = append(found, expect.differences(path, *g)...)
		}
	}
	return found
}

func (n node) differences(path string, got node) []string {
	var found []string
	differ := func(what string, want, got any) {
		if w, g := fmt.Sprint(want), fmt.Sprint(got); w != g {
			found = append(found, fmt.Sprintf("%s: %s is %.300s, not %.300s", path, what, g, w))
		}
	}
	differ("mode", fmt.Sprintf("%#o", n.mode), fmt.Sprintf("%#o", got.mode))
	differ("owner", n.uid, got.uid)
	differ("group", n.gid, got.gid)
	differ("size", n.size, got.size)
	differ("device", deviceName(n.device), deviceName(got.device))
	differ("mtime", n.mtime.Format(time.RFC3339Nano), got.mtime.Format(time.RFC3339Nano))
	differ("link count", n.links, got.links)
	differ("list of names", fmt.Sprintf("%q", n.names), fmt.Sprintf("%q", got.names))
	differ("target", n.target, got.target)
	differ("xattrs", fmt.Sprintf("%q", n.xattrs), fmt.Sprintf("%q", got.xattrs))
	differ("content", n.content, got.content)
	return found
}

func deviceName(number uint64) string {
	return fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number))
}

// walk reads a whole tree through the system.
func walk(t *testing.T, root string) tree {
	t.Helper()
	w := walker{tree: tree{}, names: map[inode][]string{}, inodes: map[string]inode{}, contents: map[inode]string{}}
	if err := w.walk(root, "."); err != nil {
		t.Fatal(err)
	}
	for path, ino := range w.inodes {
		w.tree[path].names = slices.Sorted(slices.Values(w.names[ino]))
	}
	return w.tree
}

type inode struct{ device, number uint64 }

type walker struct {
	tree tree
	// names are those that an inode was seen under, and inodes those of the paths that are no folders.
	names  map[inode][]string
	inodes map[string]inode
	// contents are what was read already, under another name.
	contents map[inode]string
}

func (w *walker) walk(root, path string) error {
	n, st, err := lstat(filepath.Join(root, path))
	if err != nil {
		return err
	}
	w.tree[path] = &n
	if n.mode&unix.S_IFMT != unix.S_IFDIR {
		return w.link(filepath.Join(root, path), path, &n, inode{st.Dev, st.Ino})
	}
	entries, err := os.ReadDir(filepath.Join(root, path))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := w.walk(root, filepath.Join(path, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// link notes a name of a file that is no folder, and reads the file unless it had a name before.
func (w *walker) link(full, path string, n *node, ino inode) (err error) {
	w.inodes[path] = ino
	w.names[ino] = append(w.names[ino], path)
	if n.mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	known := false
	if n.content, known = w.contents[ino]; !known {
		n.content, err = contentOf(full, n.size)
		w.contents[ino] = n.content
	}
	return err
}

// lstat is what is known of a file without reading it.
func lstat(path string) (n node, st unix.Stat_t, err error) {
	if err := unix.Lstat(path, &st); err != nil {
		return n, st, fmt.Errorf("lstat %s: %w", path, err)
	}
	n = node{mode: st.Mode, uid: st.Uid, gid: st.Gid, mtime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec).UTC()}
	if n.xattrs, err = xattrsOf(path); err != nil {
		return n, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		n.size, n.links = st.Size, st.Nlink
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		n.target, err = os.Readlink(path)
	case unix.S_IFCHR, unix.S_IFBLK:
		n.device = st.Rdev
	}
	return n, st, err
}

// contentOf is the digest of a file. That it is as long as stat says is part of being right.
func contentOf(path string, size int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err == nil && n != size {
		err = fmt.Errorf("%s: has %d bytes, and the size %d", path, n, size)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)), err
}

// xattrsOf are the extended attributes of all namespaces that root sees.
func xattrsOf(path string) (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("llistxattr %s: %w", path, err)
	}
	attrs := map[string]string{}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("lgetxattr %s %s: %w", path, name, err)
		}
		attrs[name] = string(value[:size])
	}
	return attrs, nil
}
