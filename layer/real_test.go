package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// realTar is a tar archive of real files.
func realTar(t testing.TB) []byte {
	t.Helper()
	dir := os.Getenv("REALTAR")
	if dir == "" {
		dir = "/usr/lib/python3"
	}
	out, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-c", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func gz(t testing.TB, parts ...[]byte) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		w, _ := gzip.NewWriterLevel(&b, 6)
		w.Write(p)
		w.Close()
	}
	return b.Bytes()
}

func zs(t testing.TB, parts ...[]byte) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		w, _ := zstd.NewWriter(&b)
		w.Write(p)
		w.Close()
	}
	return b.Bytes()
}

func chunks(b []byte, n int) (all [][]byte) {
	for len(b) > n {
		all, b = append(all, b[:n]), b[n:]
	}
	return append(all, b)
}

func walk(ctx context.Context, f files, path string) (Entry, error) {
	e := Entry{Ino: uint64(f.root())}
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if e, err = f.lookup(inode(e.Ino), name); err != nil {
			return e, err
		}
	}
	return e, nil
}

func TestReal(t *testing.T) {
	raw := realTar(t)
	for name, blob := range map[string][]byte{
		"tar": raw, "gzip": gz(t, raw), "members": gz(t, chunks(raw, 100_000)...), "big members": gz(t, chunks(raw, 3_000_000)...), "zstd": zs(t, raw), "frames": zs(t, chunks(raw, 300_000)...),
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			d := p.add(blob)
			f, err := p.Layers.open(t.Context(), p.blobs, d)
			if err != nil {
				t.Fatal(err)
			}
			defer f.release()
			u := f.(*used)
			t.Logf("blob %d, stream %d, index %d, spans %d, problems %v", len(blob), u.size, u.pages.size, u.count(secSpans, spanSize), p.problems)
			tr := tar.NewReader(bytes.NewReader(raw))
			rnd := rand.New(rand.NewPCG(1, 2))
			for {
				h, err := tr.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				path, _ := cleanPath(h.Name)
				if path == "" || h.Typeflag != tar.TypeReg {
					continue
				}
				e, err := walk(t.Context(), f, path)
				if err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				want, _ := io.ReadAll(tr)
				info, err := f.stat(inode(e.Ino))
				if err != nil || info.Size != h.Size || info.Mode&0o7777 != uint32(h.Mode) || !info.Mtime.Equal(h.ModTime) {
					t.Fatalf("%s: %+v %v", path, info, err)
				}
				if len(want) == 0 {
					continue
				}
				off := rnd.IntN(len(want))
				got := make([]byte, rnd.IntN(len(want)-off)+1)
				if n, err := f.readAt(t.Context(), inode(e.Ino), got, int64(off)); n != len(got) || err != nil {
					t.Fatalf("%s: %d bytes of %d at %d: %v", path, n, len(got), off, err)
				}
				if !bytes.Equal(got, want[off:off+len(got)]) {
					t.Fatalf("%s: other content at %d", path, off)
				}
			}
		})
	}
}
