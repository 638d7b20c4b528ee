package layer

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// root is an entry for the root.
var root = ent{name: "./", typ: '5'}

// tarTest is an archive, and what is in its tree.
type tarTest struct {
	blob     []byte
	want     []string
	problems []string
	// differs says why GNU tar unpacks something else, where it does.
	differs string
}

var tarTests = map[string]tarTest{
	"ustar": {
		blob: archive(root, ent{name: "a", body: "content", mode: 0o4755, uid: 1, gid: 2, mtime: 3}, ent{name: "d/", typ: '5', mode: 0o1777}, ent{name: "d/b", body: "x"}),
		want: []string{`. d755`, `a f4755 1:2 @3.000000000 "content"`, `d d1777`, `d/b f644 "x"`},
	},
	"ustar prefix": {
		blob: archive(root, ent{name: "base", body: "x", edit: func(h []byte) { copy(h[345:], "pre/fix") }}),
		want: []string{`. d755`, `pre d755 implied`, `pre/fix d755 implied`, `pre/fix/base f644 "x"`},
	},
	"v7": {
		blob: archive(ent{name: "./", typ: v7, magic: oldMagic, mode: 0o755}, ent{name: "d/", typ: v7, magic: oldMagic, mode: 0o700}, ent{name: "d/a", typ: v7, magic: oldMagic, body: "old"},
			ent{name: "l", typ: '2', magic: oldMagic, link: "d/a"}, ent{name: "h", typ: '1', magic: oldMagic, link: "d/a"}),
		want: []string{`. d755`, `d d700`, `d/a f644 "old" 2`, `h f644 "old" 2=d/a`, `l l -> "d/a"`},
	},
	"the type 0 byte": {
		blob: archive(root, ent{name: "a", typ: v7, body: "x"}, ent{name: "b", typ: '7', body: "contiguous"}),
		want: []string{`. d755`, `a f644 "x"`, `b f644 "contiguous"`},
	},
	"gnu long names": {
		blob: archive(root, ent{name: "././@LongLink", typ: 'L', magic: gnuMagic, body: long(200) + "\x00"}, ent{name: long(99), magic: gnuMagic, body: "x"},
			ent{name: "././@LongLink", typ: 'K', magic: gnuMagic, body: long(200) + "\x00"}, ent{name: "././@LongLink", typ: 'L', magic: gnuMagic, body: "s" + long(150) + "\x00"},
			ent{name: "s", typ: '2', magic: gnuMagic, link: "n", mode: 0o777}),
		want: []string{`. d755`, long(200) + ` f644 "x"`, "s" + long(150) + ` l -> "nnnnnnnn"…200`},
	},
	"pax path and link": {
		blob: archive(root, ent{name: "short", body: "x", pax: map[string]string{"path": "p/" + long(255), "mtime": "-1.25", "uid": "4294967294", "gid": "3000000"}},
			ent{name: "short", typ: '2', link: "short", mode: 0o777, pax: map[string]string{"path": "s", "linkpath": "../" + long(300), "mtime": "1700000000.123456789123"}}),
		want: []string{`. d755`, `p d755 implied`, `p/` + long(255) + ` f644 4294967294:3000000 @-2.750000000 "x"`, `s l @1700000000.123456789 -> "../nnnnn"…303`},
	},
	"sub-second times behind GNU's": {
		blob: archive(root, ent{name: "a", pax: map[string]string{"mtime": "-0.5"}}, ent{name: "b", mtime: -5, magic: gnuMagic}),
		want: []string{`. d755`, `a f644 @-1.500000000 ""`, `b f644 @-5.000000000 ""`},
	},
	"binary numbers": {
		blob: archive(root, ent{name: "a", uid: 1<<32 - 2, gid: 1 << 24, mtime: 1 << 34, magic: gnuMagic}),
		want: []string{`. d755`, `a f644 4294967294:16777216 @17179869184.000000000 ""`},
		// ext4 has no such times
		differs: "the file system's times end before",
	},
	"owners that are none": {
		blob:     archive(root, ent{name: "a", uid: 1<<32 - 1}, ent{name: "b", gid: -1, magic: gnuMagic}, ent{name: "c", pax: map[string]string{"uid": "99999999999"}}),
		want:     []string{`. d755`},
		problems: []string{`"a" is left out: the owner 4294967295:0`, `"b" is left out: the owner 0:-1`, `"c" is left out: the owner 99999999999:0`},
		differs:  "it takes them modulo something",
	},
	"hard links": {
		blob: archive(root, ent{name: "a", body: "x", uid: 7}, ent{name: "b", typ: '1', link: "./a"}, ent{name: "c", typ: '1', link: "/b"}, ent{name: "0", typ: '1', link: "c"}),
		want: []string{`. d755`, `0 f644 7:0 "x" 4`, `a f644 7:0 "x" 4=0`, `b f644 7:0 "x" 4=0`, `c f644 7:0 "x" 4=0`},
	},
	"hard links mean the version at their time": {
		blob: archive(root, ent{name: "a", body: "1"}, ent{name: "one", typ: '1', link: "a"}, ent{name: "a", body: "2"}, ent{name: "two", typ: '1', link: "a"}, ent{name: "a", body: "3"}),
		want: []string{`. d755`, `a f644 "3"`, `one f644 "1"`, `two f644 "2"`},
	},
	"a hard link to a hard link that is replaced": {
		blob: archive(root, ent{name: "a", body: "1"}, ent{name: "b", typ: '1', link: "a"}, ent{name: "c", typ: '1', link: "b"}, ent{name: "b", body: "2"}),
		want: []string{`. d755`, `a f644 "1" 2`, `b f644 "2"`, `c f644 "1" 2=a`},
	},
	"a hard link to itself": {
		blob: archive(root, ent{name: "a", body: "1"}, ent{name: "a", typ: '1', link: "a"}),
		want: []string{`. d755`, `a f644 "1"`},
	},
	"hard links to other kinds": {
		blob: archive(root, ent{name: "s", typ: '2', link: "x", mode: 0o777}, ent{name: "t", typ: '1', link: "s"}, ent{name: "p", typ: '6'}, ent{name: "q", typ: '1', link: "p"}),
		want: []string{`. d755`, `p p644 2`, `q p644 2=p`, `s l -> "x" 2`, `t l -> "x" 2=s`},
	},
	"hard links to what is not there": {
		blob:    archive(root, ent{name: "a", typ: '1', link: "lower/file"}, ent{name: "b", typ: '1', link: "later"}, ent{name: "later"}, ent{name: "c", typ: '1', link: "c"}),
		want:    []string{`. d755`, `a ?0 => lower/file`, `b ?0 => later`, `c ?0 => c`, `later f644 ""`},
		differs: "these are files of lower layers",
	},
	"a hard link out of the tree": {
		blob:     archive(root, ent{name: "a", typ: '1', link: "../../etc/passwd"}),
		want:     []string{`. d755`},
		problems: []string{`"a" is left out: a hard link to a name with a .. in it`},
		differs:  "it fails",
	},
	"a hard link to a folder": {
		blob:     archive(root, ent{name: "d/", typ: '5'}, ent{name: "h", typ: '1', link: "d"}),
		want:     []string{`. d755`, `d d755`, `h ?0 => `},
		problems: []string{`"h" is left out: a hard link to a folder`},
		differs:  "it fails",
	},
	"devices and fifos": {
		blob: archive(root, ent{name: "c", typ: '3', major: 1, minor: 3, mode: 0o666}, ent{name: "b", typ: '4', major: 259, minor: 70000}, ent{name: "p", typ: '6', mode: 0o600}, ent{name: "w", typ: '3'}),
		want: []string{`. d755`, `b b644 (259,70000)`, `c c666 (1,3)`, `p p600`, `w c644 (0,0)`},
	},
	"extended attributes": {
		blob: archive(root, ent{name: "a", pax: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "SCHILY.xattr.user.b": "two\nlines", "SCHILY.xattr.user.empty": ""}}),
		want: []string{`. d755`, `a f644 "" {security.capability="\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"} {user.b="two\nlines"} {user.empty=""}`},
	},
	"overlayfs's attributes": {
		blob:    archive(root, ent{name: "a/", typ: '5', pax: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/x", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.user.a": "1"}}),
		want:    []string{`. d755`, `a d755 {user.a="1"}`},
		differs: "it writes them",
	},
	"too many attributes": {
		blob:     archive(root, ent{name: "a", pax: map[string]string{"SCHILY.xattr.user.a": long(40000), "SCHILY.xattr.user.b": long(40000)}}),
		want:     []string{`. d755`},
		problems: []string{`"a" is left out: extended attributes of 80012 bytes`},
		differs:  "it writes what the file system takes",
	},
	"duplicates": {
		blob: archive(root, ent{name: "a", body: "first"}, ent{name: "d/", typ: '5', mode: 0o700}, ent{name: "d/x"}, ent{name: "./a", body: "second"}, ent{name: "d", typ: '5', mode: 0o711}, ent{name: "s", typ: '2', link: "a", mode: 0o777}, ent{name: "s", body: "file"}),
		want: []string{`. d755`, `a f644 "second"`, `d d711`, `d/x f644 ""`, `s f644 "file"`},
	},
	"missing parents": {
		blob: archive(ent{name: "a/b/c", body: "x"}, ent{name: "a/", typ: '5', mode: 0o700}, ent{name: "e/f/", typ: '5', mode: 0o711}),
		want: []string{`. d755 implied`, `a d700`, `a/b d755 implied`, `a/b/c f644 "x"`, `e d755 implied`, `e/f d711`},
	},
	"names to be cleaned": {
		blob: archive(ent{name: "/", typ: '5', mode: 0o700}, ent{name: "//a//./b", body: "1"}, ent{name: "././/c/", typ: '5'}, ent{name: "./d", body: "2"}, ent{name: ".", typ: '5', mode: 0o711}),
		want: []string{`. d711`, `a d755 implied`, `a/b f644 "1"`, `c d755`, `d f644 "2"`},
	},
	"names with dots": {
		blob:     archive(root, ent{name: "../a", body: "1"}, ent{name: "b/../c", body: "1"}, ent{name: "..", typ: '5'}, ent{name: "...", body: "2"}, ent{name: "..a", body: "3"}),
		want:     []string{`. d755`, `... f644 "2"`, `..a f644 "3"`},
		problems: []string{`"../a" is left out: a name with a .. in it`, `"b/../c" is left out: a name with a .. in it`, `".." is left out: a name with a .. in it`},
		differs:  "it fails",
	},
	"an empty name": {
		blob:     archive(root, ent{name: "", body: "x"}, ent{name: "", typ: '5', mode: 0o711}, ent{name: "a"}),
		want:     []string{`. d711`, `a f644 ""`},
		problems: []string{`"/" is left out: the root is not a folder`},
		differs:  "it fails",
	},
	"a root that is a file": {
		blob:     archive(ent{name: "./", body: "x"}, ent{name: "a"}),
		want:     []string{`. d755 implied`, `a f644 ""`},
		problems: []string{`"/" is left out: the root is not a folder`},
		differs:  "it fails",
	},
	"the root's attributes": {
		blob: archive(ent{name: "./", typ: '5', mode: 0o1750, uid: 3, gid: 4, mtime: 5, pax: map[string]string{"SCHILY.xattr.user.r": "1"}}),
		want: []string{`. d1750 3:4 @5.000000000 {user.r="1"}`},
	},
	"a folder replaced by a file and back": {
		blob:    archive(root, ent{name: "a/", typ: '5', mode: 0o700}, ent{name: "a/x", body: "1"}, ent{name: "a/d/y", body: "1"}, ent{name: "h", typ: '1', link: "a/x"}, ent{name: "a", body: "file"}, ent{name: "a/", typ: '5'}, ent{name: "a/z", body: "2"}, ent{name: "a/d/w"}),
		want:    []string{`. d755`, `a d755`, `a/d d755 implied`, `a/d/w f644 ""`, `a/z f644 "2"`, `h f644 "1"`},
		differs: "it leaves a folder that is not empty",
	},
	"below a file": {
		blob:     archive(root, ent{name: "a", body: "x"}, ent{name: "a/b", body: "y"}, ent{name: "a/c/d", body: "y"}, ent{name: "h", typ: '1', link: "a/b"}),
		want:     []string{`. d755`, `a f644 "x"`, `h ?0 => a/b`},
		problems: []string{`"a/b" is left out: a folder above it is a file`, `"a/c/d" is left out: a folder above it is a file`},
		differs:  "it fails",
	},
	"below a symbolic link": {
		blob: archive(root, ent{name: "usr/", typ: '5'}, ent{name: "usr/lib/", typ: '5', mode: 0o700}, ent{name: "lib", typ: '2', link: "usr/lib", mode: 0o777}, ent{name: "lib/foo", body: "x"}, ent{name: "lib/d/", typ: '5', mode: 0o711},
			ent{name: "lib/d/e", body: "y"}, ent{name: "h", typ: '1', link: "lib/foo"}, ent{name: "usr/lib/foo2", typ: '1', link: "h"}),
		want: []string{`. d755`, `h f644 "x" 3`, `lib l -> "usr/lib"`, `usr d755`, `usr/lib d700`, `usr/lib/d d711`, `usr/lib/d/e f644 "y"`, `usr/lib/foo f644 "x" 3=h`, `usr/lib/foo2 f644 "x" 3=h`},
	},
	"below symbolic links to symbolic links": {
		blob: archive(root, ent{name: "a", typ: '2', link: "/b/c", mode: 0o777}, ent{name: "b/", typ: '5'}, ent{name: "b/c", typ: '2', link: "../../../d", mode: 0o777}, ent{name: "d/", typ: '5'},
			ent{name: "a/x", body: "1"}, ent{name: "a/l", typ: '2', link: "..", mode: 0o777}, ent{name: "a/l/y", body: "2"}, ent{name: "lower", typ: '1', link: "a/nothing"}),
		want:    []string{`. d755`, `a l -> "/b/c"`, `b d755`, `b/c l -> "../../../d"`, `d d755`, `d/l l -> ".."`, `d/x f644 "1"`, `lower ?0 => d/nothing`, `y f644 "2"`},
		differs: "it follows links out of the folder, or none",
	},
	"below a symbolic link of the time": {
		blob: archive(root, ent{name: "a/", typ: '5'}, ent{name: "b/", typ: '5'}, ent{name: "l", typ: '2', link: "a", mode: 0o777}, ent{name: "l/x", body: "1"}, ent{name: "l", typ: '2', link: "b", mode: 0o777}, ent{name: "l/x", body: "2"},
			ent{name: "l/", typ: '5'}, ent{name: "l/x", body: "3"}),
		want: []string{`. d755`, `a d755`, `a/x f644 "1"`, `b d755`, `b/x f644 "2"`, `l d755`, `l/x f644 "3"`},
	},
	"symbolic links in a circle": {
		blob:     archive(root, ent{name: "a", typ: '2', link: "a"}, ent{name: "a/x"}, ent{name: "b", typ: '2', link: "c"}, ent{name: "c", typ: '2', link: "b"}, ent{name: "b/x"}, ent{name: "e", typ: '2', link: "e/e"}, ent{name: "e/x"}),
		want:     []string{`. d755`, `a l -> "a"`, `b l -> "c"`, `c l -> "b"`, `e l -> "e/e"`},
		problems: []string{`"a/x" is left out: too many symbolic links above it`, `"b/x" is left out: too many symbolic links above it`, `"e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/e/x" is left out: too many symbolic links above it`},
		differs:  "it fails",
	},
	"symbolic links to nowhere": {
		blob:     archive(root, ent{name: "a", typ: '2', link: "\n/"}, ent{name: "b", typ: '2', mode: 0o777}, ent{name: "c", typ: '2', link: "c", mode: 0o777}, ent{name: "d", typ: '2', link: "x", pax: map[string]string{"linkpath": strings.Repeat("y/", 2048)}}),
		want:     []string{`. d755`, `a l -> "\n/"`, `c l -> "c"`},
		problems: []string{`"b" is left out: a symbolic link's target of 0 bytes, or with a NUL`, `"d" is left out: a symbolic link's target of 4096 bytes, or with a NUL`},
		differs:  "it fails",
	},
	"a global header": {
		blob: archive(ent{name: "pax_global_header", typ: 'g', body: paxRecord("comment", "0123456789")}, root, ent{name: "a", body: "x"}, ent{name: "g", typ: 'g', body: paxRecord("comment", "again")}, ent{name: "b", body: "yy", pax: map[string]string{"mtime": "1"}}),
		want: []string{`. d755`, `a f644 "x"`, `b f644 @1.000000000 "yy"`},
	},
	"a sparse file behind a global header": {
		blob: archive(root, ent{name: "g", typ: 'g', body: paxRecord("comment", "c")}, ent{name: "s", body: "abcdef", pax: map[string]string{
			"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.numblocks": "2", "GNU.sparse.map": "1,3,6,3", "GNU.sparse.size": "10", "GNU.sparse.name": "real"}}, ent{name: "z", body: "z"}),
		want:    []string{`. d755`, `real f644 "\x00abc\x00\x00def\x00"`, `z f644 "z"`},
		differs: "it wants the number before the map",
	},
	"concatenated archives": {
		blob: append(archive(root, ent{name: "a", body: "x"}), archive(ent{name: "b", body: "y"})...),
		want: []string{`. d755`, `a f644 "x"`},
	},
	"no end": {
		blob: headless(root, ent{name: "a", body: "x"}),
		want: []string{`. d755`, `a f644 "x"`},
	},
	"half an end": {
		blob: append(headless(root, ent{name: "a", body: "x"}), make([]byte, 512)...),
		want: []string{`. d755`, `a f644 "x"`},
	},
	"nothing":          {blob: archive(), want: []string{`. d755 implied`}},
	"nothing at all":   {blob: []byte{}, want: []string{`. d755 implied`}, differs: "it wants an archive"},
	"more zeros":       {blob: append(archive(root), make([]byte, 10240)...), want: []string{`. d755`}},
	"garbage after it": {blob: append(archive(root), long(3000)...), want: []string{`. d755`}},
	"unknown types": {
		blob:     archive(root, ent{name: "a", typ: 'Z', body: "x"}, ent{name: "V", typ: 'V'}, ent{name: "d", typ: 'D', body: "Yx\x00\x00"}, ent{name: "b", body: "y"}),
		want:     []string{`. d755`, `b f644 "y"`},
		problems: []string{`"a" is left out: an entry of the unknown type 'Z'`, `"V" is left out: an entry of the unknown type 'V'`, `"d" is left out: an entry of the unknown type 'D'`},
		differs:  "it takes them for files",
	},
	"names that are too long": {
		blob:     archive(root, ent{name: "x", pax: map[string]string{"path": long(255)}}, ent{name: "x", pax: map[string]string{"path": long(256)}}, ent{name: "x", pax: map[string]string{"path": longPath(4096)}}),
		want:     []string{`. d755`, long(255) + ` f644 ""`},
		problems: []string{`"` + long(200) + `…" is left out: a name that is too long`, `"` + longPath(4096)[:200] + `…" is left out: a name that is too long`},
		differs:  "it fails",
	},
	"odd names": {
		blob: archive(root, ent{name: "new\nline", body: "1"}, ent{name: "\xff\xfe", body: "2"}, ent{name: "-", body: "3"}, ent{name: "a b", body: "4"}, ent{name: "x", body: "5", pax: map[string]string{"path": "\x80pax"}}, ent{name: `\`, body: "6"}, ent{name: "\x01", body: "7"}),
		want: []string{`. d755`, "\x01 f644 \"7\"", `- f644 "3"`, `\ f644 "6"`, `a b f644 "4"`, "new\nline f644 \"1\"", "\x80pax f644 \"5\"", "\xff\xfe f644 \"2\""},
	},
	"the order of names": {
		blob: archive(root, ent{name: "a.b"}, ent{name: "a/", typ: '5'}, ent{name: "a/z"}, ent{name: "a-"}, ent{name: "aa"}, ent{name: "a\x01"}),
		want: []string{`. d755`, `a d755`, `a/z f644 ""`, "a\x01 f644 \"\"", `a- f644 ""`, `a.b f644 ""`, `aa f644 ""`},
	},
	"sizes where there is no content": {
		blob: archive(root, ent{name: "d/", typ: '5', size: 1000}, ent{name: "s", typ: '2', link: "x", size: 5, mode: 0o777}, ent{name: "p", typ: '6', size: 7}, ent{name: "a", body: "x"}, ent{name: "h", typ: '1', link: "a", size: 1}),
		want: []string{`. d755`, `a f644 "x" 2`, `d d755`, `h f644 "x" 2=a`, `p p644`, `s l -> "x"`},
		// cpio's and pax's hard links with content are not what container tools write
		differs: "it skips the sizes of some",
	},
	"a size in an extended header": {
		blob: archive(root, ent{name: "a", body: long(600), pax: map[string]string{"size": "600"}, edit: func(h []byte) { number8(h[124:136], 0) }}, ent{name: "b", body: "x"}),
		want: []string{`. d755`, `a f644 "nnnnnnnn"…600`, `b f644 "x"`},
	},
	"whiteouts": {
		blob: archive(root, ent{name: ".wh.gone"}, ent{name: "d/.wh..wh..opq"}),
		want: []string{`. d755`, `.wh.gone f644 ""`, `d d755 implied`, `d/.wh..wh..opq f644 ""`},
	},
}

func TestTar(t *testing.T) {
	for name, test := range tarTests {
		for form, blob := range map[string][]byte{"plain": test.blob, "gzip": gz(t, test.blob), "zstd": zs(t, test.blob)} {
			t.Run(name+"/"+form, func(t *testing.T) {
				p := newPlace(t)
				nodes, err := p.tree(t, blob)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.want, inWords(nodes)); diff != "" {
					t.Errorf("the tree: -want +got\n%s", diff)
				}
				if diff := cmp.Diff(test.problems, p.problems); diff != "" {
					t.Errorf("problems: -want +got\n%s", diff)
				}
			})
		}
	}
}

// A path of the greatest length is there, and found.
func TestLongestPath(t *testing.T) {
	p := newPlace(t)
	path := longPath(4095)
	nodes, err := p.tree(t, archive(ent{name: "x", body: "deep", pax: map[string]string{"path": path}}))
	if err != nil {
		t.Fatal(err)
	}
	if last := nodes[len(nodes)-1]; last.path != path || string(last.content) != "deep" || len(p.problems) > 0 {
		t.Errorf("%d bytes of path, %q, %q", len(last.path), last.content, p.problems)
	}
}

// What GNU tar unpacks is what is shown.
func TestAsUnpacked(t *testing.T) {
	for name, test := range tarTests {
		if test.differs != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			unpack := exec.Command("tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", dir)
			unpack.Stdin = strings.NewReader(string(test.blob))
			if out, err := unpack.CombinedOutput(); err != nil && !slices.Contains([]string{"garbage after it"}, name) {
				t.Fatalf("%v: %s", err, out)
			}
			compareUnpacked(t, dir, test.blob, strings.HasPrefix(name, "below"))
		})
	}
}
