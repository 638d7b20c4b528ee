//go:build linux

package mount_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTreesAreCompared changes a tree in every way, one at a time, and expects to be told of each.
func TestTreesAreCompared(t *testing.T) {
	needRoot(t)
	const sample = `mkdir -p a/b; echo content > a/f; ln a/f a/g; echo content > a/other; ln a/other a/another; ln -s f a/l; mknod a/c c 1 3; mkfifo a/p
		setfattr -n user.x -v 1 a/f; setfattr -h -n trusted.y -v 2 a/l; find . -exec touch -h -d "2020-01-02 03:04:05.678" {} +`
	const times = `; find . -exec touch -h -d "2020-01-02 03:04:05.678" {} +`
	made := func(script string) tree {
		dir := filepath.Join(t.TempDir(), "tree")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "sh", "-ec", "umask 022; cd "+dir+"; "+sample+"; "+script)
		return walk(t, dir)
	}
	original := made(":")
	for _, test := range []struct {
		change string
		want   []string
	}{
		{":", nil},
		{"touch -a a/f", nil},
		{"chmod 4755 a/p", []string{"a/p: mode"}},
		{"chown -h 1 a/l", []string{"a/l: owner"}},
		{"chown :1 a/b", []string{"a/b: group"}},
		{"touch -h -d '2020-01-02 03:04:05.679' a/l", []string{"a/l: mtime"}},
		{"touch -d '1960-01-02 03:04:05' .", []string{".: mtime"}},
		{"printf CONTENT'\\n' > a/f" + times, []string{"a/f: content", "a/g: content"}},
		{"echo more >> a/f" + times, []string{"a/f: size", "a/f: content", "a/g: size", "a/g: content"}},
		{"rm a/p" + times, []string{"a/p: is missing"}},
		{"touch a/b/n" + times, []string{"a/b/n: should not"}},
		{"rm a/p; mkdir a/p" + times, []string{"a/p: mode", "a/p: link count", "a/p: list of names"}},
		{"ln -sfn g a/l; setfattr -h -n trusted.y -v 2 a/l" + times, []string{"a/l: target"}},
		{"setfattr -n user.x -v 2 a/f", []string{"a/f: xattrs", "a/g: xattrs"}},
		{"setfattr -h -x trusted.y a/l", []string{"a/l: xattrs"}},
		{"rm a/c; mknod a/c c 1 5" + times, []string{"a/c: device"}},
		{"rm a/c; mknod a/c b 1 3" + times, []string{"a/c: mode"}},
		{"ln a/f a/h" + times, []string{"a/f: link count", "a/f: list of names", "a/g: link count", "a/g: list of names", "a/h: should not"}},
		{"cp -a --remove-destination a/other a/another", []string{
			"a/another: link count", "a/another: list of names", "a/other: link count", "a/other: list of names",
		}},
	} {
		found := differences(original, made(test.change))
		// What a change in a folder does to the folder's time is not the point.
		found = slices.DeleteFunc(found, func(f string) bool { return strings.HasPrefix(f, "a: mtime") })
		for i, f := range found {
			for _, want := range test.want {
				if strings.HasPrefix(f, want) {
					found[i] = want
				}
			}
		}
		if diff := cmp.Diff(test.want, found); diff != "" {
			t.Errorf("%s: %s", test.change, diff)
		}
	}
}
