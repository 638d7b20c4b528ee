// Package files is what images at rest lie in: a few named files, in a folder or in a tar.
package files

import (
	"context"
	"fmt"
	"io"

	"github.com/regfs/regfs/image"
)

// Files are files with slash paths for names. They are safe for concurrent use.
type Files interface {
	// Open opens a regular file for reading, and tells how long it is. fs.ErrNotExist where there is none.
	Open(ctx context.Context, name string) (File, int64, error)
	// Write makes a file of what fn writes, which is size bytes, or any number where size is -1. It has its name when fn was done
	// without an error. Other processes may see it no sooner than after the next Edit.
	Write(ctx context.Context, name string, size int64, fn func(io.Writer) error) error
	// Edit makes the change that fn asks for, at once or not at all, and for good, while nobody else, in this process or another,
	// runs anything by Edit.
	Edit(ctx context.Context, fn func() (Change, error)) error
	io.Closer
}

// File is a file open for reading.
type File interface {
	io.ReadCloser
	io.ReaderAt
}

// Change is what Edit makes of files. An empty one is no change.
type Change struct {
	// After are written files that must be on the disk first.
	After []string
	// Put are files to make or to replace, in this order.
	Put []Content
	// Remove are files that go in the end. They need not be there.
	Remove []string
}

// Content is a file made at once.
type Content struct {
	Name string
	Data []byte
}

// Empty tells whether nothing is to change.
func (c *Change) Empty() bool { return len(c.After)+len(c.Put)+len(c.Remove) == 0 }

// Read reads a file whole, unless it has more than most bytes: ErrInvalid.
func Read(ctx context.Context, f Files, name string, most int64) ([]byte, error) {
	file, size, err := f.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > most {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: %w", Clean(name), size, most, image.ErrInvalid)
	}
	return io.ReadAll(io.LimitReader(file, most))
}
