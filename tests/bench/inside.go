package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/regfs/regfs/tests/daemon"
	"github.com/regfs/regfs/tests/registries"
)

// Small files of the image: one of its lowest layer, and one of its highest.
const (
	baseFile = "usr/share/doc/libc6/copyright"
	topFile  = "usr/share/doc/libreoffice-core/copyright"
)

// inside is a path in the image's root file system, in a mount.
func (b *bench) inside(d *daemon.Daemon, path string) string {
	return filepath.Join(d.Path, b.registry.Host, repository, "tags", "v1", "rootfs", path)
}

func (b *bench) fileOfBase() contest {
	return b.firstFile("first file read from rootfs, nothing cached: one of the lowest layer", baseFile)
}

func (b *bench) fileOfTop() contest {
	return b.firstFile("the same: one of the highest layer", topFile)
}

// firstFile reads one file with a mount and a cache that are new each time.
func (b *bench) firstFile(name, path string) contest {
	return contest{
		name: name, goal: 0.5, end: func() {},
		contestants: []contestant{
			{"cat rootfs/" + path, func() sample {
				return b.fresh(func(d *daemon.Daemon, _ string) sample { return b.measure(d, b.command("cat", b.inside(d, path))) })
			}},
			{"crane export, tar -xO", func() sample {
				return b.measure(nil, b.command("bash", "-c", `set -o pipefail; crane export "$1" - | tar -xO "$2"`, "bash", b.ref(), path))
			}},
		},
	}
}

// large is the size from which on a file of the cache is a layer's blob, in bytes. Manifests and configs are smaller.
const large = 64 << 10

// index fetches and indexes an image into a new cache, and returns its folder.
func (b *bench) index(ref string) string {
	dir := b.t.TempDir()
	b.must(b.command(b.program, "index", "-q", "--cache-dir", dir, "docker://"+ref))
	return dir
}

// forgetBlobs leaves a cache with nothing of layers but their indexes.
func (b *bench) forgetBlobs(dir string) {
	if err := os.RemoveAll(filepath.Join(dir, "layers", "spans")); err != nil {
		b.t.Fatalf("%v", err)
	}
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		if info, err := entry.Info(); err != nil || info.Size() < large {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		b.t.Fatalf("%v", err)
	}
}

// first is what the first read of a file took: time, and bytes from the registry.
type first struct {
	seconds []float64
	bytes   []float64
}

// reads reads a file with a new mount each time, through a proxy that counts. prepare fills the cache.
func (b *bench) reads(repository, path string, prepare func(ref, cacheDir string)) first {
	var f first
	proxy := registries.NewProxy(b.t, b.registry)
	for round := range b.runs + 1 {
		b.t.Logf("%s: %d of %d", repository, round, b.runs)
		b.scratch(func(dir string) sample {
			cacheDir := filepath.Join(dir, "cache")
			prepare(proxy.Host+"/"+repository+":v1", cacheDir)
			proxy.Reset()
			d := b.mount(cacheDir)
			defer b.unmount(d)
			s := b.measure(d, b.command("cat", filepath.Join(d.Path, proxy.Host, repository, "tags", "v1", "rootfs", path)))
			if round > 0 {
				f.seconds = append(f.seconds, s.wall.Seconds())
				f.bytes = append(f.bytes, float64(received(proxy)))
			}
			return s
		})
	}
	return f
}

// received is how much a proxy has sent on.
func received(proxy *registries.Proxy) (n int64) {
	for _, r := range proxy.Requests() {
		n += r.Bytes
	}
	return n
}

// rows tell whether both the time and the bytes are within their limits.
func (f first) rows(what, path string, limit time.Duration, bytes int64) string {
	most := slices.Max(f.bytes)
	return row("first file read from rootfs, "+what, "cat rootfs/"+path, spread(f.seconds, "%.3f"), "≤ "+limit.String(), median(f.seconds) <= limit.Seconds()) +
		row("what is fetched for that", "", megabytes(int64(most)), "≤ "+megabytes(bytes), most <= float64(bytes))
}

// fileOfIndexed reads a file of the lowest layer with all layers indexed and no blob there.
func (b *bench) fileOfIndexed() string {
	var indexed string
	f := b.reads(repository, baseFile, func(ref, cacheDir string) {
		if indexed == "" {
			indexed = b.index(ref)
			b.forgetBlobs(indexed)
		}
		b.must(b.command("cp", "-a", indexed, cacheDir))
	})
	return f.rows("index known, no blob cached", baseFile, 20*time.Millisecond, 1<<20)
}

// fileOfFormats reads a file of images whose layers bring their index.
func (b *bench) fileOfFormats() string {
	rows := ""
	for _, f := range formats {
		size := b.pushFormat(f)
		first := b.reads(f.repository(), baseFile, func(string, string) {})
		rows += first.rows("nothing cached, "+f.name, baseFile, 100*time.Millisecond, size*3/100)
	}
	return rows
}

// unpack unpacks the image, and removes nothing at the end: the folder is one of the test's.
func (b *bench) unpack() string {
	dir := b.t.TempDir()
	b.must(b.command("bash", "-c", `set -o pipefail; crane export "$1" - | tar -C "$2" -x`, "bash", b.ref(), dir))
	return dir
}

// find counts the files of the root file system, in a mount where that was done before.
func (b *bench) find() contest {
	local, d := b.unpack(), b.mount(b.index(b.ref()))
	count := func(d *daemon.Daemon, path string) func() sample {
		return func() sample { return b.measure(d, b.command("sh", "-c", `find "$1" | wc -l`, "sh", path)) }
	}
	return contest{
		name: "counting all files, warm", goal: 2, end: func() { b.unmount(d) },
		contestants: []contestant{{"find rootfs, wc -l", count(d, b.inside(d, ""))}, {"find of an unpacked copy, wc -l", count(nil, local)}},
	}
}

// tar reads all files, with a new mount each time and all blobs in its cache.
func (b *bench) tar() contest {
	cached := b.index(b.ref())
	return contest{
		name: "reading all files, blobs and index cached", goal: 1 / 0.8, bytes: b.size, end: func() {},
		contestants: []contestant{
			{"tar -cf - rootfs, wc -c", func() sample {
				d := b.mount(cached)
				defer b.unmount(d)
				return b.measure(d, b.command("sh", "-c", `tar -C "$1" -cf - . | wc -c`, "sh", b.inside(d, "")))
			}},
			// GNU tar reads nothing when it writes to /dev/null; gunzip does, but is to write as much.
			{"gunzip of its layers, wc -c", func() sample {
				script := `for blob; do [ $(stat -c %s "$blob") -lt ` + fmt.Sprint(large) + ` ] || gunzip -c < "$blob"; done | wc -c`
				blobs, err := filepath.Glob(filepath.Join(b.local, "blobs", "sha256", "*"))
				if err != nil {
					b.t.Fatalf("%v", err)
				}
				return b.measure(nil, b.command("bash", append([]string{"-c", script, "bash"}, blobs...)...))
			}},
		},
	}
}
