package layer

import (
	"bytes"
	stdgzip "compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regfs/regfs/image"
)

// someTree is a blob that makes an index of several pages, and its tree.
func someTree(t *testing.T, p *place) (image.Descriptor, []string) {
	t.Helper()
	d := p.add(someBlob())
	words, err := p.words(t, p.blobs, d)
	if err != nil {
		t.Fatal(err)
	}
	return d, words
}

// someBlob is made once: to compress it takes longer than to read it.
var someBlob = sync.OnceValue(func() []byte {
	entries := []ent{root, {name: "data", body: string(mixture(2 << 20))}}
	for i := range 400 {
		entries = append(entries, ent{name: fmt.Sprintf("d%d/%s%d", i%7, long(150), i), body: "x", pax: map[string]string{"SCHILY.xattr.user.a": long(100)}})
		entries = append(entries, ent{name: fmt.Sprintf("h%d", i), typ: '1', link: fmt.Sprintf("d%d/%s%d", i%7, long(150), i)})
	}
	var b bytes.Buffer
	w, _ := stdgzip.NewWriterLevel(&b, stdgzip.BestSpeed)
	w.Write(archive(append(entries, ent{name: "z", typ: 'Z'})...))
	w.Close()
	return b.Bytes()
})

func (p *place) words(t *testing.T, src image.Source, d image.Descriptor) ([]string, error) {
	t.Helper()
	f, err := p.Layers.open(t.Context(), src, d)
	if err != nil {
		return nil, err
	}
	defer f.release()
	nodes, err := walkAll(t.Context(), f)
	words := inWords(nodes)
	for _, n := range nodes {
		for path, broken := range f.paths(inode(n.info.Ino)) {
			words, err = append(words, path), errors.Join(err, broken)
		}
	}
	for link, broken := range f.foreign() {
		words, err = append(words, link.path), errors.Join(err, broken)
	}
	return words, err
}

// An index that is damaged is found out, and made again: at once, or when the damage is come upon.
func TestDamagedIndex(t *testing.T) {
	p := newPlace(t)
	d, want := someTree(t, p)
	name := filepath.Join(p.store.dir, indexName(d))
	index, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(index) < 8*pageSize {
		t.Fatalf("an index of only %d bytes", len(index))
	}
	damages := map[string][]byte{
		"empty": {}, "one byte": {1}, "half a page": index[:pageSize/2], "a page less": index[:len(index)-pageSize], "one page": index[:pageSize], "a page more": append(slices.Clone(index), make([]byte, pageSize)...),
		"zeros": make([]byte, len(index)), "another magic": flipped(index, 3), "another version": withMagic(index, "regfs\x00i\x77"),
	}
	for i := 0; i < len(index); i += pageSize {
		damages[fmt.Sprintf("page %d", i/pageSize)] = flipped(index, i+i/pageSize%pageSize)
		damages[fmt.Sprintf("checksum of page %d", i/pageSize)] = flipped(index, i+pageSize-1)
	}
	for what, damaged := range damages {
		t.Run(what, func(t *testing.T) {
			if err := os.WriteFile(name, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			p.again()
			got, err := p.words(t, p.blobs, d)
			if err != nil && !errors.Is(err, errDamaged) {
				t.Fatal(err)
			}
			if err != nil { // whoever comes next
				got, err = p.words(t, p.blobs, d)
			}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Fatalf("%v: -want +got\n%s", err, diff)
			}
			if now, _ := os.ReadFile(name); !bytes.Equal(now, index) && what != "a page more" {
				t.Error("it is not made again as it was")
			}
		})
	}
}

// wornStore damages all that it keeps.
type wornStore struct {
	folderStore
	puts *int
}

func (s wornStore) PutIndex(name string, from *os.File) error {
	*s.puts++
	if err := s.folderStore.PutIndex(name, from); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, name), flipped(b, pageSize*(len(b)/pageSize-2)), 0o600)
}

// A disk that damages each index is not written to for ever.
func TestAlwaysDamaged(t *testing.T) {
	p := newPlace(t)
	d, _ := someTree(t, p)
	p.Layers.Close()
	os.Remove(filepath.Join(p.store.dir, indexName(d)))
	puts := 0
	p.Layers = New(Options{Store: wornStore{p.store, &puts}, Blobs: p.cache})
	for range 3 * maxWorn {
		if _, err := p.words(t, p.blobs, d); !errors.Is(err, errDamaged) {
			t.Errorf("%v", err)
		}
	}
	if puts != maxWorn+1 {
		t.Errorf("it was made %d times", puts)
	}
}

func flipped(b []byte, i int) []byte {
	b = slices.Clone(b)
	b[i] ^= 0x10
	return b
}

// withMagic is an index as another program might write it, with sound checksums.
func withMagic(index []byte, magic string) []byte {
	var b bytes.Buffer
	w := newPageWriter(&b)
	w.Write(append([]byte(magic), index[len(magic):pageData]...))
	w.close()
	return append(b.Bytes(), index[pageSize:]...)
}

// Spans that were kept are verified: damaged ones are fetched again.
func TestDamagedSpans(t *testing.T) {
	p := newPlace(t)
	d, want := someTree(t, p)
	p.Layers.Close()
	p.uncache(t)
	p.Layers = p.layers()
	if got, err := p.words(t, p.blobs, d); err != nil || !cmp.Equal(want, got) {
		t.Fatal(err)
	}
	name := filepath.Join(p.store.dir, indexName(d)+".spans")
	spans, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, test := range map[string]struct {
		content []byte
		again   bool
	}{
		"none": {spans, false}, "flipped": {flipped(spans, len(spans)/2), true}, "empty": {nil, true}, "half": {spans[:len(spans)/2], true}, "zeros": {make([]byte, len(spans)), true},
	} {
		t.Run(what, func(t *testing.T) {
			if err := os.WriteFile(name, test.content, 0o600); err != nil {
				t.Fatal(err)
			}
			p.again()
			before := p.ranges.Load()
			got, err := p.words(t, p.blobs, d)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v: -want +got\n%s", err, diff)
			}
			if again := p.ranges.Load() > before; again != test.again {
				t.Errorf("something is fetched: %v", again)
			}
		})
	}
}

// faulty is a repository where something is wrong.
type faulty struct {
	*blobs
	fetch func(io.ReadCloser) (io.ReadCloser, error)
	part  func(io.ReadCloser) (io.ReadCloser, error)
}

func (f *faulty) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	r, err := f.blobs.Fetch(ctx, d)
	if err != nil || f.fetch == nil {
		return r, err
	}
	return f.fetch(r)
}

func (f *faulty) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	r, err := f.blobs.FetchRange(ctx, d, off, n)
	switch {
	case err != nil:
		return nil, err
	case f.part != nil:
		return f.part(r)
	case f.fetch != nil:
		return f.fetch(r)
	}
	return r, nil
}

func (f *faulty) Close() error { return nil }

// failing reads some bytes, and then fails.
func failing(n int64, err error) func(io.ReadCloser) (io.ReadCloser, error) {
	return func(r io.ReadCloser) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(io.LimitReader(r, n), errorReader{err})), nil
	}
}

type errorReader struct{ error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.error }

// altered changes one byte.
func altered(at int) func(io.ReadCloser) (io.ReadCloser, error) {
	return func(r io.ReadCloser) (io.ReadCloser, error) {
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		b[at%len(b)] ^= 1
		return io.NopCloser(bytes.NewReader(b)), nil
	}
}

// Errors of the place a layer comes from are passed on as they are, and the next one to ask may have more luck.
func TestSourceErrors(t *testing.T) {
	broken := errors.New("broken cable")
	blob := gz(t, oneFile(mixture(1<<20)), nil)
	for name, test := range map[string]struct {
		src  faulty
		want error
	}{
		"refused":              {faulty{fetch: func(io.ReadCloser) (io.ReadCloser, error) { return nil, image.ErrUnavailable }}, image.ErrUnavailable},
		"broken off":           {faulty{fetch: failing(100_000, broken)}, broken},
		"broken off at once":   {faulty{fetch: failing(0, broken)}, broken},
		"timed out":            {faulty{fetch: failing(9, context.DeadlineExceeded)}, context.DeadlineExceeded},
		"invalid, says source": {faulty{fetch: failing(9, image.ErrInvalid)}, image.ErrInvalid},
		"altered":              {faulty{fetch: altered(300_000)}, image.ErrDigest},
		"altered at its start": {faulty{fetch: altered(0)}, image.ErrDigest},
		"altered inside":       {faulty{fetch: altered(12)}, image.ErrDigest},
		"altered at its end":   {faulty{fetch: altered(-1 + 1<<20)}, image.ErrDigest},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			d := p.add(blob)
			test.src.blobs = p.blobs
			_, err := p.words(t, &test.src, d)
			if !errors.Is(err, test.want) || test.want != image.ErrInvalid && isInvalid(err) {
				t.Errorf("%v", err)
			}
			if _, err := p.words(t, p.blobs, d); err != nil {
				t.Errorf("and then: %v", err)
			}
			p.noneLeft(t, d)
		})
	}
}

// noneLeft finds files that should be gone.
func (p *place) noneLeft(t *testing.T, d image.Descriptor) {
	t.Helper()
	entries, err := os.ReadDir(p.store.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); name != indexName(d) && name != indexName(d)+".spans" {
			t.Errorf("%s is left", name)
		}
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil && runtime.GOOS == "linux" {
		t.Error(err)
	}
	for _, e := range open {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); filepath.Dir(to) == p.store.dir && to != filepath.Join(p.store.dir, indexName(d)) {
			t.Errorf("%s is open", to)
		}
	}
}

// What a range has is verified, and what is wrong is not kept.
func TestAlteredRange(t *testing.T) {
	for name, test := range map[string]struct {
		part func(io.ReadCloser) (io.ReadCloser, error)
		want error
	}{
		"altered":   {altered(1000), image.ErrDigest},
		"cut short": {failing(1000, io.EOF), io.ErrUnexpectedEOF},
		"failing":   {failing(1000, image.ErrUnavailable), image.ErrUnavailable},
		"refused":   {func(io.ReadCloser) (io.ReadCloser, error) { return nil, image.ErrDenied }, image.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			d, want := someTree(t, p)
			p.Layers.Close()
			p.uncache(t)
			p.Layers = p.layers()
			if _, err := p.words(t, &faulty{blobs: p.blobs, part: test.part}, d); !errors.Is(err, test.want) || isInvalid(err) {
				t.Errorf("%v", err)
			}
			if got, err := p.words(t, p.blobs, d); err != nil || !cmp.Equal(want, got) {
				t.Errorf("and then: %v", err)
			}
		})
	}
}
