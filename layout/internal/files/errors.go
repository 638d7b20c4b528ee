package files

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// Failed wraps an error with the operation, its object and the place, which is to be done once, at the edge of a package. It
// adds what an error of a file means.
func Failed(op, object, place string, err error) error {
	if object == "" {
		return fmt.Errorf("%s %s: %w", op, place, Translate(place, err))
	}
	return fmt.Errorf("%s %s in %s: %w", op, Clean(object), place, Translate(place, err))
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

// Translate adds to an error of a file what it means, a kind of package image. Of the system's words, those remain that tell more than
// the place that it is about: which other file, if any, and the reason.
func Translate(place string, err error) error {
	if err == nil {
		return nil
	}
	return &fileError{err, words(place, err), kind(err)}
}

func kind(err error) error {
	for _, meaning := range []struct{ is, kind error }{
		{fs.ErrNotExist, image.ErrNotFound}, {unix.ENOTDIR, image.ErrNotFound}, {fs.ErrPermission, image.ErrDenied},
		{unix.EROFS, image.ErrUnsupported}, {unix.EDQUOT, image.ErrQuota}, {unix.ENAMETOOLONG, image.ErrInvalid},
	} {
		if errors.Is(err, meaning.is) && !errors.Is(err, meaning.kind) {
			return meaning.kind
		}
	}
	return nil
}

// words tells of a file by its path alone, and of one on its way by its folder.
func words(place string, err error) string {
	var p *fs.PathError
	if !errors.As(err, &p) {
		return err.Error()
	}
	path := p.Path
	if strings.HasPrefix(filepath.Base(path), tempPrefix) {
		path = filepath.Dir(path)
	}
	told := p.Err.Error()
	if path != place && !strings.HasSuffix(place, " "+path) && !(path == "." && strings.HasSuffix(p.Op, "at")) {
		told = quoted(path) + ": " + told
	}
	return strings.Replace(err.Error(), p.Error(), told, 1)
}

// quoted is a path as it is, or in quotes if it has something in it that nobody can see.
func quoted(path string) string {
	if q := strconv.Quote(path); q != `"`+path+`"` {
		return q
	}
	return path
}

// fileError is an error in words that fit, and of a kind of package image.
type fileError struct {
	error
	words string
	kind  error // nil for none
}

func (e *fileError) Error() string { return e.words }

func (e *fileError) Unwrap() []error {
	if e.kind == nil {
		return []error{e.error}
	}
	return []error{e.error, e.kind}
}
