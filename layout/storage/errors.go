//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// failed wraps an error with the operation, its object, and the store, once. No error stays none.
func (s *Store) failed(op, object string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s in containers-storage:[%s]: %w", op, files.Clean(object), s.lib.GraphRoot(), translate(err))
}

// kinds are what errors of the library and of the system mean.
var kinds = []struct{ is, kind error }{
	{storage.ErrImageUnknown, image.ErrNotFound}, {storage.ErrNotAnImage, image.ErrNotFound}, {storage.ErrLayerUnknown, image.ErrNotFound},
	{storage.ErrImageUsedByContainer, image.ErrRefused}, {storage.ErrLayerUsedByContainer, image.ErrRefused},
	{storage.ErrStoreIsReadOnly, image.ErrUnsupported}, {storage.ErrNotSupported, image.ErrUnsupported},
	{fs.ErrNotExist, image.ErrNotFound}, {unix.ENOTDIR, image.ErrNotFound}, {fs.ErrPermission, image.ErrDenied},
	{unix.EROFS, image.ErrUnsupported}, {unix.EDQUOT, image.ErrQuota},
}

// translate adds what an error means to it.
func translate(err error) error {
	for _, meaning := range kinds {
		if errors.Is(err, meaning.is) && !known(err) {
			return &kindError{err, meaning.kind}
		}
	}
	return err
}

// known tells that an error is of a kind already.
func known(err error) bool {
	for _, meaning := range kinds {
		if errors.Is(err, meaning.kind) {
			return true
		}
	}
	return false
}

// kindError is an error in its own words, and of a kind.
type kindError struct {
	error
	kind error
}

func (e *kindError) Unwrap() []error { return []error{e.error, e.kind} }

// unpackingError tells what went wrong in the process that unpacks a layer, which has nothing but words for it.
func unpackingError(err error) error {
	if errors.Is(err, storage.ErrLayerUnknown) {
		return fmt.Errorf("another process has removed the layer below it meanwhile (%v), copy the image again: %w", err, image.ErrUnavailable)
	}
	text := err.Error()
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		if strings.Contains(text, errno.Error()) && !errors.Is(err, errno) {
			return &kindError{err, errno}
		}
	}
	for _, words := range []string{"archive/tar: ", "breakout", "invalid tar header", "Invalid symlink", "unhandled tar header"} {
		if strings.Contains(text, words) {
			return &kindError{err, image.ErrInvalid}
		}
	}
	return err
}
