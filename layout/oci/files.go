package oci

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// tempPrefix begins the names of files on their way. They lie beside index.json: in blobs/ other programs take any name for a digest.
const tempPrefix = ".regfs-"

// blobPath is where content of a digest lies, which must be valid.
func blobPath(dgst digest.Digest) string {
	return path.Join(v1.ImageBlobsDir, dgst.Algorithm().String(), dgst.Encoded())
}

// failed wraps an error with the operation and its object, once.
func (l *Layout) failed(op, object string, err error) error {
	return fmt.Errorf("%s %s in %s: %w", op, clean(object), l.dir, translate(err))
}

// clean is a name that somebody made up, as an error can hold it.
func clean(name string) string {
	const most = 100
	if len(name) > most {
		name = name[:most] + "…"
	}
	quoted := fmt.Sprintf("%q", name)
	if quoted == `"`+name+`"` {
		return name
	}
	return quoted
}

// translate adds what an error of a file means to it.
func translate(err error) error {
	for _, meaning := range []struct{ is, kind error }{
		{fs.ErrNotExist, image.ErrNotFound}, {unix.ENOTDIR, image.ErrNotFound}, {fs.ErrPermission, image.ErrDenied},
		{unix.EROFS, image.ErrUnsupported}, {unix.EDQUOT, image.ErrQuota}, {unix.ENAMETOOLONG, image.ErrInvalid},
	} {
		if errors.Is(err, meaning.is) && !errors.Is(err, meaning.kind) {
			return &fileError{err, meaning.kind}
		}
	}
	return err
}

// fileError is an error of the system, in whose words it is told, and of a kind of package image.
type fileError struct {
	error
	kind error
}

func (e *fileError) Unwrap() []error { return []error{e.error, e.kind} }

// openFile opens a regular file for reading. A fifo in its place does not make anybody wait.
func (l *Layout) openFile(name string) (*os.File, int64, error) {
	file, err := l.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
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

// readFile reads a file whole, unless it has more than most bytes.
func (l *Layout) readFile(name string, most int64) ([]byte, error) {
	file, size, err := l.openFile(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > most {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: %w", name, size, most, image.ErrInvalid)
	}
	return io.ReadAll(io.LimitReader(file, most))
}

// replace makes the file of a name what content is, at once or not at all, and for good.
func (l *Layout) replace(name string, content []byte) error {
	return l.write(name, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// write makes a file of what fn writes. It has its name when it is whole, and on the disk.
func (l *Layout) write(name string, fn func(io.Writer) error) error {
	temp := tempPrefix + rand.Text()
	file, err := l.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer l.root.Remove(temp)
	err = fn(file)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return l.root.Rename(temp, name)
}

// syncFolder puts the names in a folder on the disk.
func (l *Layout) syncFolder(name string) error {
	folder, err := l.root.Open(name)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := folder.Sync(); !errors.Is(err, unix.EINVAL) { // which is a file system that can't
		return err
	}
	return nil
}

// locked runs fn while nobody else, in this process or another, runs anything by locked in this folder.
func (l *Layout) locked(ctx context.Context, fn func() error) error {
	folder, err := l.root.Open(".")
	if err != nil {
		return err
	}
	got := make(chan error, 1)
	go func() { got <- flock(folder) }()
	select {
	case err = <-got:
	case <-ctx.Done():
		go func() { // flock(2) can't be called off; closing the file under it would not end it
			<-got
			folder.Close()
		}()
		return ctx.Err()
	}
	defer folder.Close()
	if err != nil {
		return os.NewSyscallError("flock", err)
	}
	return fn()
}

// flock waits for the lock on an open folder, which its closing gives back.
func flock(folder *os.File) error {
	for {
		if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
