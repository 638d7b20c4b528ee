package files

import (
	"crypto/rand"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// StaleAge is how long a file on its way has lain untouched when whoever wrote it must be gone, where locks don't tell.
const StaleAge = 24 * time.Hour

// lockAge is how long a file lies untouched before a lock that nobody has tells anything: other machines may share the folder, and not
// its locks.
const lockAge = time.Minute

// WriteFile makes a file of what fn writes, in a folder of root. It has its name when it is whole, and on the disk. On its way it lies
// at the top of root, under a lock that ends with the process, so that RemoveStale knows what was left behind.
func WriteFile(root *os.Root, name string, fn func(io.Writer) error) error {
	temp := tempPrefix + rand.Text()
	file, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	defer root.Remove(temp)
	_ = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) // without it, the file's age tells
	if err := fn(file); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return root.Rename(temp, name)
}

// IsTemp tells whether a name is that of a file on its way.
func IsTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// RemoveStale removes a file on its way that nobody writes to any more. It is in nobody's way if it stays.
func RemoveStale(root *os.Root, e fs.DirEntry) {
	info, err := e.Info()
	if err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < lockAge {
		return
	}
	if time.Since(info.ModTime()) > StaleAge || unlocked(root, e.Name()) {
		root.Remove(e.Name())
	}
}

// unlocked tells whether nobody has the lock on a file.
func unlocked(root *os.Root, name string) bool {
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}
