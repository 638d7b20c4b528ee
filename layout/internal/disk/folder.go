// Package disk is what the places in folders have in common: how they open, read, write and lock files.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// Folder is a folder on disk. Nothing outside of it is ever read or written, whatever its symlinks say. It is safe for concurrent use.
type Folder struct {
	Path string
	root *os.Root
}

// OpenFolder opens a folder that is there.
func OpenFolder(path string) (*Folder, error) {
	root, err := files.OpenRoot(path)
	return &Folder{path, root}, err
}

// Close closes the folder. What is being read stays readable.
func (f *Folder) Close() error {
	if f.root == nil {
		return nil
	}
	return f.root.Close()
}

// Open opens a regular file for reading, and tells its size. A fifo in its place does not make anybody wait: it is ErrInvalid.
func (f *Folder) Open(name string) (*os.File, int64, error) {
	return regular(f.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0))
}

// ReadFile reads a file whole. One of more than most bytes is ErrInvalid.
func (f *Folder) ReadFile(name string, most int64) ([]byte, error) {
	file, size, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > most {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: %w", name, size, most, image.ErrInvalid)
	}
	return io.ReadAll(io.LimitReader(file, most))
}

// Has tells whether there is anything of a name.
func (f *Folder) Has(name string) (bool, error) {
	_, err := f.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Each calls fn with all that is in the folder, but for files on their way, of which it removes those that nobody writes to any more.
func (f *Folder) Each(fn func(fs.DirEntry) error) error {
	const batch = 1000
	dir, err := f.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(batch)
		for _, e := range entries {
			if files.IsTemp(e.Name()) {
				files.RemoveStale(f.root, e)
			} else if err := fn(e); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Stale tells whether an entry is a file that was not touched for files.StaleAge.
func Stale(e fs.DirEntry) bool {
	info, err := e.Info()
	return err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > files.StaleAge
}

// Replace makes the file of a name what content is, at once or not at all, and for good.
func (f *Folder) Replace(name string, content []byte) error {
	return f.Write(name, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// Write makes a file of what fn writes. It has its name when it is whole, and on the disk; the name is, after Sync.
func (f *Folder) Write(name string, fn func(io.Writer) error) error {
	return files.WriteFile(f.root, name, fn)
}

// Rename gives a file the name of another one, which goes in the same step.
func (f *Folder) Rename(from, to string) error { return f.root.Rename(from, to) }

// Remove removes a file. One that is not there is none the less gone.
func (f *Folder) Remove(name string) error {
	if err := f.root.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Sync puts the names in the folder on the disk.
func (f *Folder) Sync() error {
	dir, err := f.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); !errors.Is(err, unix.EINVAL) { // which is a file system that can't
		return err
	}
	return nil
}

// Locked runs fn while nobody else, in this process or another, runs anything by Locked in this folder (flock(2)). It waits a minute for that: ErrUnavailable.
func (f *Folder) Locked(ctx context.Context, fn func() error) error {
	dir, err := f.root.Open(".")
	if err != nil {
		return err
	}
	return files.Locked(ctx, dir, files.FolderPatience, fn)
}
