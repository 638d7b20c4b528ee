package fs

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// File is an open file that can be written to.
type File interface {
	// ReadAt reads as io.ReaderAt does.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	WriteAt(ctx context.Context, p []byte, off int64) error
	Truncate(ctx context.Context, size int64) error
	// Refer copies n bytes of a blob by reference: from the blob's off to the file's at. It says how many, and is ErrUnsupported
	// where that can't be.
	Refer(from image.Repository, d image.Descriptor, off, n, at int64) (int64, error)
	// Flush is called when the file may be finished: its error is what close(2) and so the program gets.
	Flush(ctx context.Context) error
	Fsync(ctx context.Context) error
	Close() error
}

// Change is what setattr(2) and its like change; nil leaves as is.
type Change struct {
	Mode         *uint32
	UID, GID     *uint32
	Size         *int64
	Atime, Mtime *time.Time
}

// ErrFixed says that a node can't be changed. A name in a folder that can be written to may stand for it all the same, and is looked
// up again after Tree.Intend.
var ErrFixed = fmt.Errorf("this can't be changed: %w", unix.EPERM)

// fixed is a Node's share when nothing about it can be changed.
type fixed struct{}

func (fixed) Mkdir(context.Context, string) (Node, error) { return nil, ErrFixed }

func (fixed) Create(context.Context, string, uint32) (Node, File, error) { return nil, nil, ErrFixed }

func (fixed) Symlink(context.Context, string, string) (Node, error) { return nil, ErrFixed }

func (fixed) Unlink(context.Context, string) error { return ErrFixed }

func (fixed) Rmdir(context.Context, string) error { return ErrFixed }

func (fixed) Rename(context.Context, string, Node, string, bool) error { return ErrFixed }

func (fixed) Fsync(context.Context) error { return nil }

func (fixed) OpenWrite(context.Context) (File, error) { return nil, ErrFixed }

// SetAttr takes modes, owners and times, and forgets them: cp -a and rsync set them on all they write, which may be published and
// out of their hands by then.
func (fixed) SetAttr(_ context.Context, c Change) error {
	if c.Size != nil {
		return ErrFixed
	}
	return nil
}

// SetXattr says that there are none here, which cp -a and rsync -X take well.
func (fixed) SetXattr(context.Context, string, []byte, bool, bool) error { return errNoXattrs }

func (fixed) RemoveXattr(context.Context, string) error { return errNoXattrs }

var errNoXattrs = fmt.Errorf("extended attributes can't be set here: %w", image.ErrUnsupported)

// Origin: it is no blob of a repository.
func (fixed) Origin() (image.Repository, image.Descriptor, bool) {
	return image.Repository{}, image.Descriptor{}, false
}
