//go:build linux || freebsd || darwin

package fuse

import (
	"context"
	"errors"
	"syscall"

	"github.com/regfs/regfs/image"
)

// errnos is the one table that makes an errno of an error. The first that matches counts. An errno that comes up from
// the local disk in any other way is EIO to the reader, who has no such disk.
var errnos = []struct {
	is    error
	errno syscall.Errno
}{
	{context.Canceled, syscall.EINTR},
	{context.DeadlineExceeded, syscall.ETIMEDOUT},
	{image.ErrNotFound, syscall.ENOENT},
	{image.ErrDenied, syscall.EACCES},
	{image.ErrUntrusted, syscall.EACCES},
	{image.ErrUnsupported, syscall.ENOTSUP},
	{syscall.ENOSPC, syscall.ENOSPC},
	{syscall.EDQUOT, syscall.EDQUOT},
	{syscall.EROFS, syscall.EROFS},
}

// errno is what a system call reports for err.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	for _, e := range errnos {
		if errors.Is(err, e.is) {
			return e.errno
		}
	}
	return syscall.EIO
}
