package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// folder is the files of a layout in a folder, with blobs in another one if they are shared. Nothing leads out of either.
type folder struct {
	root   *os.Root
	shared *os.Root // nil if blobs are in root
}

var _ files.Files = (*folder)(nil)

func openFolder(dir string, o options) (*folder, error) {
	f := &folder{}
	var err error
	if f.root, err = files.OpenRoot(dir); err != nil {
		return nil, err
	}
	if o.shared == "" {
		return f, nil
	}
	if f.shared, err = files.OpenRoot(o.shared); err != nil {
		f.root.Close()
		return nil, err
	}
	return f, nil
}

// place is the folder that a file is in, and its name there.
func (f *folder) place(name string) (*os.Root, string) {
	if blob, ok := strings.CutPrefix(name, v1.ImageBlobsDir+"/"); ok && f.shared != nil {
		return f.shared, blob
	}
	return f.root, name
}

// Open implements files.Files. A fifo in a file's place does not make anybody wait.
func (f *folder) Open(ctx context.Context, name string) (files.File, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	root, name := f.place(name)
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file: %w", name, image.ErrInvalid)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// Write implements files.Files. Files on their way lie beside index.json: in blobs/ other programs take any name for a digest.
func (f *folder) Write(ctx context.Context, name string, _ int64, fn func(io.Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	root, name := f.place(name)
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	return files.WriteFile(root, name, fn)
}

// Edit implements files.Files.
func (f *folder) Edit(ctx context.Context, fn func() (files.Change, error)) error {
	return f.locked(ctx, func() error {
		c, err := fn()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || c.Empty() {
			return err
		}
		return f.change(ctx, c)
	})
}

func (f *folder) locked(ctx context.Context, fn func() error) error {
	dir, err := f.root.Open(".")
	if err != nil {
		return err
	}
	return files.Locked(ctx, dir, files.FolderPatience, fn)
}

func (f *folder) change(ctx context.Context, c files.Change) error {
	for _, name := range c.After {
		if err := f.syncFolder(f.place(path.Dir(name))); err != nil {
			return err
		}
	}
	for _, put := range c.Put {
		if err := f.put(ctx, put.Name, put.Data); err != nil {
			return err
		}
	}
	if err := f.syncFolder(f.root, "."); err != nil {
		return err
	}
	for _, name := range c.Remove {
		root, name := f.place(name)
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// put makes the file of a name what content is, at once or not at all, and for good.
func (f *folder) put(ctx context.Context, name string, content []byte) error {
	return f.Write(ctx, name, int64(len(content)), func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// syncFolder puts the names in a folder on the disk.
func (f *folder) syncFolder(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	return files.SyncFolder(dir)
}

// fill makes an empty folder a layout. oci-layout comes first: with it, the folder is known for one that was to be a layout,
// should the rest not come to be.
func (f *folder) fill(ctx context.Context) error {
	isLayout, err := f.inspect()
	if err != nil {
		return err
	}
	if !isLayout {
		if err := f.put(ctx, v1.ImageLayoutFile, marker()); err != nil {
			return err
		}
	}
	if err := f.root.MkdirAll(v1.ImageBlobsDir+"/sha256", 0o755); err != nil {
		return err
	}
	if err := f.cleanShared(); err != nil {
		return err
	}
	if _, err := f.root.Lstat(v1.ImageIndexFile); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return f.put(ctx, v1.ImageIndexFile, []byte(emptyIndex))
}

// inspect tells a layout from an empty folder, and removes what others left behind. Any other folder is an error.
func (f *folder) inspect() (isLayout bool, err error) {
	entries, err := fs.ReadDir(f.root.FS(), ".")
	var foreign string
	for _, e := range entries {
		switch name := e.Name(); {
		case name == v1.ImageLayoutFile:
			isLayout = true
		case files.IsTemp(name):
			files.RemoveStale(f.root, e)
		default:
			foreign = name
		}
	}
	if err == nil && !isLayout && foreign != "" {
		err = fmt.Errorf("no image layout, and not empty: it has %q and no %s: %w", foreign, v1.ImageLayoutFile, image.ErrInvalid)
	}
	return isLayout, err
}

// cleanShared removes what others left behind among shared blobs.
func (f *folder) cleanShared() error {
	if f.shared == nil {
		return nil
	}
	entries, err := fs.ReadDir(f.shared.FS(), ".")
	for _, e := range entries {
		if files.IsTemp(e.Name()) {
			files.RemoveStale(f.shared, e)
		}
	}
	return err
}

// Close implements files.Files.
func (f *folder) Close() error {
	if f.shared != nil {
		f.shared.Close()
	}
	return f.root.Close()
}
