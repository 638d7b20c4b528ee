package layer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// opaqueAttr and opaqueValue mark an opaque folder for overlayfs.
const (
	opaqueAttr  = "trusted.overlay.opaque"
	opaqueValue = "y"
)

// whiteoutBit is set in the inode number of a whiteout that is shown as a device. The layer's own numbers are smaller.
const whiteoutBit = 1 << (layerShift + 1)

// view is one layer on its own.
type view struct {
	// open is to be released.
	open   func(context.Context) (files, error)
	w      Whiteouts
	counts counts
}

// tree is a file of a view.
type tree struct {
	v *view
	// ino is 0 for the root, whose number only the open layer knows.
	ino inode
	// whiteout is one that is shown as a device, opaque a folder that takes the place of another.
	whiteout, opaque bool
}

func newTree(open func(context.Context) (files, error), w Whiteouts) File {
	return &tree{v: &view{open: open, w: w}}
}

// enter opens the layer, to be released, and tells the file's inode.
func (t *tree) enter(ctx context.Context) (files, inode, error) {
	f, err := t.v.open(ctx)
	if err != nil {
		return nil, 0, err
	}
	if t.ino == 0 {
		return f, f.root(), nil
	}
	return f, t.ino, nil
}

func (t *tree) Stat(ctx context.Context) (Info, error) {
	f, ino, err := t.enter(ctx)
	if err != nil {
		return Info{}, err
	}
	defer f.release()
	info, err := f.stat(ino)
	if err != nil || t.v.w == AsNames {
		return info, err
	}
	links := max(info.Links, 1)
	if t.whiteout {
		info = Info{Ino: info.Ino | whiteoutBit, Mode: unix.S_IFCHR, UID: info.UID, GID: info.GID, Mtime: info.Mtime}
	}
	info.Links, err = t.links(ctx, f, ino, info.Ino, links)
	return info, err
}

// links counts the names that are shown of a file; all says how many names the layer has for it.
func (t *tree) links(ctx context.Context, f files, ino inode, shown uint64, all uint32) (uint32, error) {
	if all == 1 {
		return 1, nil
	}
	n, err := t.v.counts.get(shown, func() (uint32, error) {
		return countSeen(ctx, f.paths(ino), func(path string) (bool, error) {
			e, err := t.v.find(f, t.as(path))
			return err == nil && e.number() == shown, err
		})
	})
	return max(n, 1), err
}

// as is the path that a file with a path in the layer would be shown at.
func (t *tree) as(path string) string {
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i+1], path[i+1:]
	}
	if removed, ok := removes(name); ok && t.whiteout {
		return dir + removed
	}
	return path
}

// find looks up a path from the root.
func (v *view) find(f files, path string) (*tree, error) {
	at := &tree{v: v, ino: f.root()}
	for name := range strings.SplitSeq(path, "/") {
		next, err := at.lookup(f, at.ino, name)
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// number is the inode number as it is shown.
func (t *tree) number() uint64 {
	if t.whiteout {
		return uint64(t.ino) | whiteoutBit
	}
	return uint64(t.ino)
}

func (t *tree) Xattrs(ctx context.Context) (map[string]string, error) {
	if t.whiteout {
		return nil, nil
	}
	f, ino, err := t.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer f.release()
	attrs, err := f.xattrs(ino)
	if err != nil || t.v.w == AsNames {
		return attrs, err
	}
	opaque := t.opaque
	if !opaque {
		opaque, err = has(f, ino, opaqueName)
	}
	if err != nil || !opaque {
		return attrs, err
	}
	with := map[string]string{}
	maps.Copy(with, attrs)
	with[opaqueAttr] = opaqueValue
	return with, nil
}

func (t *tree) Lookup(ctx context.Context, name string) (File, error) {
	f, ino, err := t.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer f.release()
	found, err := t.lookup(f, ino, name)
	if err != nil {
		return nil, err
	}
	return found, nil
}

func (t *tree) lookup(f files, dir inode, name string) (*tree, error) {
	overlay := t.v.w == AsOverlay
	if t.whiteout || overlay && isReserved(name) {
		return nil, notFound(name)
	}
	e, err := f.lookup(dir, name)
	missing := errors.Is(err, image.ErrNotFound) || err == nil && isForeign(e.Type)
	switch {
	case missing && overlay:
		return t.lookupWhiteout(f, dir, name)
	case missing:
		return nil, notFound(name)
	case err != nil:
		return nil, err
	}
	found := &tree{v: t.v, ino: inode(e.Ino)}
	if overlay && isDir(e.Type) {
		found.opaque, err = has(f, dir, whiteoutPrefix+name)
	}
	return found, err
}

// lookupWhiteout finds the whiteout of a name.
func (t *tree) lookupWhiteout(f files, dir inode, name string) (*tree, error) {
	whiteout := whiteoutPrefix + name
	if _, ok := removes(whiteout); !ok {
		return nil, notFound(name)
	}
	e, err := f.lookup(dir, whiteout)
	if errors.Is(err, image.ErrNotFound) {
		return nil, notFound(name)
	}
	if err != nil {
		return nil, err
	}
	return &tree{v: t.v, ino: inode(e.Ino), whiteout: true}, nil
}

func (t *tree) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if t.whiteout {
			return
		}
		f, ino, err := t.enter(ctx)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer f.release()
		list := only(f.list(ino, ""), isPresent)
		if t.v.w == AsOverlay {
			list = asOverlay(f, ino)
		}
		list(yield)
	}
}

func isPresent(e Entry) bool { return !isForeign(e.Type) }

// asOverlay lists a folder with its whiteouts as devices.
func asOverlay(f files, dir inode) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		there, gone := newCursor(only(unreserved(f, dir), isPresent)), newCursor(removed(f, dir))
		defer there.close()
		defer gone.close()
		err := errors.Join(there.step(), gone.step())
		for err == nil && (there.ok || gone.ok) {
			var e Entry
			if e, err = overlaid(there, gone); !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(Entry{}, err)
		}
	}
}

// overlaid is the next entry of what is there and what is gone: a name that is there hides its whiteout.
func overlaid(there, gone *cursor) (Entry, error) {
	if !there.ok || gone.ok && gone.Name < there.Name {
		e := Entry{Name: gone.Name, Ino: gone.Ino | whiteoutBit, Type: unix.S_IFCHR}
		return e, gone.step()
	}
	e := there.Entry
	if gone.ok && gone.Name == e.Name {
		if err := gone.step(); err != nil {
			return e, err
		}
	}
	return e, there.step()
}

func (t *tree) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if t.whiteout {
		return 0, fmt.Errorf("read a whiteout: %w", image.ErrUnsupported)
	}
	f, ino, err := t.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer f.release()
	return f.readAt(ctx, ino, p, off)
}
