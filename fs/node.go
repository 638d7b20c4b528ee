// Package fs is the mounted tree: which files and folders there are, what they show, and which requests that costs. It is
// plain Go, without a kernel; fs/fuse binds it to one. DESIGN.md describes the tree ("The namespace").
package fs

import (
	"context"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// Node is one file or folder. It is safe for concurrent use. What can be changed about what it shows is not in the Node but in
// what stands behind it: the registry and the staging.
//
// Errors are those of package image, and plain errnos. ErrNotFound is no such file.
type Node interface {
	// Attr says what stat(2) wants to know. It sends a request only where nothing else can tell a size.
	Attr(ctx context.Context) (Attr, error)
	// Lookup finds one name in a folder.
	Lookup(ctx context.Context, name string) (Node, error)
	// List streams a folder's entries as they come in. Names that only Lookup knows are left out.
	List(ctx context.Context) iter.Seq2[Entry, error]
	// Open opens a file for reading.
	Open(ctx context.Context) (image.Blob, error)
	// Readlink is what a symbolic link points to.
	Readlink(ctx context.Context) (string, error)
	// XattrNames are the extended attributes there are. It sends no request, but for what a layer has.
	XattrNames(ctx context.Context) ([]string, error)
	// Xattr is the value of one of them, or ErrNotFound. Names that regfs does not give cost no request: ls -l and cp ask for them.
	Xattr(ctx context.Context, name string) (string, error)

	// Mkdir makes a folder in a folder.
	Mkdir(ctx context.Context, name string) (Node, error)
	// Create makes an empty file in a folder, and opens it.
	Create(ctx context.Context, name string, mode uint32) (Node, File, error)
	// Symlink makes a name in a folder one for what target names.
	Symlink(ctx context.Context, target, name string) (Node, error)
	// Unlink removes a file from a folder, Rmdir an empty folder.
	Unlink(ctx context.Context, name string) error
	Rmdir(ctx context.Context, name string) error
	// Rename moves a name of this folder into another one. Where exclusive, nothing is replaced.
	Rename(ctx context.Context, name string, to Node, newName string, exclusive bool) error
	// Fsync fails if something written below a folder is not where it should be yet.
	Fsync(ctx context.Context) error
	// OpenWrite opens a file for writing, and reading.
	OpenWrite(ctx context.Context) (File, error)
	// SetAttr changes what stat(2) tells.
	SetAttr(ctx context.Context, c Change) error
	// SetXattr sets an extended attribute: with create there must be none yet, with replace there must be one.
	SetXattr(ctx context.Context, name string, value []byte, create, replace bool) error
	RemoveXattr(ctx context.Context, name string) error
	// Origin is the repository that a file's content is from, and what it is there, so that it can be copied by reference.
	Origin() (from image.Repository, d image.Descriptor, ok bool)
}

// Attr is what a Node is.
type Attr struct {
	// Ino is the same for the same content at the same place, for as long as the Tree lives.
	Ino uint64
	// Mode is the type and the permissions, as in stat(2).
	Mode uint32
	// Size of a file, in bytes; of a symbolic link how long its target is.
	Size int64
	// Links is how many names it has. 0 is one: who asks for a folder's is told 1.
	Links uint32
	// Major and Minor tell which device a device file is.
	Major, Minor uint32
	// Fixed: neither attributes nor content will ever change.
	Fixed bool
	// Sealed: all that is ever read of it is verified and stays so: every byte, every name and that a name is missing.
	Sealed bool
	// Made: the content is made when the file is opened, and Size is only how long it was when asked.
	Made bool
	// Owned: UID and GID say whose it is. Else it is whose the mount is.
	Owned    bool
	UID, GID uint32
	// Atime and Mtime are zero for what has no times.
	Atime, Mtime time.Time
	// Volatile: what a name in this folder means depends on who asks, and when.
	Volatile bool
}

// IsDir tells whether it is a folder.
func (a Attr) IsDir() bool { return a.Mode&unix.S_IFMT == unix.S_IFDIR }

// The modes of what can only be read, of folders that can be written in, and of links.
const (
	fileMode   = unix.S_IFREG | 0o444
	dirMode    = unix.S_IFDIR | 0o555
	ownDirMode = unix.S_IFDIR | 0o755
	linkMode   = unix.S_IFLNK | 0o777
)

// Entry is one name in a folder.
type Entry struct {
	Name string
	Ino  uint64
	// Type is that of the Mode: S_IFDIR and its like.
	Type uint32
}

func dirEntry(name string, ino uint64) Entry  { return Entry{name, ino, unix.S_IFDIR} }
func fileEntry(name string, ino uint64) Entry { return Entry{name, ino, unix.S_IFREG} }

// IsDir tells whether it is a folder's.
func (e Entry) IsDir() bool { return e.Type == unix.S_IFDIR }

// noXattrs is a Node's share when it has no extended attributes.
type noXattrs struct{}

func (noXattrs) XattrNames(context.Context) ([]string, error) { return nil, nil }

func (noXattrs) Xattr(context.Context, string) (string, error) { return "", image.ErrNotFound }

// noLink is a Node's share when it is no symbolic link.
type noLink struct{}

func (noLink) Readlink(context.Context) (string, error) {
	return "", fmt.Errorf("read a link that is none: %w", unix.EINVAL)
}

// dir is a folder's share of being a Node.
type dir struct {
	noXattrs
	noLink
	fixed
	attr Attr
}

func (d dir) Attr(context.Context) (Attr, error) { return d.attr, nil }

func (d dir) Open(context.Context) (image.Blob, error) {
	return nil, fmt.Errorf("open a folder: %w", image.ErrUnsupported)
}

// file is a file's share of being a Node.
type file struct {
	noXattrs
	noLink
	fixed
}

func (file) Lookup(context.Context, string) (Node, error) {
	return nil, fmt.Errorf("look up a name in a file: %w", image.ErrUnsupported)
}

func (file) List(context.Context) iter.Seq2[Entry, error] {
	return failed(fmt.Errorf("list a file: %w", image.ErrUnsupported))
}

// failed is a listing that is an error.
func failed(err error) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) { yield(Entry{}, err) }
}
