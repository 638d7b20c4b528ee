package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/image"
)

// folderStore keeps indexes and spans as files in a folder.
type folderStore struct{ dir string }

func (s folderStore) OpenIndex(name string) (*os.File, error) {
	return os.Open(filepath.Join(s.dir, name))
}

func (s folderStore) PutIndex(name string, from *os.File) error {
	b, err := io.ReadAll(io.NewSectionReader(from, 0, 1<<40))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, name), b, 0o600)
}

func (s folderStore) Spans(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(s.dir, name+".spans"), os.O_RDWR|os.O_CREATE, 0o600)
}

func (s folderStore) Temp() (*os.File, error) {
	f, err := os.CreateTemp(s.dir, "")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// blobs is a repository that has these blobs and counts the bytes that are read of them.
type blobs struct {
	image.Source
	content map[digest.Digest][]byte
	fetched atomic.Int64
	ranges  atomic.Int64
}

func (b *blobs) Fetch(_ context.Context, d image.Descriptor) (io.ReadCloser, error) {
	return b.read(d, 0, d.Size)
}

func (b *blobs) FetchRange(_ context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	if n <= 0 {
		panic("nothing is asked for")
	}
	b.ranges.Add(1)
	return b.read(d, off, n)
}

func (b *blobs) read(d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	c, ok := b.content[d.Digest]
	if !ok {
		return nil, image.ErrNotFound
	}
	if off+n > int64(len(c)) {
		return nil, errors.New("out of range")
	}
	b.fetched.Add(n)
	return io.NopCloser(bytes.NewReader(c[off : off+n])), nil
}

func (b *blobs) add(content []byte) image.Descriptor {
	d := image.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: digest.FromBytes(content), Size: int64(len(content))}
	b.content[d.Digest] = content
	return d
}

// place is a repository, and Layers that read it.
type place struct {
	*blobs
	*Layers
	store    folderStore
	cache    *cache.Cache
	problems []string
}

func newPlace(t testing.TB) *place {
	t.Helper()
	c, err := cache.New(cache.Options{Dir: t.TempDir(), Size: 1 << 40})
	if err != nil {
		t.Fatalf("%v", err)
	}
	p := &place{blobs: &blobs{content: map[digest.Digest][]byte{}}, store: folderStore{t.TempDir()}, cache: c}
	p.Layers = p.layers()
	t.Cleanup(func() {
		p.Layers.Close()
		c.Close()
	})
	return p
}

func (p *place) layers() *Layers {
	return New(Options{Store: p.store, Blobs: p.cache, Report: func(_ image.Descriptor, text string) { p.problems = append(p.problems, text) }})
}

// again forgets what is in memory.
func (p *place) again() {
	p.Layers.Close()
	p.Layers = p.layers()
}

// walk finds the file at a path.
func walk(f files, path string) (Entry, error) {
	e := Entry{Ino: uint64(f.root())}
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if e, err = f.lookup(inode(e.Ino), name); err != nil {
			return e, err
		}
	}
	return e, nil
}
