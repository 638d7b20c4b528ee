package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lonely is the tree of a blob, which must be that of a sound one or image.ErrInvalid.
func lonely(t *testing.T, blob []byte) ([]string, error) {
	t.Helper()
	l, _, d := lone(t, blob)
	layer, err := l.open(t.Context(), nil, d)
	if err != nil {
		if !isInvalid(err) {
			t.Fatalf("not ErrInvalid: %v", err)
		}
		return nil, err
	}
	defer layer.release()
	nodes, err := walkAll(t.Context(), layer)
	if err != nil {
		t.Fatal(err)
	}
	return inWords(nodes), nil
}

// A blob that is cut short or has a wrong bit is invalid, or shows what it did.
func TestTruncatedAndFlipped(t *testing.T) {
	raw := archive(root, ent{name: "a", body: string(mixture(3000)), pax: map[string]string{"mtime": "1.5"}}, ent{name: "h", typ: '1', link: "a"})
	for form, blob := range map[string][]byte{"gzip": gz(t, raw[:1500], raw[1500:]), "zstd": zs(t, raw[:1500], raw[1500:]), "tar": raw} {
		want, err := lonely(t, blob)
		if err != nil {
			t.Fatal(err)
		}
		step := 1
		if form == "tar" { // most of it is content
			step = 5
		}
		t.Run("truncated "+form, func(t *testing.T) {
			for n := 1; n < len(blob); n += 11 * step {
				if got, err := lonely(t, blob[:n]); err == nil && form != "tar" {
					t.Errorf("%d of %d bytes: %q", n, len(blob), got)
				}
			}
		})
		t.Run("flipped "+form, func(t *testing.T) {
			for bit := 0; bit < 8*len(blob); bit += 29 * step {
				b := bytes.Clone(blob)
				b[bit/8] ^= 1 << (bit % 8)
				if got, err := lonely(t, b); err == nil && form != "tar" && !cmp.Equal(want, got) {
					t.Errorf("bit %d: %q", bit, got)
				}
			}
		})
	}
}

func TestInvalid(t *testing.T) {
	sound := archive(root, ent{name: "a", body: "x"})
	for name, blob := range map[string][]byte{
		"a size beyond the end":     archive(root, ent{name: "a", body: "x", size: 5000}),
		"a size of almost all":      archive(root, ent{name: "a", body: "x", size: 1<<63 - 1, magic: gnuMagic}),
		"a negative size":           archive(root, ent{name: "a", body: "x", size: -1, magic: gnuMagic}),
		"a wrong checksum":          flipped(sound, 512),
		"a lone block of zeros":     append(headless(root), append(make([]byte, 512), sound...)...),
		"text":                      []byte(strings.Repeat("no tar\n", 1000)),
		"a long name that is large": archive(root, ent{name: "L", typ: 'L', magic: gnuMagic, body: long(2 << 20)}, ent{name: "a"}),
		"a large header":            archive(root, ent{name: "x", typ: 'x', body: paxRecord("a", long(2<<20))}, ent{name: "a"}),
		"very many headers":         archive(root, ent{name: "x", typ: 'x', body: strings.Repeat(string(ent{name: "x", typ: 'x', body: paxRecord("a", "b")}.bytes()), 10_000)[512:]}),
		"a header that is none":     archive(root, ent{name: "x", typ: 'x', body: "nonsense"}, ent{name: "a"}),
		"a path with a NUL":         archive(root, ent{name: "a", pax: map[string]string{"path": "a\x00b"}}),
		"a time that is none":       archive(root, ent{name: "a", pax: map[string]string{"mtime": "now"}}),
		"garbage behind gzip":       append(gz(t, sound), "garbage"...),
		"garbage behind padding":    append(append(gz(t, sound), make([]byte, 100)...), "garbage"...),
		"garbage behind zstd":       append(zs(t, sound), "garbage"...),
		"half a gzip header":        append(gz(t, sound), 0x1f, 0x8b),
		"gzip without content":      {0x1f, 0x8b},
		"zstd without content":      {0x28, 0xb5, 0x2f, 0xfd},
		"bzip2":                     []byte("BZh91AY&SY"),
		"xz":                        []byte("\xfd7zXZ\x00\x00"),
		"gzip in gzip":              gz(t, gz(t, sound)),
		"a name too often":          versions(maxVersions + 1),
		"versions too large":        largeVersions(t),
		"a skippable frame cut":     []byte("P*M\x18\xff\xff\xff\x7fabc"),
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			d := p.add(blob)
			if _, err := p.words(t, p.blobs, d); !isInvalid(err) {
				t.Fatalf("%v", err)
			}
			before := p.fetched.Load()
			if _, err := p.words(t, p.blobs, d); !isInvalid(err) || p.fetched.Load() != before {
				t.Errorf("it is not remembered: %v", err)
			}
			p.noneLeft(t, d)
		})
	}
}

// versions is an archive with one path so often.
func versions(n int) []byte {
	entries := []ent{root, {name: "d/", typ: '5'}}
	for i := range n {
		entries = append(entries, ent{name: "d/x", typ: '6', uid: int64(i)})
	}
	return archive(entries...)
}

// largeVersions are more than fit in memory.
func largeVersions(t testing.TB) []byte {
	return packed(t, func(w io.Writer) {
		e := ent{name: "a", typ: '2', pax: map[string]string{"SCHILY.xattr.user.a": long(65_000), "linkpath": long(4000)}}.bytes()
		for range maxGroup/69_000 + 1 { // which are not too many
			w.Write(e)
		}
	}, "gzip", "-1")
}

// packed is what a program makes of what fn writes: one that the race detector does not slow down.
func packed(t testing.TB, fn func(io.Writer), name string, args ...string) []byte {
	t.Helper()
	return pipedFrom(t, generated(fn), name, args...)
}

// What is odd, but no reason to show nothing.
func TestOdd(t *testing.T) {
	for name, test := range map[string]struct {
		blob     []byte
		want     int // how many files there are
		problems []string
	}{
		"10,000 components":  {archive(root, ent{name: "a", pax: map[string]string{"path": strings.Repeat("a/", 10_000)}}), 1, []string{`"` + strings.Repeat("a/", 100) + `…" is left out: a name that is too long`}},
		"2,000 folders deep": {archive(root, ent{name: "a", pax: map[string]string{"path": strings.Repeat("a/", 2000) + "b"}}), 2002, nil},
		"a name often":       {versions(maxVersions), 3, nil},
		"very many problems": {packed(t, func(w io.Writer) { writeMany(w, 500, func(i int) ent { return ent{name: fmt.Sprint("../", i)} }) }, "gzip", "-1"), 1, append(outside(maxProblems), "400 more are left out")},
		"many hard links to one": {packed(t, func(w io.Writer) {
			writeMany(w, 10_000, func(i int) ent { return ent{name: fmt.Sprint("z", i), typ: '1', link: "a"} })
		}, "gzip", "-1"), 10_001, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			words, err := p.words(t, p.blobs, p.add(test.blob))
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, w := range words {
				if strings.Contains(w, " ") {
					n++
				}
			}
			if n != test.want {
				t.Errorf("%d files", n)
			}
			if diff := cmp.Diff(test.problems, p.problems); diff != "" {
				t.Errorf("problems: -want +got\n%s", diff)
			}
		})
	}
}

func outside(n int) (texts []string) {
	for i := range n {
		texts = append(texts, fmt.Sprintf(`"../%d" is left out: a name with a .. in it`, i))
	}
	return texts
}

func writeMany(w io.Writer, n int, entry func(i int) ent) {
	w.Write(root.bytes())
	for i := range n {
		w.Write(entry(i).bytes())
	}
}

// peak measures how much memory is used in bytes at the most while fn runs.
func peak(fn func()) int64 {
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var most atomic.Int64
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-done:
				tick.Stop()
				return
			case <-tick.C:
				runtime.ReadMemStats(&now)
				most.Store(max(most.Load(), int64(now.HeapInuse)-int64(before.HeapInuse)))
			}
		}
	}()
	fn()
	close(done)
	<-stopped
	return most.Load()
}

// generated is a reader of what fn writes.
func generated(fn func(io.Writer)) io.Reader {
	r, w := io.Pipe()
	go func() {
		fn(w)
		w.Close()
	}()
	return r
}

// repeated reads a text again and again.
type repeated struct {
	text []byte
	at   int
}

func (r *repeated) Read(p []byte) (n int, err error) {
	for n < len(p) {
		part := copy(p[n:], r.text[r.at:])
		n, r.at = n+part, (r.at+part)%len(r.text)
	}
	return n, nil
}

// Blobs that are made to take much take little.
func TestBounded(t *testing.T) {
	zeros, noise := make([]byte, 4096), noise(32_000)
	const expanded = 64 << 20
	bomb := func(text []byte) func(io.Writer) {
		return func(w io.Writer) {
			w.Write(ent{name: "a", edit: func(h []byte) { number8(h[124:136], expanded) }}.bytes())
			io.CopyN(w, &repeated{text: text}, expanded)
		}
	}
	for name, test := range map[string]struct {
		blob   io.Reader
		memory int64
	}{
		"gzip of zeros":           {bytes.NewReader(packed(t, bomb(zeros), "gzip", "-1")), 48 << 20},
		"gzip of repeated noise":  {bytes.NewReader(packed(t, bomb(noise), "gzip", "-1")), 48 << 20},
		"zstd of zeros":           {bytes.NewReader(packed(t, bomb(zeros), "zstd", "-1", "--zstd=wlog=23")), 60 << 20},
		"zstd with a huge window": {bytes.NewReader(packed(t, bomb(noise), "zstd", "-1", "--long=27")), 320 << 20},
		"many files": {generated(func(w io.Writer) {
			writeMany(w, 25_000, func(i int) ent { return ent{name: fmt.Sprintf("d%d/%s%d", i%50, long(80), i)} })
		}), 48 << 20},
		"many files in one": {generated(func(w io.Writer) {
			writeMany(w, 25_000, func(i int) ent { return ent{name: fmt.Sprint(long(90), i)} })
		}), 48 << 20},
		"many hard links": {generated(func(w io.Writer) {
			writeMany(w, 25_000, func(i int) ent { return ent{name: fmt.Sprint("l", i), typ: '1', link: fmt.Sprint("l", i-1)} })
		}), 48 << 20},
		"folders that come and go": {generated(func(w io.Writer) {
			writeMany(w, 25_000, func(i int) ent {
				return ent{name: strings.Repeat("a/", 1+i/900) + "b", typ: "05"[i%2]}
			})
		}), 48 << 20},
		"symbolic links everywhere": {generated(func(w io.Writer) {
			writeMany(w, 25_000, func(i int) ent {
				if i%2 == 0 {
					return ent{name: fmt.Sprint("l", i), typ: '2', link: fmt.Sprint("l", i+2, "/x")}
				}
				return ent{name: fmt.Sprint("l", i-1, "/y")}
			})
		}), 48 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			counted := &countingReader{r: test.blob}
			began := time.Now()
			var size int64
			used := peak(func() {
				file, err := scan(folderStore{t.TempDir()}, counted)
				if err != nil && !errors.Is(err, errTooMuch) {
					t.Error(err)
				}
				if err == nil {
					info, _ := file.Stat()
					size = info.Size()
					file.Close()
				} else {
					t.Log(err)
				}
			})
			t.Logf("%d MiB of memory, an index of %d KiB for %d KiB, %v", used>>20, size>>10, counted.n>>10, time.Since(began))
			if used > test.memory {
				t.Errorf("%d MiB of memory", used>>20)
			}
			if size > keepFree+keepRatio*counted.n {
				t.Errorf("an index of %d bytes for %d", size, counted.n)
			}
		})
	}
}

type countingReader struct {
	r io.Reader
	n int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	return n, err
}

// A store that fails is no fault of the blob.
func TestStoreErrors(t *testing.T) {
	p := newPlace(t)
	d := p.add(gz(t, oneFile(mixture(1<<20))))
	p.Layers.Close()
	p.Layers = New(Options{Store: brokenStore{p.store}, Blobs: p.cache})
	for range 2 {
		if _, err := p.words(t, p.blobs, d); !errors.Is(err, errFull) || isInvalid(err) {
			t.Errorf("%v", err)
		}
	}
	p.again()
	if _, err := p.words(t, p.blobs, d); err != nil {
		t.Error(err)
	}
}

var errFull = errors.New("no space left")

type brokenStore struct{ folderStore }

func (brokenStore) PutIndex(string, *os.File) error { return errFull }
