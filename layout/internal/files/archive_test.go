package files

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// header is a member of a tar to be made, with content where it is a file's.
type header struct {
	tar.Header
	content string
}

func regular(name, content string) header {
	return header{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}, content}
}

func symlink(name, to string) header {
	return header{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}, ""}
}

func tarOf(t testing.TB, members ...header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func save(t *testing.T, raw []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "archive.tar")
	must(t, os.WriteFile(name, raw, 0o644))
	return name
}

func open(t *testing.T, name string, writable bool) *Archive {
	t.Helper()
	a, err := Open(t.Context(), name, writable)
	must(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

func read(t *testing.T, a *Archive, name string) string {
	t.Helper()
	raw, err := Read(t.Context(), a, name, 1<<20)
	must(t, err)
	return string(raw)
}

func write(t *testing.T, a *Archive, name, content string) {
	t.Helper()
	must(t, a.Write(t.Context(), name, int64(len(content)), func(w io.Writer) error {
		_, err := io.WriteString(w, content)
		return err
	}))
}

func edit(t *testing.T, a *Archive, c Change) {
	t.Helper()
	must(t, a.Edit(t.Context(), func() (Change, error) { return c, nil }))
}

func put(name, content string) Change { return Change{Put: []Content{{name, []byte(content)}}} }

// members are what other programs find in a tar, in its order.
func members(t *testing.T, name string) []string {
	t.Helper()
	raw, err := os.ReadFile(name)
	must(t, err)
	var all []string
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		if h.Typeflag == tar.TypeSymlink {
			content = []byte("-> " + h.Linkname)
		}
		all = append(all, h.Name+" "+string(content))
	}
}

func TestNames(t *testing.T) {
	raw := tarOf(t, regular("./a", "1"), regular("d/./b", "2"), header{tar.Header{Typeflag: tar.TypeDir, Name: "d/"}, ""},
		symlink("d/l", "../a"), symlink("ll", "d/l"), header{tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "./a"}, ""},
		regular("../out", "3"), regular("/abs", "4"), regular("d/../x", "5"), symlink("up", "../../a"), symlink("abs", "/etc/passwd"),
		symlink("loop", "loop"), header{tar.Header{Typeflag: tar.TypeFifo, Name: "fifo"}, ""}, regular("twice", "6"), regular("twice", "7"),
		regular("blobs/sha256/twice", "6"), regular("blobs/sha256/twice", "7"), regular(strings.Repeat("long/", 60)+"x", ""))
	a := open(t, save(t, raw), false)
	for name, content := range map[string]string{"a": "1", "d/b": "2", "d/l": "1", "ll": "1", "h": "1", "blobs/sha256/twice": "7"} {
		want(t, name, read(t, a, name), content)
	}
	for name, kind := range map[string]error{
		"out": fs.ErrNotExist, "../out": fs.ErrNotExist, "/abs": fs.ErrNotExist, "x": fs.ErrNotExist, "up": fs.ErrNotExist, "d": image.ErrInvalid,
		"abs": image.ErrInvalid, "loop": image.ErrInvalid, "fifo": image.ErrInvalid, "twice": image.ErrInvalid,
		"": fs.ErrNotExist, ".": fs.ErrNotExist,
	} {
		_, _, err := a.Open(t.Context(), name)
		wantErr(t, name, err, kind)
	}
}

// TestCut: an archive cut short anywhere is known for one, at once or when what is missing is asked for.
func TestCut(t *testing.T) {
	raw := tarOf(t, regular("a", "first"), regular("b", strings.Repeat("x", 1000)), regular("c", "last"))
	last := len(raw) - tarEnd - tarBlock + len("last") // which ends here
	name := save(t, raw)
	for n := range raw {
		if n%tarBlock > 5 && n%tarBlock < tarBlock-2 && n%31 > 0 {
			continue
		}
		must(t, os.WriteFile(name, raw[:n], 0o644))
		a, err := Open(t.Context(), name, false)
		if err == nil {
			_, _, err = a.Open(t.Context(), "c")
			a.Close()
		}
		if err == nil && n < last {
			t.Errorf("%d bytes of %d: the last member is there", n, len(raw))
		}
		if err != nil && (!errors.Is(err, image.ErrInvalid) || !strings.Contains(err.Error(), "cut short")) {
			t.Errorf("%d bytes of %d: %v", n, len(raw), err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	huge := tarOf(t, regular("a", ""))
	copy(huge[124:], "77777777777\x00") // the size
	checksum(huge)
	lying := tarOf(t, regular("a", strings.Repeat("x", 600)), regular("b", ""))
	copy(lying[124:], fmt.Sprintf("%011o\x00", 100))
	checksum(lying)
	for name, raw := range map[string][]byte{
		"text": []byte(strings.Repeat("hello", 1000)), "a size past the end": huge, "a size too small": lying,
		"a zip": []byte("PK\x03\x04" + strings.Repeat("x", 1000)), "damaged gzip": gzipped(t, tarOf(t, regular("a", "1")))[:30],
		"a gzip of nothing": []byte("\x1f\x8b\x08"), "a gzip of text": gzipped(t, bytes.Repeat([]byte("hello"), 1000)),
	} {
		_, err := Open(t.Context(), save(t, raw), false)
		wantErr(t, name, err, image.ErrInvalid)
	}
	_, err := Open(t.Context(), save(t, []byte("\xfd7zXZ\x00 and more")), false)
	wantErr(t, "xz", err, image.ErrUnsupported)
	_, err = Open(t.Context(), filepath.Join(t.TempDir(), "missing"), false)
	wantErr(t, "a missing file", err, fs.ErrNotExist)
	_, err = Open(t.Context(), filepath.Join(t.TempDir(), "missing", "file"), true)
	wantErr(t, "a missing folder", err, fs.ErrNotExist)
	_, err = Open(t.Context(), t.TempDir(), true)
	wantErr(t, "a folder", err, image.ErrInvalid)
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, unix.Mkfifo(fifo, 0o644))
	_, err = Open(t.Context(), fifo, true)
	wantErr(t, "a fifo", err, image.ErrInvalid)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Open(ctx, save(t, tarOf(t)), true)
	wantErr(t, "cancelled", err, context.Canceled)
}

// checksum makes the one of a tar's first header right.
func checksum(raw []byte) {
	copy(raw[148:156], "        ")
	sum := 0
	for _, b := range raw[:512] {
		sum += int(b)
	}
	copy(raw[148:], fmt.Sprintf("%06o\x00 ", sum))
}

func gzipped(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(plain)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPacked(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	plain := tarOf(t, regular("a", "1"))
	w, err := zstd.NewWriter(nil)
	must(t, err)
	for name, raw := range map[string][]byte{"gzip": gzipped(t, plain), "zstd": w.EncodeAll(plain, nil)} {
		file := save(t, raw)
		a := open(t, file, false)
		want(t, name, read(t, a, "a"), "1")
		_, err := Open(t.Context(), file, true)
		wantErr(t, name+" for writing", err, image.ErrUnsupported)
	}
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	must(t, err)
	want(t, "files left in TMPDIR", len(left), 0)
}

func TestWrite(t *testing.T) {
	name := filepath.Join(t.TempDir(), "archive.tar")
	a := open(t, name, true)
	write(t, a, "blobs/a", "first")
	want(t, "what is written", read(t, a, "blobs/a"), "first")
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the archive is there before its time: %v", err)
	}
	edit(t, a, put("index", "1"))
	want(t, "members", members(t, name), []string{"blobs/a first", "index 1"})
	must(t, os.Chmod(name, 0o600))
	write(t, a, "blobs/b", "second")
	edit(t, a, put("index", "2"))
	want(t, "members", members(t, name), []string{"blobs/b second", "blobs/a first", "index 2"})
	edit(t, a, Change{Remove: []string{"blobs/b", "nothing"}})
	want(t, "members", members(t, name), []string{"blobs/a first", "index 2"})
	info, err := os.Stat(name)
	must(t, err)
	want(t, "mode", info.Mode(), 0o600)
	onlyHere(t, name)
	other := open(t, name, false)
	want(t, "another's view", read(t, other, "index"), "2")
	edit(t, a, put("index", "3"))
	want(t, "another's view", read(t, other, "index"), "3")
	wantErr(t, "write what is open for reading", other.Write(t.Context(), "x", 0, func(io.Writer) error { return nil }), image.ErrUnsupported)
	must(t, a.Close())
	_, _, err = a.Open(t.Context(), "index")
	wantErr(t, "open when closed", err, fs.ErrClosed)
}

// onlyHere tests that nothing lies beside an archive.
func onlyHere(t *testing.T, name string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(name))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("beside %s there is more: %v", name, entries)
	}
}

var errFault = errors.New("a fault of the test's making")

// TestFaults leaves nothing that anybody could take for something.
func TestFaults(t *testing.T) {
	name := filepath.Join(t.TempDir(), "archive.tar")
	a := open(t, name, true)
	fail := func(what string, size int64, kind error, fn func(w io.Writer) error) {
		t.Helper()
		wantErr(t, what, a.Write(t.Context(), "blobs/"+what, size, fn), kind)
		_, _, err := a.Open(t.Context(), "blobs/"+what)
		wantErr(t, what, err, fs.ErrNotExist)
	}
	text := func(s string) func(io.Writer) error {
		return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
	}
	write(t, a, "blobs/a", "first")
	for _, size := range []int64{5, -1} {
		fail("broken", size, errFault, func(w io.Writer) error { return errors.Join(text("abc")(w), errFault) })
	}
	fail("short", 5, image.ErrDigest, text("abc"))
	fail("long", 5, image.ErrDigest, text("abcdef"))
	// One that fails between others leaves a gap.
	fail("outer", 600, errFault, func(io.Writer) error {
		write(t, a, "blobs/b", "second")
		return errFault
	})
	must(t, a.Write(t.Context(), "blobs/c", -1, text("third")))
	wantErr(t, "an edit", a.Edit(t.Context(), func() (Change, error) { return put("index", "0"), errFault }), errFault)
	edit(t, a, put("index", "1"))
	want(t, "members", members(t, name), []string{"blobs/a first", "blobs/b second", "blobs/c third", "index 1"})
	edit(t, a, put("index", "2"))
	want(t, "members", members(t, name), []string{"blobs/a first", "blobs/b second", "blobs/c third", "index 2"})
	onlyHere(t, name)
}

// TestRoomIsReused by who wants as much of it.
func TestRoomIsReused(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "archive.tar"), true)
	failed := a.Write(t.Context(), "blobs/a", 600, func(io.Writer) error {
		write(t, a, "blobs/b", "second")
		return errFault
	})
	wantErr(t, "write", failed, errFault)
	end := a.draft.end
	write(t, a, "blobs/a", strings.Repeat("x", 600))
	want(t, "end", a.draft.end, end)
	want(t, "unused", len(a.draft.unused), 0)
}

// TestFailedEdit leaves what was written, and a second one succeeds.
func TestFailedEdit(t *testing.T) {
	name := save(t, tarOf(t, regular("blobs/a", "first"), regular("index", "1")))
	a := open(t, name, true)
	write(t, a, "blobs/b", "second")
	ctx, cancel := context.WithCancel(t.Context())
	wantErr(t, "an edit", a.Edit(ctx, func() (Change, error) { cancel(); return put("index", "2"), nil }), context.Canceled)
	want(t, "members", members(t, name), []string{"blobs/a first", "index 1"})
	want(t, "what is written", read(t, a, "blobs/b"), "second")
	edit(t, a, Change{Put: []Content{{"index", []byte("3")}}, Remove: []string{"blobs/b"}})
	want(t, "members", members(t, name), []string{"blobs/a first", "index 3"})
}

// TestTwoWriters lose nothing of each other's.
func TestTwoWriters(t *testing.T) {
	name := filepath.Join(t.TempDir(), "archive.tar")
	one, two := open(t, name, true), open(t, name, true)
	write(t, one, "blobs/a", "first")
	write(t, two, "blobs/b", "second")
	write(t, two, "blobs/a", "first")
	edit(t, one, put("index", "1"))
	must(t, two.Edit(t.Context(), func() (Change, error) {
		raw, err := Read(t.Context(), two, "index", 100)
		return put("index", string(raw)+"2"), err
	}))
	want(t, "members", members(t, name), []string{"blobs/b second", "blobs/a first", "index 12"})
	want(t, "one's view", read(t, one, "blobs/b"), "second")
	onlyHere(t, name)
}

// TestEditWaits for who edits and for who writes, and no longer than it is let.
func TestEditWaits(t *testing.T) {
	name := filepath.Join(t.TempDir(), "archive.tar")
	one, two := open(t, name, true), open(t, name, true)
	cancelled := func(a *Archive) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		wantErr(t, "an edit", a.Edit(ctx, func() (Change, error) { return put("index", "2"), nil }), context.Canceled)
	}
	must(t, one.Edit(t.Context(), func() (Change, error) {
		cancelled(two)
		return put("index", "1"), nil
	}))
	must(t, one.Write(t.Context(), "blobs/a", 0, func(io.Writer) error {
		cancelled(one)
		return nil
	}))
	edit(t, one, put("index", "3"))
	want(t, "members", members(t, name), []string{"blobs/a ", "index 3"})
}

// TestLinksAreKept, and what can't be kept is refused.
func TestLinksAreKept(t *testing.T) {
	name := save(t, tarOf(t, regular("a/layer.tar", "x"), symlink("b/layer.tar", "../a/layer.tar")))
	a := open(t, name, true)
	edit(t, a, put("index", "1"))
	want(t, "members", members(t, name), []string{"a/layer.tar x", "b/layer.tar -> ../a/layer.tar", "index 1"})
	raw := tarOf(t, symlink("a", "/etc/passwd"))
	name = save(t, raw)
	a = open(t, name, true)
	err := a.Edit(t.Context(), func() (Change, error) { return put("index", "1"), nil })
	wantErr(t, "an edit", err, image.ErrUnsupported)
	got, err := os.ReadFile(name)
	must(t, err)
	want(t, "the archive", bytes.Equal(got, raw), true)
}

// TestSymlinkedArchive is replaced where it is.
func TestSymlinkedArchive(t *testing.T) {
	name, other := save(t, tarOf(t, regular("a", "1"))), filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(name, other))
	edit(t, open(t, other, true), put("a", "2"))
	want(t, "members", members(t, name), []string{"a 2"})
}

// TestLargeMembers have sizes that no plain header holds.
func TestLargeMembers(t *testing.T) {
	d, err := newDraft(t.TempDir())
	must(t, err)
	defer d.discard()
	const size = 9 << 30
	r, err := d.reserve("blobs/a", size)
	must(t, err)
	d.release(r)
	want(t, "end", d.end, 0)
	r, err = d.reserve("blobs/a", size)
	must(t, err)
	d.members["blobs/a"] = member{off: r.off, size: size}
	m, err := newMerger(t.Context(), d, Change{})
	must(t, err)
	must(t, m.merge(d, &snapshot{listing: &listing{}}, put("index", "1")))
	l, err := scan(t.Context(), m.file, m.end+tarEnd)
	must(t, err)
	want(t, "size", l.members["blobs/a"].size, size)
	want(t, "index", l.members["index"].size, 1)
}

// FuzzArchive: whatever is in an archive, no member is outside of it.
func FuzzArchive(f *testing.F) {
	f.Add(tarOf(f, regular("a", "1"), symlink("b", "a"), regular("c", strings.Repeat("x", 1000))))
	f.Add(tarOf(f, header{tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("a", 200), PAXRecords: map[string]string{"X.y": "z"}}, ""}))
	f.Add(gzipped(f, tarOf(f, regular("a", "1"))))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		packed, err := Packed(r)
		must(t, err)
		if packed != "" {
			z, err := Unpack(r, packed)
			if err == nil {
				_, err = io.CopyN(io.Discard, z, 1<<20)
				z.Close()
			}
			if err != nil && err != io.EOF && !errors.Is(err, image.ErrInvalid) && !errors.Is(err, image.ErrUnsupported) {
				t.Errorf("unpack: %v", err)
			}
			return
		}
		l, err := scan(t.Context(), r, int64(len(raw)))
		if err != nil {
			if !errors.Is(err, image.ErrInvalid) {
				t.Errorf("scan: %v", err)
			}
			return
		}
		for name, m := range l.members {
			if m.off < 0 || m.size < 0 || m.off+m.size > int64(len(raw)) || strings.HasPrefix(name, "/") || strings.Contains("/"+name+"/", "/../") {
				t.Errorf("%q: %+v of %d", name, m, len(raw))
			}
		}
	})
}

// TestManyNames: what is kept of an archive's headers is bounded.
func TestManyNames(t *testing.T) {
	l := &listing{members: map[string]member{}}
	var err error
	for i := 0; err == nil && i <= maxNames>>20; i++ {
		err = l.add(fmt.Sprint(strings.Repeat("x", 1<<20), i), member{})
	}
	wantErr(t, "too long names", err, image.ErrInvalid)
}
