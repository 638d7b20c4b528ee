//go:build linux || freebsd || darwin

package fuse

import (
	"context"
	"errors"
	"os"
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
	{image.ErrRefused, syscall.EINVAL},
	{image.ErrTooLarge, syscall.EFBIG},
	{image.ErrQuota, syscall.EDQUOT},
	{syscall.ENOTEMPTY, syscall.ENOTEMPTY}, // which is os.ErrExist, too
	{os.ErrExist, syscall.EEXIST},
	{syscall.ENOSPC, syscall.ENOSPC},
	{syscall.EDQUOT, syscall.EDQUOT},
	{syscall.EROFS, syscall.EROFS},
	{syscall.EPERM, syscall.EPERM},
	{syscall.EISDIR, syscall.EISDIR},
	{syscall.ENOTDIR, syscall.ENOTDIR},
	{syscall.EXDEV, syscall.EXDEV},
	{syscall.ESTALE, syscall.ESTALE},
	{syscall.EFBIG, syscall.EFBIG},
	{syscall.EINVAL, syscall.EINVAL},
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
