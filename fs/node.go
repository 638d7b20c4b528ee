// Package fs is the mounted tree: which files and folders there are, what they show, and which requests that costs. It is
// plain Go, without a kernel; fs/fuse binds it to one. DESIGN.md describes the tree ("The namespace").
package fs

import (
	"context"
	"fmt"
	"iter"

	"github.com/regfs/regfs/image"
)

// Node is one file or folder. It is immutable, and safe for concurrent use.
//
// Errors are those of package image. ErrNotFound is no such file.
type Node interface {
	// Attr says what stat(2) wants to know. It sends a request only where nothing else can tell a size.
	Attr(ctx context.Context) (Attr, error)
	// Lookup finds one name in a folder.
	Lookup(ctx context.Context, name string) (Node, error)
	// List streams a folder's entries as they come in. Names that only Lookup knows are left out.
	List(ctx context.Context) iter.Seq2[Entry, error]
	// Open opens a file for reading.
	Open(ctx context.Context) (image.Blob, error)
	// XattrNames are the extended attributes there are. It sends no request.
	XattrNames() []string
	// Xattr is the value of one of them, or ErrNotFound.
	Xattr(ctx context.Context, name string) (string, error)
}

// Attr is what a Node is.
type Attr struct {
	// Ino is the same for the same content at the same place, for as long as the Tree lives.
	Ino uint64
	Dir bool
	// Size of a file, in bytes.
	Size int64
	// Fixed: neither attributes nor content will ever change.
	Fixed bool
	// Shared: the same file shows under several names, as hard links do.
	Shared bool
	// Made: the content is made when the file is opened, and Size is only how long it was when asked.
	Made bool
	// Volatile: what a name in this folder means depends on who asks, and when.
	Volatile bool
}

// Entry is one name in a folder.
type Entry struct {
	Name string
	Ino  uint64
	Dir  bool
}

// noXattrs is a Node's share when it has no extended attributes.
type noXattrs struct{}

func (noXattrs) XattrNames() []string { return nil }

func (noXattrs) Xattr(context.Context, string) (string, error) { return "", image.ErrNotFound }

// dir is a folder's share of being a Node.
type dir struct {
	noXattrs
	attr Attr
}

func (d dir) Attr(context.Context) (Attr, error) { return d.attr, nil }

func (d dir) Open(context.Context) (image.Blob, error) {
	return nil, fmt.Errorf("open a folder: %w", image.ErrUnsupported)
}

// file is a file's share of being a Node.
type file struct{ noXattrs }

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
