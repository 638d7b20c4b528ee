package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// umount ends the mount of regfs at path.
func umount(path string) error {
	path, err := resolve(path)
	if err != nil {
		return err
	}
	switch mounted, err := mountAt(path); {
	case err != nil:
		return err
	case mounted == "":
		return errors.New("nothing is mounted there")
	case mounted != fsType:
		return fmt.Errorf("what is mounted there is a %s and no regfs: end it with 'umount'", mounted)
	}
	err = unmount(path, false)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("busy: 'fuser -vm %s' shows who uses it; '%s' unmounts it all the same", path, lazily(path))
	}
	return err
}

// lazily is the command that unmounts path whoever uses it.
func lazily(path string) string {
	if os.Geteuid() == 0 {
		return "umount -l " + path
	}
	return "fusermount3 -u -z " + path
}
