package layer

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"time"
)

// compareUnpacked compares a blob's tree with what was unpacked of it. The times of folders don't count where files were put into
// them by another name.
func compareUnpacked(t *testing.T, dir string, blob []byte, looseTimes bool) {
	t.Helper()
	needRoot(t)
	p := newPlace(t)
	got, err := p.tree(t, blob)
	if err != nil {
		t.Fatal(err)
	}
	want := readUnpacked(t, dir)
	if len(want) != len(got) {
		t.Fatalf("-unpacked +shown\n%s", cmp.Diff(inWords(want), inWords(got)))
	}
	for i := range got {
		n := &got[i]
		// Who unpacks gives these the modes and times that he likes.
		if looseTimes && n.info.Mode&unix.S_IFMT == unix.S_IFDIR {
			n.info.Mtime, want[i].info.Mtime = time.Unix(0, 0), time.Unix(0, 0)
		}
		if n.info.Implied {
			n.info.Implied, n.info.Mode, n.info.UID, n.info.GID, n.info.Mtime = false, unix.S_IFDIR, 0, 0, time.Unix(0, 0)
			for k := range want {
				if want[k].path == n.path {
					want[k].info.Mode, want[k].info.UID, want[k].info.GID, want[k].info.Mtime = unix.S_IFDIR, 0, 0, time.Unix(0, 0)
				}
			}
		}
	}
	if diff := cmp.Diff(inWords(want), inWords(got)); diff != "" {
		t.Errorf("-unpacked +shown\n%s", diff)
	}
}

// readUnpacked reads a folder as a tree.
func readUnpacked(t *testing.T, dir string) (nodes []shown) {
	t.Helper()
	var visit func(path string)
	visit = func(path string) {
		n := readFile(t, filepath.Join(dir, path))
		n.path = path
		nodes = append(nodes, n)
		if n.info.Mode&unix.S_IFMT != unix.S_IFDIR {
			return
		}
		f, err := os.Open(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		names, err := f.Readdirnames(-1)
		if err != nil {
			t.Fatal(err)
		}
		sort.Strings(names)
		for _, name := range names {
			visit(strings.TrimPrefix(path+"/"+name, "./"))
		}
	}
	visit(".")
	return nodes
}

func readFile(t *testing.T, name string) (n shown) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Fatal(err)
	}
	n.info = Info{
		Ino: st.Ino, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size, Mtime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), Links: uint32(st.Nlink),
		Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.info.Links = 1
	case unix.S_IFREG:
		if st.Size <= 1<<28 {
			n.content, err = os.ReadFile(name)
		}
	case unix.S_IFLNK:
		n.info.Target, err = os.Readlink(name)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.xattrs = readXattrs(t, name)
	return n
}

func readXattrs(t *testing.T, name string) map[string]string {
	t.Helper()
	list := make([]byte, 64<<10)
	size, err := unix.Llistxattr(name, list)
	if err != nil {
		t.Fatal(err)
	}
	xattrs := map[string]string{}
	for key := range strings.SplitSeq(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00") {
		if key == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(name, key, value)
		if err != nil {
			t.Fatal(err)
		}
		xattrs[key] = string(value[:n])
	}
	return xattrs
}

// needRoot skips a test that makes devices or gives files to others, but not on CI.
func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		t.Fatal("this test needs root")
	default:
		t.Skip("this test needs root")
	}
}
