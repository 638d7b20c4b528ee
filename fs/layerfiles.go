package fs

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layer"
)

// layerTree is what all files of one tree have in common: of what a layer contains, or of an image's layers merged.
type layerTree struct {
	repo *repository
	// place and content are what inode numbers are made of: a folder's of where the tree stands, since it can be in one place
	// alone; all else's of what the tree shows, so that the kernel keeps it once for all tags.
	place, content uint64
}

func (t *layerTree) ino(ino uint64, kind uint32) uint64 {
	if kind == unix.S_IFDIR {
		return t.repo.tree.inoOf(t.place, ino)
	}
	return t.repo.tree.inoOf(t.content, ino)
}

// used tells that the process that asks is not done with the repository.
func (t *layerTree) used(ctx context.Context) {
	t.repo.tree.pins.hold(t.repo.tree.pins.lately(ctx), t.repo.path)()
}

func (t *layerTree) lookup(ctx context.Context, dir layer.File, name string) (Node, error) {
	t.used(ctx)
	f, err := dir.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	return &layerFile{tree: t, f: f}, nil
}

func (t *layerTree) list(ctx context.Context, dir layer.File) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		t.used(ctx)
		for e, err := range dir.List(ctx) {
			if !yield(Entry{e.Name, t.ino(e.Ino, e.Type), e.Type}, err) || err != nil {
				return
			}
		}
	}
}

// layerTop is the top folder of a tree. To look at it sends nothing and indexes nothing, or ls -l of an image would: so it has
// the mode, the owner and the time that all folders here have, whatever the layers say of their root, and no extended attributes.
type layerTop struct {
	dir
	tree *layerTree
	// open is where the tree begins. It may ask for the layers' sizes, at the first use.
	open func(ctx context.Context) (layer.File, error)

	mu   sync.Mutex
	file layer.File
}

// opened is the tree's root folder.
func (t *layerTop) opened(ctx context.Context) (layer.File, error) {
	t.mu.Lock()
	f := t.file
	t.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := t.open(ctx) // two at once make two, which are the same
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.file = f
	return f, nil
}

func (t *layerTop) Lookup(ctx context.Context, name string) (Node, error) {
	f, err := t.opened(ctx)
	if err != nil {
		return nil, err
	}
	return t.tree.lookup(ctx, f, name)
}

func (t *layerTop) List(ctx context.Context) iter.Seq2[Entry, error] {
	f, err := t.opened(ctx)
	if err != nil {
		return failed(err)
	}
	return t.tree.list(ctx, f)
}

// layerFile is anything below the top of a tree. It never changes, and all that it gives was verified.
type layerFile struct {
	fixed
	tree *layerTree
	f    layer.File
}

func (l *layerFile) Attr(ctx context.Context) (Attr, error) {
	i, err := l.f.Stat(ctx)
	if err != nil {
		return Attr{}, err
	}
	return Attr{
		Ino: l.tree.ino(i.Ino, i.Mode&unix.S_IFMT), Mode: i.Mode, Size: i.Size, Links: i.Links, Major: i.Major, Minor: i.Minor,
		Fixed: true, Sealed: true, Owned: true, UID: i.UID, GID: i.GID, Atime: i.Mtime, Mtime: i.Mtime,
	}, nil
}

func (l *layerFile) Lookup(ctx context.Context, name string) (Node, error) {
	return l.tree.lookup(ctx, l.f, name)
}

func (l *layerFile) List(ctx context.Context) iter.Seq2[Entry, error] { return l.tree.list(ctx, l.f) }

func (l *layerFile) Readlink(ctx context.Context) (string, error) {
	i, err := l.f.Stat(ctx)
	if err == nil && i.Mode&unix.S_IFMT != unix.S_IFLNK {
		return noLink{}.Readlink(ctx)
	}
	return i.Target, err
}

// Open counts as use of the repository by the process, as long as the file is open.
func (l *layerFile) Open(ctx context.Context) (image.Blob, error) {
	i, err := l.f.Stat(ctx)
	if err != nil {
		return nil, err
	}
	pins := l.tree.repo.tree.pins
	return &layerBlob{l, i.Size, pins.hold(pins.lately(ctx), l.tree.repo.path)}, nil
}

func (l *layerFile) XattrNames(ctx context.Context) ([]string, error) {
	all, err := l.f.Xattrs(ctx)
	return slices.Sorted(maps.Keys(all)), err
}

func (l *layerFile) Xattr(ctx context.Context, name string) (string, error) {
	all, err := l.f.Xattrs(ctx)
	if err != nil {
		return "", err
	}
	value, ok := all[name]
	if !ok {
		return "", errNoXattr
	}
	return value, nil
}

// errNoXattr is made once: ls -l asks each file for some that it does not have.
var errNoXattr = fmt.Errorf("no such extended attribute: %w", image.ErrNotFound)

// layerBlob is a regular file of a tree, open for reading.
type layerBlob struct {
	l       *layerFile
	size    int64
	release func()
}

func (b *layerBlob) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return b.l.f.ReadAt(ctx, p, off)
}

func (b *layerBlob) Ready(context.Context, int64, int) (*os.File, error) { return nil, nil }

func (b *layerBlob) Size() int64 { return b.size }

// File is none: the content lies on no disk as a file of its own.
func (b *layerBlob) File() *os.File { return nil }

func (b *layerBlob) Close() error {
	b.release()
	return nil
}
