package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

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
		return // nothing vouches for a table, so none is looked for
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
