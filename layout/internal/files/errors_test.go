package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

func TestFailedSaysNothingTwice(t *testing.T) {
	failed := func(op, path string, err error) error { return &fs.PathError{Op: op, Path: path, Err: err} }
	for _, c := range []struct {
		place string
		err   error
		want  string
		kind  error
	}{
		{"lay", failed("open", "lay", unix.ENOENT), "open lay: no such file or directory", image.ErrNotFound},
		{"image folder lay", failed("mkdir", "lay", unix.ENOTDIR), "open image folder lay: not a directory", image.ErrNotFound},
		{"a.tar:b.tar", failed("open", "b.tar", unix.EACCES), "open a.tar:b.tar: b.tar: permission denied", image.ErrDenied},
		{"lay", failed("openat", "blobs/x", unix.EROFS), "open lay: blobs/x: read-only file system", image.ErrUnsupported},
		{"lay", failed("openat", ".regfs-X", unix.ENOSPC), "open lay: no space left on device", unix.ENOSPC},
		{"x/a.tar", failed("write", "x/.regfs-X", unix.ENOSPC), "open x/a.tar: x: no space left on device", unix.ENOSPC},
		{"a", fmt.Errorf("unpack it: %w", failed("write", "/tmp/.regfs-X", unix.EDQUOT)), "open a: unpack it: /tmp: disk quota exceeded", image.ErrQuota},
		{"a", failed("open", "x\ny", unix.ENOENT), `open a: "x\ny": no such file or directory`, image.ErrNotFound},
		{"a", image.ErrDigest, "open a: " + image.ErrDigest.Error(), image.ErrDigest},
	} {
		err := Failed("open", "", c.place, c.err)
		if err.Error() != c.want || !errors.Is(err, c.kind) || !errors.Is(err, c.err) {
			t.Errorf("%v, want %s, of the kind %v", err, c.want, c.kind)
		}
	}
}

func TestLockedHasPatience(t *testing.T) {
	folder := func() *os.File {
		f, err := os.Open(filepath.Dir(t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	err := Locked(t.Context(), folder(), time.Minute, func() error {
		err := Locked(t.Context(), folder(), 20*time.Millisecond, func() error { return errors.New("it ran") })
		if !errors.Is(err, image.ErrUnavailable) {
			t.Errorf("%v, want that the lock is another one's", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return Locked(ctx, folder(), time.Minute, func() error { return errors.New("it ran") })
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's end", err)
	}
}

func TestOpenRootWaitsForNobody(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRoot(fifo); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("%v, want that it is no folder", err)
	}
}
