package layer

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHardLinks(t *testing.T) {
	tests := map[string]struct {
		layers   [][]string
		want     []string
		reported []string
	}{
		"within a layer": {
			layers: [][]string{{"a", "d/", "d/b => a", "c => a"}},
			want:   []string{"a: a @0 ×3", "c: a @0 ×3", "d: folder @0", "d/b: a @0 ×3"},
		},
		// "Hardlinked files are on a same device (i.e. comparing Major:Minor pair) and have the same inode."
		"to a lower layer": {
			layers: [][]string{{"a"}, {"b => a"}, {"c => a", "d/e => b"}},
			want:   []string{"a: a @0 ×4", "b: a @0 ×4", "c: a @0 ×4", "d: folder implied", "d/e: a @0 ×4"},
		},
		"to a link of the same layer": {
			layers: [][]string{{"a", "x/"}, {"b => a", "c => b", "d => c", "b", "y => x", "z => y"}},
			want:   []string{"a: a @0 ×3", "b: b @1", "c: a @0 ×3", "d: a @0 ×3", "x: folder @0"},
			reported: []string{
				`1: hard links to files that no lower layer has are left out: "y", "z"`,
			},
		},
		"to a file that has several names": {
			layers: [][]string{{"a", "b => a"}, {"c => b"}},
			want:   []string{"a: a @0 ×3", "b: a @0 ×3", "c: a @0 ×3"},
		},
		"to a symbolic link": {
			layers: [][]string{{"a -> x"}, {"b => a"}},
			want:   []string{"a: -> x @0 ×2", "b: -> x @0 ×2"},
		},
		"names that are removed or replaced don't count": {
			layers: [][]string{{"a", "b => a", "c => a", "d/", "d/e => a"}, {".wh.b", "c", ".wh.d"}},
			want:   []string{"a: a @0", "c: c @1"},
		},
		"nor do those that can't be seen": {
			layers: [][]string{{".wh..wh.plnk/1", "a => .wh..wh.plnk/1", "b => .wh..wh.plnk/1"}},
			want:   []string{"a: .wh..wh.plnk/1 @0 ×2", "b: .wh..wh.plnk/1 @0 ×2"},
		},
		"to a file that the same layer removes": {
			layers: [][]string{{"a"}, {"b => a", ".wh.a"}},
			want:   []string{"b: a @0"},
		},
		"to a file that the same layer replaces": {
			layers: [][]string{{"a"}, {"b => a", "a"}},
			want:   []string{"a: a @1", "b: a @0"},
		},
		"to a file that a later layer replaces": {
			layers: [][]string{{"a"}, {"b => a"}, {"a"}},
			want:   []string{"a: a @2", "b: a @0"},
		},
		"a link that is replaced": {
			layers: [][]string{{"a"}, {"b => a", "c => a"}, {"b"}},
			want:   []string{"a: a @0 ×2", "b: b @2", "c: a @0 ×2"},
		},
		"the same link once more": {
			layers: [][]string{{"a"}, {"b => a"}, {"b => a"}},
			want:   []string{"a: a @0 ×2", "b: a @0 ×2"},
		},
		"to the highest of several files": {
			layers: [][]string{{"a"}, {"a"}, {"b => a"}},
			want:   []string{"a: a @1 ×2", "b: a @1 ×2"},
		},
		"to itself": {
			layers: [][]string{{"a"}, {"a => a"}, {"a => a"}},
			want:   []string{"a: a @0"},
		},
		"in a circle": {
			layers: [][]string{{"a", "b"}, {"a => b"}, {"b => a"}, {"a => b"}},
			want:   []string{"a: b @0 ×2", "b: b @0 ×2"},
		},
		"through symbolic links": {
			layers: [][]string{
				{"usr/", "usr/bin/", "usr/bin/a", "bin -> usr/bin", "l -> ../../bin/", "abs -> /l"},
				{"bin2 => bin"}, {"b => bin/a", "c => abs/a", "d => bin2/a"},
			},
			want: []string{
				"abs: -> /l @0", "b: usr/bin/a @0 ×4", "bin: -> usr/bin @0 ×2", "bin2: -> usr/bin @0 ×2", "c: usr/bin/a @0 ×4",
				"d: usr/bin/a @0 ×4", "l: -> ../../bin/ @0", "usr: folder @0", "usr/bin: folder @0", "usr/bin/a: usr/bin/a @0 ×4",
			},
		},
		"through symbolic links that lead to nothing": {
			layers:   [][]string{{"a", "l -> l/x", "m -> m", "n -> nothing", "p -> a"}, {"b => l/a", "c => m/a", "d => n/a", "e => p/a"}},
			want:     []string{"a: a @0", "l: -> l/x @0", "m: -> m @0", "n: -> nothing @0", "p: -> a @0"},
			reported: []string{`1: hard links to files that no lower layer has are left out: "b", "c", "d" and 1 more`},
		},
		"a name behind a symbolic link is not the file's": {
			layers: [][]string{{"d/", "d/x", "e/", "e/x => d/x"}, {"d -> e"}},
			want:   []string{"d: -> e @1", "e: folder @0", "e/x: d/x @0"},
		},
		// "Extracting a layer with hardlink references to files outside of the layer may fail."
		"to nothing": {
			layers: [][]string{{"a => b", "c"}, {"b", "d => nothing", "e => gone/f", "g => c/h", "i => .wh.c"}},
			want:   []string{"b: b @1", "c: c @0"},
			reported: []string{
				`1: hard links to files that no lower layer has are left out: "d", "e", "g" and 1 more`,
				`0: hard links to files that no lower layer has are left out: "a"`,
			},
		},
		"to nothing, in place of something": {
			layers:   [][]string{{"a"}, {"a => b"}},
			reported: []string{`1: hard links to files that no lower layer has are left out: "a"`},
		},
		"to a removed file": {
			layers:   [][]string{{"a"}, {".wh.a"}, {"b => a"}},
			reported: []string{`2: hard links to files that no lower layer has are left out: "b"`},
		},
		"to a folder": {
			layers:   [][]string{{"a/"}, {"b => a"}},
			want:     []string{"a: folder @0"},
			reported: []string{`1: hard links to files that no lower layer has are left out: "b"`},
		},
		"to a link to nothing": {
			layers: [][]string{{"a => nothing"}, {"b => a"}},
			reported: []string{
				`1: hard links to files that no lower layer has are left out: "b"`,
				`0: hard links to files that no lower layer has are left out: "a"`,
			},
		},
		"a link to nothing that is replaced is nobody's problem": {
			layers: [][]string{{"a => nothing"}, {"a"}},
			want:   []string{"a: a @1"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, test.layers...)
			if diff := cmp.Diff(test.want, show(t, s.root())); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.reported, s.reported); diff != "" {
				t.Error("reported:", diff)
			}
		})
	}
}
