package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// How long the lock on a folder is waited for. Who changes a folder has it for an instant; who puts an archive in its place, for as
// long as it takes to have that on the disk.
const (
	FolderPatience  = time.Minute
	archivePatience = 10 * time.Minute
)

// Locked runs fn while nobody else, in this process or another, runs anything by Locked with the same folder (flock(2)), and closes
// the folder. The context ends the waiting, and so does patience: ErrUnavailable.
func Locked(ctx context.Context, folder *os.File, patience time.Duration, fn func() error) error {
	got := make(chan error, 1)
	go func() { got <- flock(folder) }()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case err := <-got:
		defer folder.Close()
		if err != nil {
			return os.NewSyscallError("flock", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return fn()
	case <-late.C:
		closeAfter(folder, got)
		return fmt.Errorf("another process has had the lock on %s for %v: %w", folder.Name(), patience, image.ErrUnavailable)
	case <-ctx.Done():
		closeAfter(folder, got)
		return ctx.Err()
	}
}

// closeAfter closes a folder when the waiting for its lock has ended: flock(2) can't be called off, and closing the file under it would
// not end it.
func closeAfter(folder *os.File, got <-chan error) {
	go func() {
		<-got
		folder.Close()
	}()
}

// flock waits for the lock on an open folder, which its closing gives back.
func flock(folder *os.File) error {
	for {
		if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// SyncFolder puts the names in an open folder on the disk, and closes it.
func SyncFolder(folder *os.File) error {
	defer folder.Close()
	if err := folder.Sync(); !errors.Is(err, unix.EINVAL) { // which is a file system that can't
		return err
	}
	return nil
}

// OpenRoot opens a folder, of which nothing leads out. What is no folder makes nobody wait, as a fifo would.
func OpenRoot(path string) (*os.Root, error) {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = &os.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	}
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(path)
}
