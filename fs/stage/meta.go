package stage

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// Meta is what stat(2) tells of a staged file beside its size. None of it is pushed.
type Meta struct {
	Mode         uint32
	Owned        bool // UID and GID were set
	UID, GID     uint32
	Atime, Mtime time.Time
}

// Meta is that of the file.
func (f *File) Meta() Meta {
	f.meta.Lock()
	defer f.meta.Unlock()
	return Meta{f.mode, f.owned, f.uid, f.gid, f.atime, f.mtime}
}

// SetMeta changes what is not nil.
func (f *File) SetMeta(mode, uid, gid *uint32, atime, mtime *time.Time) {
	f.meta.Lock()
	defer f.meta.Unlock()
	if mode != nil {
		f.mode = *mode & 0o7777
	}
	if uid != nil {
		f.uid, f.owned = *uid, true
	}
	if gid != nil {
		f.gid, f.owned = *gid, true
	}
	if atime != nil {
		f.atime = *atime
	}
	if mtime != nil {
		f.mtime = *mtime
	}
}

// maxXattrs is how much room the extended attributes of one file have, in bytes.
const maxXattrs = 64 << 10

// Xattrs are the names of the extended attributes.
func (f *File) Xattrs() []string {
	f.meta.Lock()
	defer f.meta.Unlock()
	return slices.Sorted(maps.Keys(f.xattrs))
}

// Xattr is the value of one, or ErrNotFound.
func (f *File) Xattr(name string) (string, error) {
	f.meta.Lock()
	defer f.meta.Unlock()
	value, ok := f.xattrs[name]
	if !ok {
		return "", fmt.Errorf("extended attribute %s: %w", name, image.ErrNotFound)
	}
	return string(value), nil
}

// SetXattr sets one: with create there must be none yet, with replace there must be one.
func (f *File) SetXattr(name string, value []byte, create, replace bool) error {
	f.meta.Lock()
	defer f.meta.Unlock()
	room := maxXattrs - len(name) - len(value)
	for other, v := range f.xattrs {
		if other != name {
			room -= len(other) + len(v)
		}
	}
	_, there := f.xattrs[name]
	switch {
	case create && there:
		return fmt.Errorf("extended attribute %s: %w", name, unix.EEXIST)
	case replace && !there:
		return fmt.Errorf("extended attribute %s: %w", name, image.ErrNotFound)
	case room < 0:
		return fmt.Errorf("extended attribute %s: %w", name, unix.ENOSPC)
	}
	if f.xattrs == nil {
		f.xattrs = map[string][]byte{}
	}
	f.xattrs[name] = slices.Clone(value)
	return nil
}

// RemoveXattr removes one, or is ErrNotFound.
func (f *File) RemoveXattr(name string) error {
	f.meta.Lock()
	defer f.meta.Unlock()
	if _, ok := f.xattrs[name]; !ok {
		return fmt.Errorf("extended attribute %s: %w", name, image.ErrNotFound)
	}
	delete(f.xattrs, name)
	return nil
}

// Hides tells whether what is published at a path does not show: it was removed, or a folder made anew stands there.
func (l *Staging) Hides(at string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.names[at]
	return n != nil && (n.kind == Hidden || n.over)
}

// Removed tells whether what is published at a path was removed, and nothing stands in its place.
func (l *Staging) Removed(at string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.names[at]
	return n != nil && n.kind == Hidden
}
