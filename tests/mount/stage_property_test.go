//go:build linux

package mount_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// TestStageIsAFolder does the same random things to the folder of an unfinished image and to one on disk: each answers alike, and in
// the end both hold the same.
func TestStageIsAFolder(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			staged := m.At(r.Host, "property", "tags", fmt.Sprintf("t%d", seed), "oci-layout")
			if err := os.MkdirAll(staged, 0o755); err != nil {
				t.Fatal(err)
			}
			p := &twins{t: t, rand: rand.New(rand.NewPCG(seed, 1)), roots: [2]string{staged, t.TempDir()}}
			for range 600 {
				p.step()
			}
			p.closeAll()
			p.compare()
		})
	}
}

// twins are two folders that the same is done to, and the files open in both.
type twins struct {
	t     *testing.T
	rand  *rand.Rand
	roots [2]string
	open  [][2]*os.File
	log   []string
}

// step does one thing to both.
func (p *twins) step() {
	steps := []func(){
		p.create, p.create, p.write, p.write, p.write, p.read, p.readAll, p.truncate, p.mkdir, p.mkdir, p.rename, p.rename, p.unlink,
		p.rmdir, p.chmod, p.utimes, p.xattr, p.list, p.stat, p.shut, p.sync, p.append,
	}
	steps[p.rand.IntN(len(steps))]()
}

// path is a name that may or may not exist, up to three folders deep. None is one that means something in a layout.
func (p *twins) path() string {
	names := []string{"a", "b", "c", ".tmp", "blobs", "with space", "ü"}
	parts := []string{names[p.rand.IntN(len(names))]}
	for p.rand.IntN(3) == 0 && len(parts) < 3 {
		parts = append(parts, names[p.rand.IntN(len(names))])
	}
	return filepath.Join(parts...)
}

// both runs fn for each folder, and compares what comes of it.
func (p *twins) both(what string, fn func(i int, root string) (any, error)) {
	p.t.Helper()
	p.log = append(p.log, what)
	var got [2]string
	for i, root := range p.roots {
		v, err := fn(i, root)
		got[i] = fmt.Sprintf("%v, %v", v, bare(err))
	}
	if got[0] != got[1] {
		p.t.Fatalf("%s: %s\nwant %s\nafter\n%s", what, got[0], got[1], strings.Join(p.log[max(0, len(p.log)-40):], "\n"))
	}
}

// bare is an error without the path.
func bare(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

// file is an open file, or nil.
func (p *twins) file() *[2]*os.File {
	if len(p.open) == 0 {
		return nil
	}
	return &p.open[p.rand.IntN(len(p.open))]
}

func (p *twins) create() {
	at, flags := p.path(), os.O_RDWR|os.O_CREATE
	if p.rand.IntN(2) == 0 {
		flags |= os.O_TRUNC
	}
	if p.rand.IntN(3) == 0 {
		flags |= os.O_EXCL
	}
	var files [2]*os.File
	p.both(fmt.Sprintf("open %q %x", at, flags), func(i int, root string) (_ any, err error) {
		files[i], err = os.OpenFile(filepath.Join(root, at), flags, 0o640)
		return nil, err
	})
	if files[0] != nil {
		p.open = append(p.open, files)
	}
	if len(p.open) > 8 {
		p.shut()
	}
}

func (p *twins) content() []byte {
	b := make([]byte, p.rand.IntN(5000))
	for i := range b {
		b[i] = byte(p.rand.Uint32())
	}
	return b
}

func (p *twins) write() {
	if f := p.file(); f != nil {
		b, off := p.content(), int64(p.rand.IntN(8000))
		p.both(fmt.Sprintf("write %s %d at %d", f[1].Name(), len(b), off), func(i int, _ string) (any, error) { return f[i].WriteAt(b, off) })
	}
}

func (p *twins) append() {
	at, b := p.path(), p.content()
	p.both(fmt.Sprintf("append %q %d", at, len(b)), func(_ int, root string) (any, error) {
		f, err := os.OpenFile(filepath.Join(root, at), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return nil, err
		}
		_, err = f.Write(b)
		return nil, errors.Join(err, f.Close())
	})
}

func (p *twins) read() {
	if f := p.file(); f != nil {
		off, n := int64(p.rand.IntN(8000)), p.rand.IntN(4000)
		p.both(fmt.Sprintf("read %s %d at %d", f[1].Name(), n, off), func(i int, _ string) (any, error) {
			b := make([]byte, n)
			k, err := f[i].ReadAt(b, off)
			return b[:k], err
		})
	}
}

func (p *twins) readAll() {
	at := p.path()
	p.both(fmt.Sprintf("cat %q", at), func(_ int, root string) (any, error) { return os.ReadFile(filepath.Join(root, at)) })
}

func (p *twins) truncate() {
	size := int64(p.rand.IntN(6000) * p.rand.IntN(2))
	if f := p.file(); f != nil && p.rand.IntN(2) == 0 {
		p.both(fmt.Sprintf("ftruncate %s %d", f[1].Name(), size), func(i int, _ string) (any, error) { return nil, f[i].Truncate(size) })
		return
	}
	at := p.path()
	p.both(fmt.Sprintf("truncate %q %d", at, size), func(_ int, root string) (any, error) {
		return nil, os.Truncate(filepath.Join(root, at), size)
	})
}

func (p *twins) mkdir() {
	at := p.path()
	p.both(fmt.Sprintf("mkdir %q", at), func(_ int, root string) (any, error) { return nil, os.Mkdir(filepath.Join(root, at), 0o755) })
}

func (p *twins) rmdir() {
	at := p.path()
	p.both(fmt.Sprintf("rmdir %q", at), func(_ int, root string) (any, error) { return nil, syscall.Rmdir(filepath.Join(root, at)) })
}

func (p *twins) unlink() {
	at := p.path()
	p.both(fmt.Sprintf("unlink %q", at), func(_ int, root string) (any, error) { return nil, syscall.Unlink(filepath.Join(root, at)) })
}

func (p *twins) rename() {
	from, to := p.path(), p.path()
	p.both(fmt.Sprintf("rename %q %q", from, to), func(_ int, root string) (any, error) {
		return nil, syscall.Rename(filepath.Join(root, from), filepath.Join(root, to))
	})
}

func (p *twins) chmod() {
	at, mode := p.path(), os.FileMode(p.rand.IntN(0o1000))
	p.both(fmt.Sprintf("chmod %q %o", at, mode), func(_ int, root string) (any, error) {
		info, err := os.Stat(filepath.Join(root, at))
		if err != nil || info.IsDir() {
			return nil, err
		}
		return nil, os.Chmod(filepath.Join(root, at), mode)
	})
}

func (p *twins) utimes() {
	at, when := p.path(), time.Unix(int64(p.rand.IntN(1<<31)), int64(p.rand.IntN(1e9)))
	p.both(fmt.Sprintf("utimes %q %v", at, when), func(_ int, root string) (any, error) {
		info, err := os.Stat(filepath.Join(root, at))
		if err != nil || info.IsDir() {
			return nil, err
		}
		if err := os.Chtimes(filepath.Join(root, at), when, when); err != nil {
			return nil, err
		}
		info, err = os.Stat(filepath.Join(root, at))
		return info.ModTime(), err
	})
}

func (p *twins) xattr() {
	at, name := p.path(), fmt.Sprintf("user.x%d", p.rand.IntN(3))
	p.both(fmt.Sprintf("setfattr %q %s", at, name), func(_ int, root string) (any, error) {
		path := filepath.Join(root, at)
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			return nil, err
		}
		if err := syscall.Setxattr(path, name, []byte(name), 0); err != nil {
			return nil, err
		}
		b := make([]byte, 100)
		n, err := syscall.Getxattr(path, name, b)
		return string(b[:max(n, 0)]), err
	})
}

func (p *twins) list() {
	at := p.path()
	p.both(fmt.Sprintf("ls %q", at), func(_ int, root string) (any, error) {
		entries, err := os.ReadDir(filepath.Join(root, at))
		return entries, err
	})
}

func (p *twins) stat() {
	at := p.path()
	p.both(fmt.Sprintf("stat %q", at), func(_ int, root string) (any, error) {
		info, err := os.Stat(filepath.Join(root, at))
		if err != nil {
			return nil, err
		}
		return describe(info), nil
	})
}

// describe is what stat tells of a file that is the same on any file system.
func describe(info fs.FileInfo) string {
	if info.IsDir() {
		return "folder"
	}
	return fmt.Sprintf("%v, %d bytes", info.Mode(), info.Size())
}

func (p *twins) sync() {
	if f := p.file(); f != nil {
		p.both("fsync "+f[1].Name(), func(i int, _ string) (any, error) { return nil, f[i].Sync() })
	}
}

func (p *twins) shut() {
	if len(p.open) == 0 {
		return
	}
	f := p.open[0]
	p.open = p.open[1:]
	p.both("close "+f[1].Name(), func(i int, _ string) (any, error) { return nil, f[i].Close() })
}

func (p *twins) closeAll() {
	for len(p.open) > 0 {
		p.shut()
	}
}

// compare walks both folders.
func (p *twins) compare() {
	var all [2]map[string]string
	for i, root := range p.roots {
		all[i] = map[string]string{}
		err := filepath.Walk(root, func(path string, info fs.FileInfo, err error) error {
			if err != nil || path == root {
				return err
			}
			rel, _ := filepath.Rel(root, path)
			all[i][rel] = describe(info)
			if info.IsDir() {
				return nil
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			all[i][rel] += fmt.Sprintf(" %x", b)
			return err
		})
		if err != nil {
			p.t.Error(err)
		}
	}
	if diff := cmp.Diff(all[1], all[0]); diff != "" {
		p.t.Errorf("the folders differ (-on disk +staged):\n%s", diff)
	}
}
