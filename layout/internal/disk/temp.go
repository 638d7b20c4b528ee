package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// Temp is a new file without a name: it goes when it is closed, however that comes. It lies in dir or, if that is "", where
// temporary files do.
func Temp(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "regfs-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Again opens an open file once more, to be read at offsets and closed on its own.
func Again(file *os.File) (*os.File, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var dupErr error
	if err := raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("dup", dupErr)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}
