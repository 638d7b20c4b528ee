package files

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Locked runs fn while nobody else, in this process or another, runs anything by Locked with the same folder, and closes the
// folder. The context ends the waiting.
func Locked(ctx context.Context, folder *os.File, fn func() error) error {
	got := make(chan error, 1)
	go func() { got <- flock(folder) }()
	var err error
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

// SyncFolder puts the names in an open folder on the disk, and closes it.
func SyncFolder(folder *os.File) error {
	defer folder.Close()
	if err := folder.Sync(); !errors.Is(err, unix.EINVAL) { // which is a file system that can't
		return err
	}
	return nil
}
