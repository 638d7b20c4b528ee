package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"go.podman.io/storage/pkg/chunked/compressor"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// tabled makes layers with a table of contents of a tar archive, as the formats' own programs do.
var tabled = map[string]func(t testing.TB, raw []byte) (blob []byte, notes map[string]string){
	"eStargz": func(t testing.TB, raw []byte) ([]byte, map[string]string) { return makeEstargz(t, raw) },
	"eStargz, small chunks": func(t testing.TB, raw []byte) ([]byte, map[string]string) {
		return makeEstargz(t, raw, estargz.WithChunkSize(10_000))
	},
	"eStargz, shared member": func(t testing.TB, raw []byte) ([]byte, map[string]string) {
		return makeEstargz(t, raw, estargz.WithMinChunkSize(100_000))
	},
	"zstd:chunked": makeChunked,
	"both":         makeBoth,
}

func makeEstargz(t testing.TB, raw []byte, more ...estargz.Option) ([]byte, map[string]string) {
	t.Helper()
	more = append([]estargz.Option{estargz.WithCompressionLevel(gzip.BestSpeed)}, more...)
	b, err := estargz.Build(io.NewSectionReader(bytes.NewReader(raw), 0, int64(len(raw))), more...)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	blob, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return blob, map[string]string{estargz.TOCJSONDigestAnnotation: b.TOCDigest().String()}
}

// makeBoth makes what containerd's tools call zstd:chunked: a table as in eStargz, and zstd.
func makeBoth(t testing.TB, raw []byte) ([]byte, map[string]string) {
	t.Helper()
	notes := map[string]string{}
	format := struct {
		*zstdchunked.Compressor
		*zstdchunked.Decompressor
	}{&zstdchunked.Compressor{CompressionLevel: zstd.SpeedFastest, Metadata: notes}, &zstdchunked.Decompressor{}}
	blob, more := makeEstargz(t, raw, estargz.WithCompression(format))
	maps.Copy(notes, more)
	return blob, notes
}

func makeChunked(t testing.TB, raw []byte) ([]byte, map[string]string) {
	t.Helper()
	var blob bytes.Buffer
	notes, level := map[string]string{}, 1
	w, err := compressor.ZstdCompressor(&blob, notes, &level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return blob.Bytes(), notes
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func tarOf(t testing.TB, entries []tar.Header, content func(name string) []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		c := content(h.Name)
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(c))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			w.Write(c)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// everyKind has all that such a layer can have.
func everyKind(t testing.TB) []byte {
	at := time.Unix(1_700_000_000, 0)
	holes := slices.Concat(noise(5000), make([]byte, 300_000), noise(70_000), make([]byte, 5000))
	content := map[string][]byte{
		"dir/small": []byte("hello"), "dir/large": noise(300_000), "dir/holes": holes, "dir/more holes": slices.Concat(make([]byte, 20_000), noise(10)),
		"dir/zeros": make([]byte, 200_000), "setuid": noise(100), "umlaut-ä": []byte("x"),
	}
	return tarOf(t, []tar.Header{
		{Typeflag: tar.TypeDir, Name: "dir/", Mode: 0o1777, ModTime: at},
		{Typeflag: tar.TypeReg, Name: "dir/small", Mode: 0o644, ModTime: at, Uid: 1000, Gid: 2000},
		{Typeflag: tar.TypeReg, Name: "dir/empty", Mode: 0o600, ModTime: at},
		{Typeflag: tar.TypeReg, Name: "dir/large", Mode: 0o644, ModTime: at.Add(time.Hour), Uid: 70000},
		{Typeflag: tar.TypeReg, Name: "dir/holes", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "dir/more holes", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "dir/zeros", Mode: 0o644},
		{Typeflag: tar.TypeLink, Name: "dir/link", Linkname: "dir/large"},
		{Typeflag: tar.TypeLink, Name: "again", Linkname: "dir/link"},
		{Typeflag: tar.TypeLink, Name: "lower", Linkname: "in/a/lower/layer"},
		{Typeflag: tar.TypeSymlink, Name: "sym", Linkname: "../dir/small", ModTime: at},
		{Typeflag: tar.TypeReg, Name: "setuid", Mode: 0o6755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\xff", "SCHILY.xattr.user.a": "b"}},
		{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Typeflag: tar.TypeBlock, Name: "dev/sda", Mode: 0o660, Devmajor: 8, Devminor: 300},
		{Typeflag: tar.TypeFifo, Name: "dev/fifo", Mode: 0o600},
		{Typeflag: tar.TypeReg, Name: "./umlaut-ä", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "dir/.wh.gone", Mode: 0o644},
	}, func(name string) []byte { return content[strings.TrimPrefix(name, "./")] })
}

// facts are a file with all that is said of it.
type facts struct {
	Info   Info
	Xattrs map[string]string
	Sum    [32]byte
	Paths  []string
}

// factsOf is all of a layer by path.
func factsOf(t testing.TB, f files) map[string]facts {
	t.Helper()
	all := map[string]facts{}
	var walk func(ino inode, path string)
	walk = func(ino inode, path string) {
		n := facts{Paths: slices.Sorted(errFree(t, f.paths(ino)))}
		var err error
		if n.Info, err = f.stat(ino); err != nil {
			t.Fatal(path, err)
		}
		if n.Xattrs, err = f.xattrs(ino); err != nil {
			t.Fatal(path, err)
		}
		n.Info.Ino = 0
		if n.Info.Mode&unix.S_IFMT == unix.S_IFREG {
			n.Sum = sha256.Sum256(wholeFile(t, f, ino))
		}
		all[path] = n
		for e := range errFree(t, f.list(ino, "")) {
			walk(inode(e.Ino), join(path, e.Name))
		}
	}
	walk(f.root(), "")
	return all
}

func errFree[T any](t testing.TB, seq func(func(T, error) bool)) func(func(T) bool) {
	return func(yield func(T) bool) {
		for v, err := range seq {
			if err != nil {
				t.Fatal(err)
			}
			if !yield(v) {
				return
			}
		}
	}
}

func wholeFile(t testing.TB, f files, ino inode) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(atFile{t.Context(), f, ino}, 0, 1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// atFile reads a file with an io.ReaderAt's ReadAt.
type atFile struct {
	ctx context.Context
	f   files
	ino inode
}

func (a atFile) ReadAt(p []byte, off int64) (int, error) { return a.f.readAt(a.ctx, a.ino, p, off) }

func (p *place) mustOpen(t testing.TB, d image.Descriptor) files {
	t.Helper()
	f, err := p.Layers.open(t.Context(), p.blobs, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.release)
	return f
}

func (p *place) mustRead(t testing.TB, f files, path string) []byte {
	t.Helper()
	e, err := walk(f, path)
	if err != nil {
		t.Fatal(err)
	}
	return wholeFile(t, f, inode(e.Ino))
}

// addTabled adds a layer, and says what its tree is by a scan, but for the files that only the format is for.
func (p *place) addTabled(t testing.TB, blob []byte, notes map[string]string) (image.Descriptor, map[string]facts) {
	t.Helper()
	d := p.add(blob)
	scanned := factsOf(t, newPlace(t).with(blob).mustOpen(t, d))
	for name := range tocHidden {
		delete(scanned, name)
	}
	d.Annotations = notes
	return d, scanned
}

func (p *place) with(blob []byte) *place {
	p.add(blob)
	return p
}

func TestTableIsTheScan(t *testing.T) {
	for archive, raw := range map[string][]byte{"every kind": everyKind(t), "real": realTar(t)} {
		for format, make := range tabled {
			if archive == "real" && strings.Contains(format, ",") {
				continue // the small one has it all
			}
			t.Run(archive+" as "+format, func(t *testing.T) {
				p := newPlace(t)
				blob, notes := make(t, raw)
				d, want := p.addTabled(t, blob, notes)
				f := p.mustOpen(t, d)
				opened, requests := p.fetched.Load(), p.ranges.Load()
				if requests == 0 || requests > 2 {
					t.Errorf("%d requests for the table", requests)
				}
				if diff := cmp.Diff(want, factsOf(t, f)); diff != "" {
					t.Error(diff)
				}
				if len(p.problems) > 0 {
					t.Error(p.problems)
				}
				t.Logf("blob %d, table %d, all %d in %d requests", len(blob), opened, p.fetched.Load(), p.ranges.Load())
				if p.fetched.Load() > int64(len(blob))*5/4+opened {
					t.Errorf("%d bytes of %d were fetched", p.fetched.Load(), len(blob))
				}
				// The archive's order is that of no listing.
				if limit := int64(4*len(blob)/aheadMin) + 10; p.ranges.Load() > limit {
					t.Errorf("%d requests, of %d", p.ranges.Load(), limit)
				}
			})
		}
	}
}

// manyFiles has large files, and small ones between them.
func manyFiles(t testing.TB) ([]byte, map[string][]byte) {
	content := map[string][]byte{}
	var entries []tar.Header
	for i := range 20 {
		name := fmt.Sprintf("large-%02d", i)
		entries, content[name] = append(entries, tar.Header{Typeflag: tar.TypeReg, Name: name}), noise(1_500_000+i)
		for k := range 20 {
			name := fmt.Sprintf("small-%02d-%02d", i, k)
			entries, content[name] = append(entries, tar.Header{Typeflag: tar.TypeReg, Name: name}), noise(1000+100*i+k)
		}
	}
	return tarOf(t, entries, func(name string) []byte { return content[name] }), content
}

func TestTableFetchesLittle(t *testing.T) {
	raw, want := manyFiles(t)
	for _, format := range []string{"eStargz", "eStargz, shared member", "zstd:chunked", "both"} {
		make := tabled[format]
		t.Run(format, func(t *testing.T) {
			p := newPlace(t)
			blob, notes := make(t, raw)
			d := p.add(blob)
			d.Annotations = notes
			const name = "small-07-07"
			if !bytes.Equal(p.mustRead(t, p.mustOpen(t, d), name), want[name]) {
				t.Error("other content")
			}
			p.Layers.wg.Wait() // for what comes with it
			n, requests := p.fetched.Load(), p.ranges.Load()
			t.Logf("%d bytes of %d in %d requests", n, len(blob), requests)
			if n > int64(len(blob))*3/100 || requests > 3 {
				t.Errorf("%d bytes of %d in %d requests", n, len(blob), requests)
			}
			p.again()
			if !bytes.Equal(p.mustRead(t, p.mustOpen(t, d), name), want[name]) {
				t.Error("other content")
			}
			if p.ranges.Load() != requests {
				t.Error("it was fetched again")
			}
		})
	}
}

func TestTableOfCachedBlob(t *testing.T) {
	raw := everyKind(t)
	for format, make := range tabled {
		t.Run(format, func(t *testing.T) {
			p := newPlace(t)
			blob, notes := make(t, raw)
			d, want := p.addTabled(t, blob, notes)
			b, err := p.cache.Open(t.Context(), p.blobs, d)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if _, err := b.ReadAt(t.Context(), bytes.Clone(blob), 0); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			fetched, ranges := p.fetched.Load(), p.ranges.Load()
			if diff := cmp.Diff(want, factsOf(t, p.mustOpen(t, d))); diff != "" {
				t.Error(diff)
			}
			if p.fetched.Load() != fetched || p.ranges.Load() != ranges {
				t.Errorf("%d bytes in %d requests were fetched", p.fetched.Load()-fetched, p.ranges.Load()-ranges)
			}
		})
	}
}

// Whatever a registry puts in the place of a chunk, it is not served; when it has the chunk again, that is.
func TestTableOtherChunk(t *testing.T) {
	raw := everyKind(t)
	other := noise(300_001)
	for format, make := range tabled {
		blob, notes := make(t, raw)
		for name, spoil := range map[string]func(b []byte){
			"a bit":   func(b []byte) { b[len(b)/2] ^= 4 },
			"header":  func(b []byte) { b[0]++ },
			"zeros":   func(b []byte) { clear(b) },
			"gzip":    func(b []byte) { clear(b[copy(b, gz(t, other)):]) },
			"zstd":    func(b []byte) { clear(b[copy(b, zs(t, other)):]) },
			"shifted": func(b []byte) { copy(b, b[1:]) },
		} {
			t.Run(format+", "+name, func(t *testing.T) {
				p := newPlace(t)
				d, want := p.addTabled(t, blob, notes)
				f := p.mustOpen(t, d)
				u := f.(*used)
				e, err := walk(f, "dir/large")
				if err != nil {
					t.Fatal(err)
				}
				r, err := u.record(inode(e.Ino))
				if err != nil {
					t.Fatal(err)
				}
				_, s, err := u.span(r.data)
				if err != nil {
					t.Fatal(err)
				}
				bad := bytes.Clone(blob)
				spoil(bad[s.coff : s.coff+int64(s.clen)])
				p.content[d.Digest] = bad
				b := [10]byte{}
				if n, err := f.readAt(t.Context(), inode(e.Ino), b[:], 5); n != 0 || !errors.Is(err, image.ErrDigest) {
					t.Errorf("%d bytes, %v", n, err)
				}
				p.Layers.wg.Wait()
				p.content[d.Digest] = blob
				if got := sha256.Sum256(wholeFile(t, f, inode(e.Ino))); got != want["dir/large"].Sum {
					t.Error("other content")
				}
			})
		}
	}
}

func TestTableNotThere(t *testing.T) {
	raw := everyKind(t)
	wrong := digest.FromString("something else").String()
	for name, c := range map[string]struct {
		format  string
		change  func(notes map[string]string)
		problem string
	}{
		"eStargz, another digest":       {"eStargz", func(n map[string]string) { n[noteEstargz] = wrong }, "digest"},
		"eStargz, no digest":            {"eStargz", func(n map[string]string) { n[noteEstargz] = "sha256:12" }, "digest"},
		"eStargz, an unknown algorithm": {"eStargz", func(n map[string]string) { n[noteEstargz] = "md5:" + strings.Repeat("0", 32) }, "digest"},
		"no eStargz":                    {"zstd:chunked", func(n map[string]string) { clear(n); n[noteEstargz] = wrong }, "place"},
		"chunked, another digest":       {"zstd:chunked", func(n map[string]string) { n[noteChunked] = wrong }, "digest"},
		"chunked, no position":          {"zstd:chunked", func(n map[string]string) { n[notePosition] = "1:2:3" }, "position"},
		"chunked, five numbers":         {"zstd:chunked", func(n map[string]string) { n[notePosition] += ":1" }, "position"},
		"chunked, a negative position":  {"zstd:chunked", func(n map[string]string) { n[notePosition] = "-5:100:1000:1" }, "position"},
		"chunked, too far":              {"zstd:chunked", func(n map[string]string) { n[notePosition] = "100:9223372036854775807:1000:1" }, "position"},
		"chunked, no number":            {"zstd:chunked", func(n map[string]string) { n[notePosition] = "100:99999999999999999999:1000:1" }, "position"},
		"chunked, another type":         {"zstd:chunked", func(n map[string]string) { n[notePosition] = "100:100:1000:2" }, "position"},
		"chunked, too large":            {"zstd:chunked", func(n map[string]string) { n[notePosition] = "100:100:999999999:1" }, "unpacked"},
		"chunked, elsewhere":            {"zstd:chunked", func(n map[string]string) { n[notePosition] = "100:100:1000:1" }, "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			blob, notes := tabled[c.format](t, raw)
			c.change(notes)
			p.scannedInstead(t, blob, notes, c.problem)
		})
	}
}

// scannedInstead tests that a layer is shown as if nobody vouched for a table, and that the reason is told once for each time that it
// is opened.
func (p *place) scannedInstead(t *testing.T, blob []byte, notes map[string]string, problem string) {
	t.Helper()
	d := p.add(blob)
	want := factsOf(t, newPlace(t).with(blob).mustOpen(t, d))
	d.Annotations = notes
	for range 2 {
		p.problems = nil
		if diff := cmp.Diff(want, factsOf(t, p.mustOpen(t, d))); diff != "" {
			t.Error(diff)
		}
		if len(p.problems) != 1 || !strings.Contains(p.problems[0], problem) {
			t.Errorf("problems %q without %q", p.problems, problem)
		}
		p.again()
	}
}

func TestTableAtOtherPlaces(t *testing.T) {
	blob, notes := makeEstargz(t, everyKind(t))
	t.Run("that have no ranges", func(t *testing.T) {
		p := newPlace(t)
		d := p.add(blob)
		want := factsOf(t, newPlace(t).with(blob).mustOpen(t, d))
		d.Annotations = notes
		f, err := p.Layers.open(t.Context(), &rangeless{p.blobs, image.ErrUnsupported}, d)
		if err != nil {
			t.Fatal(err)
		}
		defer f.release()
		if diff := cmp.Diff(want, factsOf(t, f)); diff != "" || len(p.problems) > 0 {
			t.Error(diff, p.problems)
		}
	})
	t.Run("that can't be reached", func(t *testing.T) {
		p := newPlace(t)
		d := p.add(blob)
		d.Annotations = notes
		if _, err := p.Layers.open(t.Context(), &rangeless{p.blobs, image.ErrUnavailable}, d); !errors.Is(err, image.ErrUnavailable) {
			t.Error(err)
		}
		if p.fetched.Load() != 0 || p.mustOpen(t, d) == nil || p.fetched.Load() >= int64(len(blob)) {
			t.Error("it was scanned")
		}
	})
}

type rangeless struct {
	*blobs
	err error
}

func (r *rangeless) FetchRange(context.Context, image.Descriptor, int64, int64) (io.ReadCloser, error) {
	return nil, r.err
}

func TestIndexNameOfTables(t *testing.T) {
	d := image.Descriptor{Digest: digest.FromString("x"), Size: 1}
	seen := map[string]bool{}
	for _, notes := range []map[string]string{
		nil, {noteEstargz: "a"}, {noteEstargz: "b"}, {noteChunked: "a", notePosition: "b"}, {noteChunked: "a", notePosition: "c"}, {noteChunked: "b", notePosition: "b"},
	} {
		d.Annotations = notes
		seen[indexName(d)] = true
	}
	if len(seen) != 6 {
		t.Errorf("%d names: %v", len(seen), seen)
	}
	d.Annotations = map[string]string{noteChunked: "a", "unrelated": "b"}
	if name := indexName(d); name != indexName(image.Descriptor{Digest: d.Digest}) {
		t.Error(name)
	}
}

// scanned is a sound archive, without its end.
func scanned(t testing.TB) []byte {
	return tarOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "scanned"}}, func(string) []byte { return []byte("hello") })[:1024]
}

// stored is a gzip member that compresses nothing.
func stored(b []byte) []byte {
	all := []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")
	for part := range slices.Chunk(b, math.MaxUint16) {
		all = binary.LittleEndian.AppendUint16(append(all, 0), uint16(len(part)))
		all = append(binary.LittleEndian.AppendUint16(all, ^uint16(len(part))), part...)
	}
	all = append(all, 1, 0, 0, 0xff, 0xff)
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(all, crc32.ChecksumIEEE(b)), uint32(len(b)))
}

// wrapEstargz makes an eStargz layer with this table behind a sound archive.
func wrapEstargz(t testing.TB, table []byte) ([]byte, map[string]string) {
	first := stored(scanned(t))
	last := stored(tarOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: estargzTable}}, func(string) []byte { return table }))
	footer := slices.Concat([]byte("\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x1a\x00SG\x16\x00"), fmt.Appendf(nil, "%016xSTARGZ", len(first)),
		[]byte("\x01\x00\x00\xff\xff"), make([]byte, 8))
	return slices.Concat(first, last, footer), map[string]string{noteEstargz: digest.FromBytes(table).String()}
}

var packer, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))

// wrapChunked makes a zstd:chunked layer of it.
func wrapChunked(t testing.TB, table []byte) ([]byte, map[string]string) {
	first := packer.EncodeAll(append(scanned(t), make([]byte, 1024)...), nil)
	packed := packer.EncodeAll(table, nil)
	frame := append(binary.LittleEndian.AppendUint32([]byte("\x50\x2a\x4d\x18"), uint32(len(packed))), packed...)
	return slices.Concat(first, frame), map[string]string{
		noteOldChunked: digest.FromBytes(packed).String(), noteOldPosition: fmt.Sprintf("%d:%d:%d:1", len(first)+8, len(packed), len(table)),
	}
}

var wraps = map[string]func(t testing.TB, table []byte) ([]byte, map[string]string){"eStargz": wrapEstargz, "zstd:chunked": wrapChunked}

const aDigest = `"chunkDigest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"`

func TestTableHostile(t *testing.T) {
	entries := func(s string) string { return `{"version":1,"entries":[` + s + `]}` }
	for name, c := range map[string]struct{ table, problem string }{
		"empty":                  {" ", "EOF"},
		"no JSON":                {"hello", "invalid"},
		"no object":              {"[]", "instead of"},
		"cut":                    {`{"version":1,"entries":[{"type":"dir","name":"a"`, "EOF"},
		"entries are no list":    {`{"version":1,"entries":{}}`, "instead of"},
		"version 2":              {`{"version":2,"entries":[]}`, "version"},
		"no version":             {`{"entries":[]}`, "version"},
		"no type":                {entries(`{"name":"a"}`), "type"},
		"unknown type":           {entries(`{"name":"a","type":"socket"}`), "type"},
		"a size that is no size": {entries(`{"name":"a","type":"reg","size":"1"}`), "string"},
		"a size without end":     {entries(`{"name":"a","type":"reg","size":99999999999999999999}`), "number"},
		"negative size":          {entries(`{"name":"a","type":"reg","size":-1,"offset":10,` + aDigest + `}`), "bytes"},
		"more than all":          {entries(`{"name":"a","type":"reg","size":9223372036854775807,"offset":10,` + aDigest + `}`), "too much"},
		"more than all together": {entries(strings.Repeat(`{"name":"a","type":"reg","size":1099511627776,"chunkType":"zeros"},`, 2) + `{}`), "too much"},
		"too large a chunk":      {entries(`{"name":"a","type":"reg","size":67108865,"offset":10,` + aDigest + `}`), "too much"},
		"no offset":              {entries(`{"name":"a","type":"reg","size":5,` + aDigest + `}`), "begins at 0"},
		"negative offset":        {entries(`{"name":"a","type":"reg","size":5,"offset":-1,` + aDigest + `}`), "begins at -1"},
		"out of the blob":        {entries(`{"name":"a","type":"reg","size":5,"offset":1000000,` + aDigest + `}`), "begins at"},
		"ends out of the blob":   {entries(`{"name":"a","type":"reg","size":5,"offset":10,"endOffset":1000000,` + aDigest + `}`), "ends at"},
		"ends at its beginning":  {entries(`{"name":"a","type":"reg","size":5,"offset":10,"endOffset":10,` + aDigest + `}`), "ends at"},
		"inner offset":           {entries(`{"name":"a","type":"reg","size":5,"offset":10,"innerOffset":67108864,` + aDigest + `}`), "too much"},
		"negative inner offset":  {entries(`{"name":"a","type":"reg","size":5,"offset":10,"innerOffset":-1,` + aDigest + `}`), "too much"},
		"no digest":              {entries(`{"name":"a","type":"reg","size":5,"offset":10}`), "digest"},
		"another digest":         {entries(`{"name":"a","type":"reg","size":5,"offset":10,"chunkDigest":"sha512:2cf2"}`), "digest"},
		"no hex":                 {entries(`{"name":"a","type":"reg","size":5,"offset":10,"chunkDigest":"sha256:` + strings.Repeat("x", 64) + `"}`), "byte"},
		"backwards": {entries(`{"name":"a","type":"reg","size":5,"offset":20,` + aDigest + `},
			{"name":"b","type":"reg","size":5,"offset":10,` + aDigest + `}`), "ends at"},
		"a chunk of nothing":    {entries(`{"name":"a","type":"chunk","chunkSize":1,"offset":10,` + aDigest + `}`), "no sense"},
		"a chunk of a folder":   {entries(`{"name":"a","type":"dir"},{"name":"a","type":"chunk","chunkSize":1,"offset":10,` + aDigest + `}`), "no sense"},
		"a chunk too much":      {entries(`{"name":"a","type":"reg","size":5,"offset":10,` + aDigest + `},{"name":"a","type":"chunk","chunkOffset":5,"chunkSize":1,"offset":20,` + aDigest + `}`), "no sense"},
		"chunks that overlap":   {entries(`{"name":"a","type":"reg","size":5,"chunkSize":3,"offset":10,` + aDigest + `},{"name":"a","type":"chunk","chunkOffset":2,"chunkSize":3,"offset":20,` + aDigest + `}`), "no sense"},
		"a chunk missing":       {entries(`{"name":"a","type":"reg","size":5,"chunkSize":3,"offset":10,` + aDigest + `},{"name":"b","type":"dir"}`), "no sense"},
		"the last one missing":  {entries(`{"name":"a","type":"reg","size":5,"chunkSize":3,"offset":10,` + aDigest + `}`), "no sense"},
		"a negative chunk":      {entries(`{"name":"a","type":"reg","size":5,"chunkSize":-3,"offset":10,` + aDigest + `}`), "no sense"},
		"a chunk of a type":     {entries(`{"name":"a","type":"reg","size":5,"chunkType":"ones","offset":10,` + aDigest + `}`), "type"},
		"a time":                {entries(`{"name":"a","type":"dir","modtime":"yesterday"}`), "time"},
		"an attribute":          {entries(`{"name":"a","type":"dir","xattrs":{"a":"*"}}`), "base64"},
		"a long entry":          {entries(`{"name":"a","type":"dir","linkName":"` + strings.Repeat("a", 3*maxTableEntry) + `"}`), "too much"},
		"a long unknown member": {`{"a":"` + strings.Repeat("a", 3*maxTableEntry) + `"}`, "too much"},
		"much space":            {`{"version":1,` + strings.Repeat(" ", 3*maxTableEntry) + `"entries":[]}`, "too much"},
		"deep":                  {`{"a":` + strings.Repeat("[", 20_000), "depth"},
	} {
		for format, wrap := range wraps {
			t.Run(format+", "+name, func(t *testing.T) {
				blob, notes := wrap(t, []byte(c.table))
				newPlace(t).scannedInstead(t, blob, notes, c.problem)
			})
		}
	}
}

// Like a scan does, a table leaves out what no file system can hold.
func TestTableLeavesOut(t *testing.T) {
	table := `{"unknown":[{}],"version":1,"entries":[
		{"name":"../a","type":"dir"}, {"name":"a/../../b","type":"symlink","linkName":"x"}, {"name":"c","type":"hardlink","linkName":"../x"},
		{"name":"d","type":"dir","uid":-1}, {"name":"e","type":"symlink"}, {"name":"/f//g","type":"dir","mode":16877},
		{"name":"` + strings.Repeat("n", 256) + `","type":"dir"}, {"name":"h","type":"dir","xattrs":{"trusted.overlay.redirect":"eA==","user.x":"eA=="}},
		{"name":"./stargz.index.json","type":"reg"},{"name":"/.prefetch.landmark","type":"reg","size":2,"chunkType":"zeros"}]}`
	for format, wrap := range wraps {
		t.Run(format, func(t *testing.T) {
			p := newPlace(t)
			blob, notes := wrap(t, []byte(table))
			d := p.add(blob)
			d.Annotations = notes
			folder := func(mode uint32) Info { return Info{Mode: unix.S_IFDIR | mode, Links: 1, Mtime: time.Unix(0, 0)} }
			implied := facts{Info: folder(0o755)}
			implied.Info.Implied = true
			got := factsOf(t, p.mustOpen(t, d))
			implied.Info.Mtime = got[""].Info.Mtime // that it has one
			want := map[string]facts{"": implied, "f": implied, "f/g": {Info: folder(0o755)}, "h": {Info: folder(0), Xattrs: map[string]string{"user.x": "x"}}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if len(p.problems) != 6 {
				t.Errorf("%d problems: %q", len(p.problems), p.problems)
			}
		})
	}
}

// fewFiles is small, for fuzzers.
func fewFiles(t testing.TB) []byte {
	return tarOf(t, []tar.Header{
		{Typeflag: tar.TypeDir, Name: "dir/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "dir/large", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		{Typeflag: tar.TypeReg, Name: "dir/zeros", ModTime: time.Unix(1_700_000_000, 0)},
		{Typeflag: tar.TypeLink, Name: "link", Linkname: "dir/large"},
		{Typeflag: tar.TypeSymlink, Name: "sym", Linkname: "link"},
	}, func(name string) []byte {
		return map[string][]byte{"dir/large": noise(120), "dir/zeros": slices.Concat(noise(20), make([]byte, 3000), noise(20))}[name]
	})
}

func FuzzEstargzTOC(f *testing.F) {
	blob, notes := makeEstargz(f, fewFiles(f), estargz.WithChunkSize(50))
	f.Add(blob, notes[noteEstargz], false)
	f.Add(tableOf(f, blob), "", true)
	l := fuzzed(f)
	f.Fuzz(func(t *testing.T, b []byte, sum string, wrap bool) {
		v := map[string]string{noteEstargz: sum}
		if wrap {
			b, v = wrapEstargz(t, b)
		}
		fuzzTable(t, l, b, v)
	})
}

func FuzzChunkedTOC(f *testing.F) {
	blob, notes := makeChunked(f, fewFiles(f))
	off, n, _, err := parsePosition(notes[notePosition], int64(len(blob)))
	if err != nil {
		f.Fatal(err)
	}
	dec, _ := zstd.NewReader(nil)
	defer dec.Close()
	table, err := dec.DecodeAll(blob[off:off+n], nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob, notes[noteChunked], notes[notePosition], false)
	f.Add(table, "", "", true)
	l := fuzzed(f)
	f.Fuzz(func(t *testing.T, b []byte, sum, position string, wrap bool) {
		v := map[string]string{noteChunked: sum, notePosition: position}
		if wrap {
			b, v = wrapChunked(t, b)
		}
		fuzzTable(t, l, b, v)
	})
}

// tableOf is the table of an eStargz layer.
func tableOf(t testing.TB, blob []byte) []byte {
	off, _ := parseFooter(blob)
	r, err := gzip.NewReader(bytes.NewReader(blob[off:]))
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewReader(r)
	if _, err := archive.Next(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(archive)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fuzzed are Layers over a repository in memory.
func fuzzed(f *testing.F) *Layers {
	l := New(Options{Store: memoryStore{}, Blobs: memory{}})
	f.Cleanup(func() { l.Close() })
	return l
}

// fuzzTable makes an index of a table, and looks at all that is in it.
func fuzzTable(t *testing.T, l *Layers, blob []byte, notes map[string]string) {
	v, ok := vouched(notes)
	if !ok {
		t.Skip()
	}
	src := &blobs{content: map[digest.Digest][]byte{}}
	d := src.add(blob)
	here := memory{d: d, src: src}
	file, err := tabulate(memoryStore{}, &extracts{ctx: t.Context(), src: src, d: d, blob: here}, v)
	if err != nil {
		if !errors.Is(err, errTable) {
			t.Fatal(err)
		}
		return
	}
	x, err := openIndex(file, newPagePool(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	defer l.wg.Wait()
	name := fmt.Sprint(x.id, t.Name(), d.Digest, notes)
	fetch := &fetcher{store: memoryStore{}, blobs: here, name: name, x: x, spawn: l.spawn, flying: map[int]chan struct{}{}}
	readAll(t, &used{x, &opened{fetcher: fetch, users: 1}, l, src, d}, x.root())
}

// memoryStore keeps nothing.
type memoryStore struct{ Store }

func (memoryStore) Temp() (*os.File, error) {
	fd, err := unix.MemfdCreate("", unix.MFD_CLOEXEC)
	return os.NewFile(uintptr(fd), ""), err
}

func (s memoryStore) Spans(string) (*os.File, error) { return s.Temp() }

// readAll reads the start and the end of all files: it can fail for want of true bytes only.
func readAll(t *testing.T, f files, dir inode) {
	for e, err := range f.list(dir, "") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == unix.S_IFDIR {
			readAll(t, f, inode(e.Ino))
		}
		info, err := f.stat(inode(e.Ino))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.xattrs(inode(e.Ino)); err != nil {
			t.Fatal(err)
		}
		for _, off := range []int64{0, info.Size - 10} {
			if _, err := f.readAt(t.Context(), inode(e.Ino), make([]byte, 10), off); e.Type == unix.S_IFREG && err != nil && err != io.EOF && !errors.Is(err, image.ErrDigest) {
				t.Fatal(err)
			}
		}
	}
}

// memory has blobs that are not in a file.
type memory struct {
	image.Blob
	d   image.Descriptor
	src *blobs
}

func (m memory) Open(context.Context, image.Source, image.Descriptor) (image.Blob, error) {
	return m, nil
}

func (m memory) Size() int64    { return m.d.Size }
func (m memory) File() *os.File { return nil }
func (m memory) Close() error   { return nil }
