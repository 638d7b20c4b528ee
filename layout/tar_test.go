package layout

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// sample is files of all kinds: empty, of a whole block, with a long name, made here and not.
func sample(s memory) []File {
	blob := func(n int) *image.Descriptor {
		d := s.put("", bytes.Repeat([]byte{byte(n), 'b'}, n))
		return &d
	}
	return []File{
		{Name: "a/b/first", Blob: blob(700)},
		{Name: "a/b/empty", Blob: blob(0)},
		{Name: "a/" + strings.Repeat("long", 50), Blob: blob(256)},
		{Name: "made", Data: []byte("made here")},
		{Name: "nothing"},
		{Name: "z/last", Blob: blob(33)},
	}
}

// written is what archive/tar makes of files, folders given.
func written(t testing.TB, s memory, files []File) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Mode: 0o644, Size: f.Size(), ModTime: time.Unix(0, 0)}
		if strings.HasSuffix(f.Name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		data := f.Data
		if f.Blob != nil {
			data = s[f.Blob.Digest].data
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sampleTar(t testing.TB, s memory) (*Tar, []byte) {
	f := sample(s)
	tr, err := NewTar(f)
	if err != nil {
		t.Fatal(err)
	}
	folder := func(name string) File { return File{Name: name} }
	return tr, written(t, s, []File{folder("a/"), folder("a/b/"), f[0], f[1], f[2], f[3], f[4], folder("z/"), f[5]})
}

func TestTarAtEveryOffset(t *testing.T) {
	s, o := memory{}, &open{}
	tr, want := sampleTar(t, s)
	if tr.Size() != int64(len(want)) {
		t.Fatalf("size %d, want %d", tr.Size(), len(want))
	}
	r := tr.Open(s, o)
	for _, n := range []int{1, 7, 511, 512, 513, 4096, len(want) + 1} {
		for off := range len(want) + 2 {
			p := make([]byte, n)
			k, err := r.ReadAt(t.Context(), p, int64(off))
			end := min(off+n, len(want))
			exp := want[min(off, len(want)):end]
			if !bytes.Equal(p[:k], exp) || (err == io.EOF) != (k < n) || err != nil && err != io.EOF {
				t.Fatalf("%d bytes at %d: %d came, %v", n, off, k, err)
			}
		}
	}
	must(t, r.Close())
	if o.now != 0 || o.most > keepOpen+1 {
		t.Errorf("%d blobs are left open, at most %d were", o.now, o.most)
	}
}

func FuzzTarReadAt(f *testing.F) {
	s := memory{}
	tr, want := sampleTar(f, s)
	r := tr.Open(s, &open{})
	f.Add(int64(0), 512)
	f.Add(int64(len(want)-1), 2)
	f.Add(int64(math.MaxInt64), 2)
	f.Add(int64(-1), 2)
	f.Fuzz(func(t *testing.T, off int64, n int) {
		got := make([]byte, min(max(n, 1), 1<<16))
		k, err := r.ReadAt(t.Context(), got, off)
		if off < 0 {
			if !errors.Is(err, image.ErrInvalid) {
				t.Fatalf("a negative offset: %v", err)
			}
			return
		}
		exp := make([]byte, len(got))
		wantN, wantErr := bytes.NewReader(want).ReadAt(exp, off)
		if k != wantN || err != wantErr || !bytes.Equal(got, exp) {
			t.Fatalf("%d bytes at %d: %d, %v; want %d, %v", len(got), off, k, err, wantN, wantErr)
		}
	})
}

// lockedOpen is open for many.
type lockedOpen struct {
	sync.Mutex
	open
}

func (o *lockedOpen) Open(ctx context.Context, src image.Source, d image.Descriptor) (image.Blob, error) {
	o.Lock()
	defer o.Unlock()
	b, err := o.open.Open(ctx, src, d)
	return &lockedBlob{b, o}, err
}

type lockedBlob struct {
	image.Blob
	open *lockedOpen
}

func (b *lockedBlob) Close() error {
	b.open.Lock()
	defer b.open.Unlock()
	return b.Blob.Close()
}

func TestTarReadByMany(t *testing.T) {
	s, o := memory{}, &lockedOpen{}
	tr, want := sampleTar(t, s)
	r := tr.Open(s, o)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for off := i * 100; off < len(want); off += 333 {
				p := make([]byte, min(1000, len(want)-off))
				if _, err := r.ReadAt(t.Context(), p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
					t.Errorf("at %d: %v", off, err)
				}
			}
			if i == 4 {
				r.Close()
			}
		})
	}
	wg.Wait()
	must(t, r.Close())
	if o.now != 0 {
		t.Errorf("%d blobs are left open", o.now)
	}
}

func TestTarOfWhatIsNotThere(t *testing.T) {
	s := memory{}
	gone := &image.Descriptor{Digest: digest.FromString("gone"), Size: 10}
	short := s.put("", []byte("short"))
	short.Size++
	tr, err := NewTar([]File{{Name: "here", Data: []byte("here")}, {Name: "gone", Blob: gone}, {Name: "short", Blob: &short}})
	must(t, err)
	r := tr.Open(s, &open{})
	defer r.Close()
	p := make([]byte, tr.Size())
	if n, err := r.ReadAt(t.Context(), p, 0); n != 3*tarBlock || !errors.Is(err, image.ErrNotFound) {
		t.Errorf("a missing blob: %d bytes, %v", n, err)
	}
	if n, err := r.ReadAt(t.Context(), p, 5*tarBlock); n != 5 || !errors.Is(err, image.ErrDigest) {
		t.Errorf("a short blob: %d bytes, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.ReadAt(ctx, p[:1], 5*tarBlock); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled read: %v", err)
	}
}

func TestTarOfLargeFiles(t *testing.T) {
	file := func(size int64) File {
		return File{Name: "f", Blob: &image.Descriptor{Digest: digest.FromString(""), Size: size}}
	}
	tr, err := NewTar([]File{file(20 << 30), {Name: "after", Data: []byte("it")}})
	must(t, err)
	r := tr.Open(memory{}, &open{})
	head := make([]byte, tr.members[0].content)
	_, err = r.ReadAt(t.Context(), head, 0)
	must(t, err)
	h, err := tar.NewReader(bytes.NewReader(head)).Next()
	if err != nil || h.Size != 20<<30 {
		t.Errorf("the header of 20 GiB says %+v, %v", h, err)
	}
	tail := make([]byte, tr.Size()-tr.members[1].off)
	_, err = r.ReadAt(t.Context(), tail, tr.members[1].off)
	must(t, err)
	if h, err = tar.NewReader(bytes.NewReader(tail)).Next(); err != nil || h.Name != "after" {
		t.Errorf("after 20 GiB comes %+v, %v", h, err)
	}
	for _, files := range [][]File{{file(-1)}, {file(math.MaxInt64)}, {file(math.MaxInt64 / 3), file(math.MaxInt64 / 3)}} {
		if _, err := NewTar(files); !errors.Is(err, image.ErrInvalid) {
			t.Errorf("a tar of %d bytes and more: %v", files[0].Size(), err)
		}
	}
}
