package files

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// Failed wraps an error with the operation, its object and the place, which is to be done once, at the edge of a package. It
// adds what an error of a file means.
func Failed(op, object, place string, err error) error {
	if object == "" {
		return fmt.Errorf("%s %s: %w", op, place, Translate(err))
	}
	return fmt.Errorf("%s %s in %s: %w", op, Clean(object), place, Translate(err))
}

// Clean is a name that somebody made up, as an error can hold it.
func Clean(name string) string {
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

// Translate adds to an error of a file what it means, a kind of package image.
func Translate(err error) error {
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
