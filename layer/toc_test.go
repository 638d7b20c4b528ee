package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
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
	for _, format := range []string{"eStargz, shared member", "both"} {
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
