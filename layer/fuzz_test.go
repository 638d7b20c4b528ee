package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	stdgzip "compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// localBlob is a blob in a file, and the place it comes from.
type localBlob struct{ file *os.File }

func (b localBlob) Open(context.Context, image.Source, image.Descriptor) (image.Blob, error) {
	return b, nil
}
func (b localBlob) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return b.file.ReadAt(p, off)
}
func (b localBlob) Ready(context.Context, int64, int) (*os.File, error) { return b.file, nil }
func (b localBlob) Size() int64                                         { info, _ := b.file.Stat(); return info.Size() }
func (b localBlob) File() *os.File                                      { return b.file }
func (b localBlob) Close() error                                        { return nil }

// lone are Layers for one blob.
func lone(t testing.TB, blob []byte) (*Layers, folderStore, image.Descriptor) {
	t.Helper()
	store := folderStore{t.TempDir()}
	file, err := store.Temp()
	if err != nil {
		t.Fatal(err)
	}
	file.Write(blob)
	l := New(Options{Store: store, Blobs: localBlob{file}, Memory: 8 << 20})
	t.Cleanup(func() {
		l.Close()
		file.Close()
	})
	return l, store, (&blobs{content: map[digest.Digest][]byte{}}).add(blob)
}

// straight decompresses a blob from its start to its end.
func straight(blob []byte, limit int64) ([]byte, error) {
	in := newInput(bytes.NewReader(blob))
	r, done, err := decompress(bufio.NewReader(in), in.offset, func(mark) {})
	if err != nil {
		return nil, err
	}
	defer done()
	return io.ReadAll(io.LimitReader(r, limit))
}

// maxFuzz is how much a blob may expand to while it is fuzzed, in bytes.
const maxFuzz = 16 << 20

// FuzzScan reads any blob: what is shown of it can be read, and is what archive/tar reads.
func FuzzScan(f *testing.F) {
	for _, test := range tarTests {
		f.Add(test.blob)
		f.Add(gz(f, test.blob))
		f.Add(zs(f, test.blob))
	}
	f.Add(archive(root, oldSparse("s", "abcd", 10, fragment{1, 2}, fragment{5, 2})))
	f.Fuzz(func(t *testing.T, blob []byte) {
		raw, err := straight(blob, maxFuzz)
		if len(raw) == maxFuzz {
			return
		}
		l, _, d := lone(t, blob)
		layer, broken := l.open(t.Context(), nil, d)
		if broken != nil {
			if !isInvalid(broken) {
				t.Fatal(broken)
			}
			return
		}
		defer layer.release()
		if err != nil {
			t.Fatalf("it is shown, though it can't be decompressed: %v", err)
		}
		nodes, err := walkAll(t.Context(), layer)
		if err != nil {
			t.Fatal(err)
		}
		compareContents(t, raw, nodes)
		compareRandomly(t, layer.(*used), raw)
	})
}

// compareContents compares all contents with those that archive/tar reads.
func compareContents(t *testing.T, raw []byte, nodes []shown) {
	t.Helper()
	known := map[checksum]bool{}
	for tr := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if h.Size > 1<<28 {
			continue
		}
		if b, err := io.ReadAll(tr); err == nil {
			known[sha256.Sum256(b)] = true
		} else {
			// archive/tar can't go on; whatever comes behind it is not known.
			return
		}
	}
	for _, n := range nodes {
		if n.info.Mode&unix.S_IFMT == unix.S_IFREG && n.info.Size <= 1<<28 && !known[sha256.Sum256(n.content)] {
			t.Fatalf("%q: %q is no content of the archive", n.path, shorten(string(n.content)))
		}
	}
}

// compareRandomly reads the stream at random.
func compareRandomly(t *testing.T, u *used, raw []byte) {
	t.Helper()
	if u.size != int64(len(raw)) {
		t.Fatalf("a stream of %d bytes instead of %d", u.size, len(raw))
	}
	if len(raw) == 0 {
		return
	}
	rnd := rand.New(rand.NewPCG(1, uint64(len(raw))))
	for range 10 {
		off := rnd.IntN(len(raw))
		got := make([]byte, rnd.IntN(min(len(raw)-off, 1<<20))+1)
		if _, err := u.content(t.Context(), got, int64(off)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, raw[off:off+len(got)]) {
			t.Fatalf("other bytes at %d", off)
		}
	}
}

// indexStream makes an index of a blob whose content is no archive.
func indexStream(l *Layers, store Store, d image.Descriptor, blob []byte) error {
	draft, err := newDraft(store)
	if err != nil {
		return err
	}
	defer draft.close()
	s := &scanner{store: store, in: newInput(bytes.NewReader(blob))}
	spans, err := newSpanner(s.in, draft.spans, draft.data)
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
	if err := s.drain(br); err != nil {
		return err
	}
	if err := spans.finish(); err != nil {
		return err
	}
	draft.size = s.out.off
	if err := draft.build(store, &sorter{store: store}, 0); err != nil {
		return err
	}
	file, err := draft.write(store)
	if err != nil {
		return err
	}
	defer file.Close()
	return store.PutIndex(indexName(d), file)
}

// stretched is content as long as several spans, made of a little.
func stretched(seed []byte) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < 1400<<10 && len(seed) > 0; i++ {
		b.Write(seed)
		b.WriteByte(byte(i * i >> 3))
		if i%97 == 0 {
			b.Write(mixture(1000 * (i % 13)))
		}
	}
	return b.Bytes()
}

// fuzzStream reads a compressed blob at random, and compares with reading straight.
func fuzzStream(t *testing.T, blob []byte, want []byte, must bool) {
	t.Helper()
	l, store, d := lone(t, blob)
	if err := indexStream(l, store, d, blob); err != nil {
		if must {
			t.Fatal(err)
		}
		return
	}
	raw, err := straight(blob, 64<<20)
	if err != nil {
		t.Fatalf("it has an index, though it can't be decompressed: %v", err)
	}
	if must && !bytes.Equal(raw, want) {
		t.Fatalf("straight: %d bytes, which are others than the %d", len(raw), len(want))
	}
	layer, err := l.open(t.Context(), nil, d)
	if err != nil {
		t.Fatal(err)
	}
	defer layer.release()
	compareRandomly(t, layer.(*used), raw)
}

// FuzzGzip reads any gzip at random as the standard library does straight.
func FuzzGzip(f *testing.F) {
	for _, content := range [][]byte{nil, mixture(3000)} {
		f.Add(gz(f, content), uint8(6), uint32(5000))
		f.Add(gz(f, content, content), uint8(0), uint32(1))
		f.Add(alternating(content), uint8(1), uint32(1<<20))
		f.Add(oneBlock(content), uint8(9), uint32(1<<17))
	}
	f.Fuzz(func(t *testing.T, raw []byte, level uint8, size uint32) {
		if len(raw) > 1<<16 {
			return
		}
		want, must := []byte(nil), false
		if r, err := stdgzip.NewReader(bytes.NewReader(raw)); err == nil {
			want, err = io.ReadAll(io.LimitReader(r, maxFuzz))
			must = err == nil && len(want) < maxFuzz
		}
		if must || want == nil {
			fuzzStream(t, raw, want, must)
		}
		content := stretched(raw)
		var blob []byte
		for _, c := range chunks(content, int(size%(6<<20))+40_000) {
			blob = append(blob, goGzip(t, c, int(level%9)-2, func(*stdgzip.Writer) {})...)
		}
		if len(blob) > 0 {
			fuzzStream(t, blob, content, true)
		}
	})
}

// FuzzZstd reads any zstd at random as the library does straight.
func FuzzZstd(f *testing.F) {
	for _, content := range [][]byte{nil, mixture(3000), make([]byte, 3000)} {
		f.Add(zs(f, content), uint32(5000))
		f.Add(zs(f, content, content), uint32(1))
		f.Add(append([]byte("P*M\x18\x03\x00\x00\x00abc"), zs(f, content)...), uint32(9))
	}
	f.Fuzz(func(t *testing.T, raw []byte, size uint32) {
		if len(raw) > 1<<16 || len(raw) == 0 {
			return
		}
		want, must := []byte(nil), false
		if r, err := zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true)); err == nil {
			want, err = io.ReadAll(io.LimitReader(r, maxFuzz))
			must = err == nil && isZstd(raw)
			r.Close()
		}
		if len(want) < maxFuzz {
			fuzzStream(t, raw, want, must)
		}
		content := stretched(raw)
		fuzzStream(t, zs(t, chunks(content, int(size%(6<<20))+40_000)...), content, true)
	})
}

// FuzzIndex reads any bytes as an index, with sound checksums: nothing panics, and all ends soon.
func FuzzIndex(f *testing.F) {
	for _, test := range tarTests {
		f.Add(indexOf(f, test.blob))
		f.Add(indexOf(f, gz(f, test.blob)))
	}
	f.Add(indexOf(f, zs(f, archive(oldSparse("s", "abcd", 10, fragment{1, 2}, fragment{5, 2})))))
	blob := mixture(1 << 20)
	f.Fuzz(func(t *testing.T, data []byte) {
		l, store, d := lone(t, blob)
		file, err := store.Temp()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		w := newPageWriter(file)
		w.Write(data)
		w.close()
		store.PutIndex(indexName(d), file)
		x, err := openIndex(file, l.pool)
		if err != nil {
			return
		}
		o := &opened{fetcher: newTestFetcher(l, indexName(d), x), users: 1}
		u := &used{index: x, o: o, l: l, d: d}
		left := 2000
		visit(t, u, u.root(), &left)
		_, _ = x.problems()
		for range u.foreign() {
			if left--; left < 0 {
				break
			}
		}
	})
}

func newTestFetcher(l *Layers, name string, x *index) *fetcher {
	return &fetcher{store: l.o.Store, blobs: l.o.Blobs, name: name, x: x, spawn: l.spawn, flying: map[int]chan struct{}{}}
}

// indexOf is a blob's index without checksums.
func indexOf(t testing.TB, blob []byte) []byte {
	t.Helper()
	store := folderStore{t.TempDir()}
	file, err := scan(store, bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	pages, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	for _, page := range chunks(pages, pageSize) {
		if len(page) == pageSize {
			data = append(data, page[:pageData]...)
		}
	}
	return bytes.TrimRight(data, "\x00")
}

// visit reads something of all that an index shows.
func visit(t *testing.T, u *used, ino inode, left *int) {
	if *left--; *left < 0 {
		return
	}
	if _, err := u.stat(ino); err != nil && !errors.Is(err, errDamaged) {
		t.Fatal(err)
	}
	_, _ = u.xattrs(ino)
	for _, off := range []int64{0, 1, 1000} {
		_, _ = u.readAt(t.Context(), ino, make([]byte, 100), off)
	}
	for range u.paths(ino) {
		if *left--; *left < 0 {
			return
		}
	}
	for e, err := range u.list(ino, "") {
		if err != nil {
			return
		}
		_, _ = u.lookup(ino, e.Name)
		if visit(t, u, inode(e.Ino), left); *left < 0 {
			return
		}
	}
}

// FuzzRecord decodes any bytes as a record; what can be decoded is encoded as it was.
func FuzzRecord(f *testing.F) {
	for _, r := range []record{
		{mode: unix.S_IFREG | 0o644, size: 5, data: 512, mtime: at(-1, 5)}, {mode: unix.S_IFLNK, target: "x"}, {mode: unix.S_IFCHR, major: 8, minor: 70000}, {target: "lower"},
		{mode: unix.S_IFREG, flags: flagSparse, sparse: []fragment{{1, 2}, {5, 3}}, xattrs: map[string]string{"user.a": "1", "b": ""}}, {mode: unix.S_IFDIR, a: 5, b: 6, uid: 1<<32 - 2},
	} {
		f.Add(r.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := decoder{b: b}
		r := d.all()
		if d.err != nil {
			return
		}
		again := decoder{b: r.encode()}
		if got := again.all(); again.err != nil || cmp.Diff(r, got, cmp.AllowUnexported(record{}, fragment{})) != "" {
			t.Errorf("%+v, and then %+v: %v", r, got, again.err)
		}
	})
}

// FuzzSparse takes any map of a sparse file: what is shown of it is what archive/tar reads.
func FuzzSparse(f *testing.F) {
	f.Add(uint8(0), []byte("2\n1\n1\n4\n2\n"), "9", []byte("abc"))
	f.Add(uint8(1), []byte("1,1,4,2"), "9", []byte("abc"))
	f.Add(uint8(2), []byte("00000000001\x00000000000002\x00"), "00000000012", []byte("ab"))
	f.Fuzz(func(t *testing.T, how uint8, sparse []byte, size string, body []byte) {
		if len(sparse) > 1<<16 || len(body) > 1<<16 {
			return
		}
		e := ent{name: "s", body: string(body)}
		switch how % 3 {
		case 0:
			e.body = string(append(sparse, make([]byte, -len(sparse)&511)...)) + e.body
			e.pax = map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": size}
		case 1:
			n := bytes.Count(sparse, []byte(","))/2 + 1
			e.pax = map[string]string{"GNU.sparse.map": string(sparse), "GNU.sparse.numblocks": string(rune('0' + n%10)), "GNU.sparse.size": size}
		case 2:
			e.typ, e.magic = 'S', gnuMagic
			e.edit = func(h []byte) {
				copy(h[386:482], sparse)
				copy(h[483:495], size)
			}
		}
		raw := archive(root, e, ent{name: "z", body: "behind"})
		l, _, d := lone(t, raw)
		layer, err := l.open(t.Context(), nil, d)
		if err != nil {
			if !isInvalid(err) {
				t.Fatal(err)
			}
			return
		}
		defer layer.release()
		nodes, err := walkAll(t.Context(), layer)
		if err != nil {
			t.Fatal(err)
		}
		compareContents(t, raw, nodes)
	})
}
