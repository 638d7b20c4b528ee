package layer

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The quotations are of the image-spec, layer.md.
func TestRoot(t *testing.T) {
	tests := map[string]struct {
		layers [][]string
		want   []string
	}{
		"no layers": {nil, nil},
		"one layer": {
			[][]string{{"etc/", "etc/passwd", "bin -> usr/bin"}},
			[]string{"bin: -> usr/bin @0", "etc: folder @0", "etc/passwd: etc/passwd @0"},
		},
		// "In the absence of any whiteout files in a layer changeset, the archive is extracted like a regular tar archive."
		"additions": {
			[][]string{{"a/", "a/x"}, {"a/", "a/y", "b"}, {"0", "a/x/", "a/x/z"}},
			[]string{"0: 0 @2", "a: folder @1", "a/x: folder @2", "a/x/z: a/x/z @2", "a/y: a/y @1", "b: b @1"},
		},
		// "If the entry and the existing path are both directories, then the existing path's attributes MUST be replaced by those of
		// the entry in the changeset."
		"folder over folder": {
			[][]string{{"a/", "a/x"}, {"a/"}},
			[]string{"a: folder @1", "a/x: a/x @0"},
		},
		"a folder that no entry describes has the attributes of the one below": {
			[][]string{{"a/", "a/x"}, {"a/y"}},
			[]string{"a: folder @0", "a/x: a/x @0", "a/y: a/y @1"},
		},
		"a folder that no layer describes": {
			[][]string{{"a/x"}, {"a/y"}},
			[]string{"a: folder implied", "a/x: a/x @0", "a/y: a/y @1"},
		},
		// "In all other cases, the implementation MUST do the semantic equivalent of the following: removing the file path,
		// recreating the file path, based on the contents and attributes of the changeset entry"
		"file over file": {
			[][]string{{"a"}, {"a -> b"}, {"a"}},
			[]string{"a: a @2"},
		},
		"file over folder": {
			[][]string{{"a/", "a/b/", "a/b/c"}, {"a"}},
			[]string{"a: a @1"},
		},
		"folder over file": {
			[][]string{{"a"}, {"a/", "a/b"}},
			[]string{"a: folder @1", "a/b: a/b @1"},
		},
		"a folder replaced by a file, and that by a folder": {
			[][]string{{"a/", "a/old"}, {"a"}, {"a/", "a/new"}},
			[]string{"a: folder @2", "a/new: a/new @2"},
		},
		"a folder replaced by a file, and that by a folder that no entry describes": {
			[][]string{{"a/", "a/old"}, {"a"}, {"a/new"}},
			[]string{"a: folder implied", "a/new: a/new @2"},
		},
		"a symbolic link replaced by a folder": {
			[][]string{{"usr/", "usr/bin/", "usr/bin/sh", "bin -> usr/bin"}, {"bin/", "bin/ls"}},
			[]string{"bin: folder @1", "bin/ls: bin/ls @1", "usr: folder @0", "usr/bin: folder @0", "usr/bin/sh: usr/bin/sh @0"},
		},
		"a symbolic link replaced by a folder that no entry describes": {
			[][]string{{"usr/", "bin -> usr"}, {"bin/ls"}},
			[]string{"bin: folder implied", "bin/ls: bin/ls @1", "usr: folder @0"},
		},
		// "To signify that the resource ./etc/my-app-config MUST be removed when the changeset is applied, the basename of the entry
		// is prefixed with .wh.."
		"the example of changes": {
			[][]string{
				{"./", "./etc/", "./etc/my-app-config", "./bin/", "./bin/my-app-binary", "./bin/my-app-tools"},
				{"./etc/my-app.d/", "./etc/my-app.d/default.cfg", "./bin/my-app-tools", "./etc/.wh.my-app-config"},
			},
			[]string{
				"bin: folder @0", "bin/my-app-binary: ./bin/my-app-binary @0", "bin/my-app-tools: ./bin/my-app-tools @1",
				"etc: folder @0", "etc/my-app.d: folder @1", "etc/my-app.d/default.cfg: ./etc/my-app.d/default.cfg @1",
			},
		},
		// "A whiteout file is an empty file with a special filename that signifies a path should be deleted."
		"whiteout of a folder": {
			[][]string{{"a/", "a/b/", "a/b/c", "d"}, {".wh.a"}},
			[]string{"d: d @0"},
		},
		"a whiteout below a whiteout": {
			[][]string{{"a/", "a/b", "a/c"}, {"a/.wh.b"}, {".wh.a"}, {"a/c"}},
			[]string{"a: folder implied", "a/c: a/c @3"},
		},
		"a removed file made anew, and removed again": {
			[][]string{{"a", "b"}, {".wh.a", ".wh.b"}, {"a", "b"}, {".wh.b"}},
			[]string{"a: a @2"},
		},
		"whiteouts of nothing": {
			[][]string{{".wh.a", "b"}, {".wh.c", "b/.wh.d", "e/.wh.f"}},
			[]string{"b: folder implied", "e: folder implied"},
		},
		// "As files prefixed with .wh. are special whiteout markers, it is not possible to create a filesystem which has a file or
		// directory with a name beginning with .wh.."
		"names that nothing can have": {
			[][]string{{".wh.", ".wh..", ".wh...", ".wh..wh.a", ".wh..wh.aufs", ".wh..wh.plnk/1", ".wh.b/c", "d"}},
			[]string{"d: d @0"},
		},
		"whiteouts of what is no name": {
			[][]string{{"a/", "a/b"}, {"a/.wh.", "a/.wh..", "a/.wh..."}},
			[]string{"a: folder @0", "a/b: a/b @0"},
		},
		// "Once a whiteout is applied, the whiteout itself MUST also be hidden."
		"whiteouts are hidden, whatever they are": {
			[][]string{{"a", "b", "c", "d"}, {".wh.a/", ".wh.b -> x", "e", ".wh.c => e", ".wh.d => nowhere"}},
			[]string{"e: e @1"},
		},
		// "Whiteout files MUST only apply to resources in lower/parent layers. Files that are present in the same layer as a
		// whiteout file can only be hidden by whiteout files in subsequent layers."
		"a whiteout beside its name": {
			[][]string{{"a", "b"}, {"a", ".wh.a", ".wh.b", "b"}},
			[]string{"a: a @1", "b: b @1"},
		},
		"a whiteout beside its folder": {
			[][]string{{"a/", "a/b/", "a/b/old"}, {"a/", "a/.wh.b", "a/b/", "a/b/new"}},
			[]string{"a: folder @1", "a/b: folder @1", "a/b/new: a/b/new @1"},
		},
		"a whiteout beside its folder that no entry describes": {
			[][]string{{"a/", "a/old"}, {".wh.a", "a/new"}},
			[]string{"a: folder implied", "a/new: a/new @1"},
		},
		"hidden by a later layer": {
			[][]string{{"a"}, {".wh.a", "a"}, {".wh.a"}},
			nil,
		},
		// "the original a/b directory is deleted and recreated with a/b/c/foo"
		"the example of a folder made anew": {
			[][]string{{"a/", "a/b/", "a/b/c/", "a/b/c/bar"}, {"a/", "a/.wh..wh..opq", "a/b/", "a/b/c/", "a/b/c/foo"}},
			[]string{"a: folder @1", "a/b: folder @1", "a/b/c: folder @1", "a/b/c/foo: a/b/c/foo @1"},
		},
		// "a/.wh..wh..opq is applied first, before creating the new version of a/b, regardless of the ordering in which the whiteout
		// file was encountered."
		"the same with the whiteout last": {
			[][]string{{"a/", "a/b/", "a/b/c/", "a/b/c/bar"}, {"a/", "a/b/", "a/b/c/", "a/b/c/foo", "a/.wh..wh..opq"}},
			[]string{"a: folder @1", "a/b: folder @1", "a/b/c: folder @1", "a/b/c/foo: a/b/c/foo @1"},
		},
		// "An opaque whiteout file hides all children of the bin/ including sub-directories and all descendants."
		"the example of an opaque whiteout": {
			[][]string{{"etc/", "etc/my-app-config", "bin/", "bin/my-app-binary", "bin/my-app-tools", "bin/tools/", "bin/tools/my-app-tool-one"},
				{"bin/", "bin/.wh..wh..opq"}},
			[]string{"bin: folder @1", "etc: folder @0", "etc/my-app-config: etc/my-app-config @0"},
		},
		// "Using explicit whiteout files, this would be equivalent to the following"
		"the same with explicit whiteouts": {
			[][]string{{"etc/", "etc/my-app-config", "bin/", "bin/my-app-binary", "bin/my-app-tools", "bin/tools/", "bin/tools/my-app-tool-one"},
				{"bin/", "bin/.wh.my-app-binary", "bin/.wh.my-app-tools", "bin/.wh.tools"}},
			[]string{"bin: folder @1", "etc: folder @0", "etc/my-app-config: etc/my-app-config @0"},
		},
		"an opaque root": {
			[][]string{{"a/", "a/b", "c"}, {".wh..wh..opq", "a/d"}},
			[]string{"a: folder implied", "a/d: a/d @1"},
		},
		// "all siblings are hidden in the lower layer": not the folder
		"an opaque folder that no entry describes": {
			[][]string{{"a/", "a/b/", "a/b/c"}, {"a/.wh..wh..opq"}, {"a/b/d"}},
			[]string{"a: folder @0", "a/b: folder implied", "a/b/d: a/b/d @2"},
		},
		"one that is made anew": {
			[][]string{{"a/", "a/b"}, {".wh.a", "a/.wh..wh..opq", "a/c"}},
			[]string{"a: folder implied", "a/c: a/c @1"},
		},
		"an opaque folder, and layers above it": {
			[][]string{{"a/", "a/0"}, {"a/", "a/1", "a/.wh..wh..opq"}, {"a/", "a/2"}},
			[]string{"a: folder @2", "a/1: a/1 @1", "a/2: a/2 @2"},
		},
		"an opaque folder inside another one": {
			[][]string{{"a/", "a/b/", "a/b/0", "a/c"}, {"a/b/", "a/b/.wh..wh..opq"}},
			[]string{"a: folder @0", "a/b: folder @1", "a/c: a/c @0"},
		},
		"names in the order of their bytes": {
			[][]string{{"a/x", "a-", "\xff", "B", "é"}, {"a", "\x01", "a b", "_", ".z", ".wh.B"}, {"-", ".a", ".wh.é", ".wh.\xff\xfe"}},
			[]string{
				"\x01: \x01 @1", "-: - @2", ".a: .a @2", ".z: .z @1", "_: _ @1", "a: a @1", "a b: a b @1", "a-: a- @0", "\xff: \xff @0",
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, test.layers...)
			if diff := cmp.Diff(test.want, show(t, s.root())); diff != "" {
				t.Error(diff)
			}
		})
	}
}
