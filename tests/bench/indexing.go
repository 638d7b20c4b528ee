package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	gunzip "github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layer"
	"github.com/regfs/regfs/tests/daemon"
	"github.com/regfs/regfs/tests/registries"
)

// indexing compares the making of an index of the largest layer, which is a local file, with plain decompression by the same library.
// Both are in this process.
func (b *bench) indexing() contest {
	info, err := os.Stat(b.largest)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	d := image.Descriptor{
		MediaType: string(types.OCILayer), Digest: digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(b.largest)), Size: info.Size(),
	}
	return contest{
		name: "indexing of the largest layer, a local file", goal: 1.3, bytes: info.Size(), end: func() {},
		contestants: []contestant{
			{"index, with the checksums of its spans", func() sample {
				return b.scratch(func(dir string) sample { return b.within(func() error { return b.indexOnce(d, dir) }) })
			}},
			{"gunzip (klauspost/compress)", func() sample { return b.within(func() error { return gunzipFile(b.largest) }) }},
		},
	}
}

// within measures what this process does.
func (b *bench) within(fn func() error) sample {
	own, begin := b.cpu(os.Getpid()), time.Now()
	if err := fn(); err != nil {
		b.t.Fatalf("%v", err)
	}
	return sample{wall: time.Since(begin), cpu: b.cpu(os.Getpid()) - own}
}

func (b *bench) indexOnce(d image.Descriptor, dir string) error {
	layers := layer.New(layer.Options{
		Store: folder(dir), Blobs: localBlobs(b.largest),
		Report: func(_ image.Descriptor, problem string) { b.t.Fatalf("%s: %s", b.largest, problem) },
	})
	defer layers.Close()
	made, err := layers.Index(b.t.Context(), nowhere{}, d, func(int64) {})
	if err == nil && !made {
		err = fmt.Errorf("there was an index in %s", dir)
	}
	return err
}

func gunzipFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := gunzip.NewReader(f)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	return err
}

// nowhere is the Source of blobs that are here already.
type nowhere struct{ image.Source }

// localBlobs has one file as each of its blobs.
type localBlobs string

func (l localBlobs) Open(context.Context, image.Source, image.Descriptor) (image.Blob, error) {
	f, err := os.Open(string(l))
	return localBlob{f}, err
}

type localBlob struct{ f *os.File }

func (l localBlob) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return l.f.ReadAt(p, off)
}

func (l localBlob) Ready(context.Context, int64, int) (*os.File, error) { return l.f, nil }

func (l localBlob) Size() int64 {
	info, err := l.f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

func (l localBlob) File() *os.File { return l.f }

func (l localBlob) Close() error { return l.f.Close() }

// folder is a layer.Store of plain files.
type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

func (f folder) OpenIndex(name string) (*os.File, error) { return os.Open(f.path(name)) }

func (f folder) PutIndex(name string, from *os.File) error {
	to, err := os.Create(f.path(name))
	if err != nil {
		return err
	}
	defer to.Close()
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return err
}

func (f folder) Spans(name string) (*os.File, error) { return os.Create(f.path(name + ".spans")) }

func (f folder) Temp() (*os.File, error) { return os.CreateTemp(string(f), "") }

// indexSize compares the indexes of the image with its layers.
func (b *bench) indexSize() string {
	size, _ := b.survey(filepath.Join(b.index(b.ref()), "layers", "index"))
	share := float64(size) / float64(b.size)
	return row("size of the indexes, of that of the layers", "regfs index", fmt.Sprintf("%.1f MB: %.2f %%", float64(size)/1e6, 100*share), "≤ 4 %", share <= 0.04)
}

// A layer of many files: so many folders, with so many in each.
const (
	manyFolders = 1000
	manyFiles   = 1000
)

// million tells the most memory that a daemon has that indexes and lists a layer of a million files.
func (b *bench) million() string {
	const limit = 150e6
	img := registries.BuildImage(b.t, registries.Platforms[0], "million", b.manyFiles())
	b.registry.PushImage(b.t, "bench/million:v1", img)
	b.peak = 0
	b.fresh(func(d *daemon.Daemon, _ string) sample {
		root := filepath.Join(d.Path, b.registry.Host, "bench/million/tags/v1/rootfs")
		out, err := b.command("sh", "-c", `find "$1" -type f | wc -l`, "sh", root).Output()
		if n := strings.TrimSpace(string(out)); err != nil || n != fmt.Sprint(manyFolders*manyFiles) {
			b.t.Fatalf("%s files: %v", n, err)
		}
		return sample{}
	})
	return row("most memory resident while a layer of a million files is indexed and listed", "find rootfs", megabytes(b.peak), "≤ 150 MB", b.peak <= limit)
}

// manyFiles is a layer of small files.
func (b *bench) manyFiles() v1.Layer {
	path := filepath.Join(b.t.TempDir(), "million.tar.gz")
	f, err := os.Create(path)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	defer f.Close()
	zip, _ := gzip.NewWriterLevel(f, gzip.BestSpeed) // which is a level there is
	w := tar.NewWriter(zip)
	for folder := range manyFolders {
		for file := range manyFiles {
			content := fmt.Sprintf("%d of %d\n", file, folder)
			h := &tar.Header{Name: fmt.Sprintf("folder-%d/file-number-%d", folder, file), Mode: 0o644, Size: int64(len(content)), ModTime: registries.Created}
			if err := w.WriteHeader(h); err != nil {
				b.t.Fatalf("%v", err)
			}
			if _, err := io.WriteString(w, content); err != nil {
				b.t.Fatalf("%v", err)
			}
		}
	}
	if err := w.Close(); err != nil {
		b.t.Fatalf("%v", err)
	}
	if err := zip.Close(); err != nil {
		b.t.Fatalf("%v", err)
	}
	layer, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	return layer
}
