package layer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// writeSparse writes a file with fragments of random content at multiples of a step, and a hole at its end or none.
func writeSparse(t *testing.T, name string, fragments int, step, size int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rnd := rand.New(rand.NewPCG(1, uint64(fragments)))
	for i := range fragments {
		if _, err := f.WriteAt([]byte(strings.Repeat(fmt.Sprint(rnd.Uint64()), 100)), int64(i+1)*step); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// real is a folder with all kinds of files.
func realFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(file("d/e"), 0o750))
	must(os.WriteFile(file("d/plain"), []byte("plain"), 0o640))
	must(os.Link(file("d/plain"), file("d/e/linked")))
	must(os.Symlink("../plain", file("d/e/symbolic")))
	must(unix.Mkfifo(file("fifo"), 0o600))
	must(unix.Mknod(file("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(file("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 17))))
	must(os.Chown(file("d/plain"), 1234, 56789))
	must(os.Chmod(file("d/plain"), os.ModeSetuid|0o755))
	must(os.WriteFile(file("empty"), nil, 0o644))
	writeSparse(t, file("hole"), 0, 1, 1<<20)
	writeSparse(t, file("one"), 1, 1<<16, 1<<20)
	writeSparse(t, file("four"), 4, 1<<15, 1<<20)
	writeSparse(t, file("five"), 5, 1<<15, 5<<15+2000)
	writeSparse(t, file("many"), 100, 1<<14, 3<<20)
	writeSparse(t, file("large"), 3, 3<<30, 10<<30)
	must(filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
		when := unix.NsecToTimespec(time.Unix(1234567890, 0).UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW)
	}))
	return dir
}

// What GNU tar packs, in all its formats, is what is shown.
func TestPacked(t *testing.T) {
	needRoot(t)
	dir := realFolder(t)
	want := inWords(readUnpacked(t, dir))
	for _, format := range []string{
		"--format=oldgnu -S", "--format=gnu -S", "--format=posix -S --sparse-version=0.0", "--format=posix -S --sparse-version=0.1", "--format=posix -S --sparse-version=1.0",
		"--format=v7", "--format=ustar", "--format=gnu", "--format=posix --xattrs",
	} {
		t.Run(format, func(t *testing.T) {
			args := append([]string{"--numeric-owner", "--sort=name"}, strings.Fields(format)...)
			left := map[string]bool{}
			if !strings.Contains(format, "-S") {
				args, left["large"] = append(args, "--exclude=./large"), true
			}
			if strings.Contains(format, "v7") { // it knows no devices
				args = append(args, "--exclude=./fifo", "--exclude=./null", "--exclude=./disk")
				left["fifo"], left["null"], left["disk"] = true, true, true
			}
			out, err := exec.Command("tar", append(args, "-C", dir, "-c", ".")...).Output()
			if err != nil {
				t.Fatal(err)
			}
			p := newPlace(t)
			nodes, err := p.tree(t, out)
			if err != nil {
				t.Fatal(err)
			}
			var expected []string
			for _, line := range want {
				if name, _, _ := strings.Cut(line, " "); !left[name] {
					expected = append(expected, line)
				}
			}
			if diff := cmp.Diff(expected, inWords(nodes)); diff != "" {
				t.Errorf("-packed +shown\n%s", diff)
			}
			if len(p.problems) > 0 {
				t.Error(p.problems)
			}
			for _, n := range nodes {
				if n.info.Mode&unix.S_IFMT == unix.S_IFREG {
					compareReads(t, p, out, n, filepath.Join(dir, n.path))
				}
			}
		})
	}
}

// compareReads reads a file at random places.
func compareReads(t *testing.T, p *place, blob []byte, n shown, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	layer, err := p.Layers.open(t.Context(), p.blobs, p.add(blob))
	if err != nil {
		t.Fatal(err)
	}
	defer layer.release()
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		off, size := rnd.Int64N(n.info.Size+10), rnd.IntN(100_000)
		if n.info.Size > 1<<30 { // near what is there
			off = (rnd.Int64N(3)+1)*(3<<30) + rnd.Int64N(8000) - 4000
		}
		want, got := make([]byte, size), make([]byte, size)
		a, errA := f.ReadAt(want, off)
		b, errB := layer.readAt(t.Context(), inode(n.info.Ino), got, off)
		if size == 0 { // os.File has no opinion
			continue
		}
		if a != b || errA != errB || !bytes.Equal(want, got) {
			t.Fatalf("%s: %d bytes at %d: %d %v, and %d %v", n.path, size, off, a, errA, b, errB)
		}
	}
}

// oldSparse is a file in GNU's old format.
func oldSparse(name, body string, realSize int64, parts ...fragment) ent {
	put := func(field []byte, p fragment) {
		number8(field[:12], p.off)
		number8(field[12:24], p.size)
	}
	e := ent{name: name, typ: 'S', magic: gnuMagic, size: int64(len(body))}
	head := parts[:min(4, len(parts))]
	var blocks []byte
	for rest := parts[len(head):]; len(rest) > 0; {
		block := make([]byte, 512)
		n := min(21, len(rest))
		for i, p := range rest[:n] {
			put(block[24*i:], p)
		}
		if rest = rest[n:]; len(rest) > 0 {
			block[504] = 1
		}
		blocks = append(blocks, block...)
	}
	e.edit = func(h []byte) {
		for i, p := range head {
			put(h[386+24*i:], p)
		}
		if len(blocks) > 0 {
			h[482] = 1
		}
		number8(h[483:495], realSize)
	}
	e.body = string(blocks) + body
	if e.size == 0 {
		e.edit = func(edit func([]byte)) func([]byte) {
			return func(h []byte) { edit(h); number8(h[124:136], 0) }
		}(e.edit)
	}
	return e
}

func TestSparse(t *testing.T) {
	pax := func(records ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(records); i += 2 {
			m["GNU.sparse."+records[i]] = records[i+1]
		}
		return m
	}
	block := func(s string) string { return s + strings.Repeat("\x00", 512-len(s)) }
	var many []fragment
	for i := range int64(60) {
		many = append(many, fragment{3 * i, 1})
	}
	const lies = `"s" is left out: a sparse file with more or less content than it says`
	for name, test := range map[string]struct {
		s       ent
		want    string
		problem string
		invalid bool
	}{
		"old":                        {s: oldSparse("s", "abcd", 10, fragment{1, 2}, fragment{5, 2}), want: `s f644 "\x00ab\x00\x00cd\x00\x00\x00"`},
		"old, nothing":               {s: oldSparse("s", "", 3), want: `s f644 "\x00\x00\x00"`},
		"old, of many":               {s: oldSparse("s", strings.Repeat("x", 60), 180, many...), want: `s f644 "x\x00\x00x\x00\x00x\x00"…180`},
		"old, less than it says":     {s: oldSparse("s", "abc", 1000, fragment{1, 600}), problem: lies},
		"old, more than it says":     {s: oldSparse("s", long(600), 1000, fragment{1, 2}), problem: lies},
		"old, overlapping":           {s: oldSparse("s", "abcd", 10, fragment{1, 2}, fragment{2, 2}), invalid: true},
		"old, beyond its end":        {s: oldSparse("s", "abcd", 10, fragment{8, 4}), invalid: true},
		"old, negative":              {s: oldSparse("s", "abcd", 10, fragment{-1, 4}), invalid: true},
		"0.0, which no map can be":   {s: ent{name: "s", body: "ab", pax: pax("offset", "1", "numbytes", "2", "size", "4")}, invalid: true},
		"0.1":                        {s: ent{name: "x", body: "abc", pax: pax("size", "9", "numblocks", "2", "map", "1,1,4,2", "name", "s")}, want: `s f644 "\x00a\x00\x00bc\x00\x00\x00"`},
		"0.1, nothing":               {s: ent{name: "s", pax: pax("major", "0", "minor", "1", "size", "3", "numblocks", "0")}, want: `s f644 "\x00\x00\x00"`},
		"0.1, less":                  {s: ent{name: "s", body: "abc", pax: pax("size", "900", "numblocks", "1", "map", "1,513")}, problem: lies},
		"0.1, another number":        {s: ent{name: "s", body: "abc", pax: pax("size", "9", "numblocks", "1", "map", "1,1,4,2")}, invalid: true},
		"1.0":                        {s: ent{name: "x", body: block("2\n1\n1\n4\n2\n") + "abc", pax: pax("major", "1", "minor", "0", "realsize", "9", "name", "s")}, want: `s f644 "\x00a\x00\x00bc\x00\x00\x00"`},
		"1.0, nothing":               {s: ent{name: "s", body: block("0\n"), pax: pax("major", "1", "minor", "0", "realsize", "3")}, want: `s f644 "\x00\x00\x00"`},
		"1.0, with the size in pax":  {s: ent{name: "s", body: block("1\n0\n3\n") + "abc", edit: func(h []byte) { number8(h[124:136], 1) }, pax: map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "3", "size": "515"}}, want: `s f644 "abc"`},
		"1.0, more":                  {s: ent{name: "s", body: block("1\n0\n3\n") + long(600), pax: pax("major", "1", "minor", "0", "realsize", "3")}, problem: lies},
		"1.0, no map":                {s: ent{name: "s", body: "abc", pax: pax("major", "1", "minor", "0", "realsize", "3")}, invalid: true},
		"1.0, of a link":             {s: ent{name: "s", typ: '2', link: "x", pax: pax("major", "1", "minor", "0", "realsize", "3")}, invalid: true},
		"a version of the future":    {s: ent{name: "s", body: "abc", pax: pax("major", "2", "minor", "0", "map", "1,2")}, want: `s f644 "abc"`},
		"an owner that can't be too": {s: ent{name: "s", uid: -1, magic: gnuMagic, body: "abc", pax: pax("size", "9", "numblocks", "1", "map", "1,3")}, problem: `"s" is left out: the owner -1:0`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			nodes, err := p.tree(t, archive(root, test.s, ent{name: "z", body: "behind"}))
			if test.invalid {
				if !isInvalid(err) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := []string{". d755", test.want, `z f644 "behind"`}
			if test.problem != "" {
				want = []string{want[0], want[2]}
			}
			if diff := cmp.Diff(want, inWords(nodes)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if got := strings.Join(p.problems, "\n"); got != test.problem {
				t.Errorf("problems: %s", got)
			}
		})
	}
}
