package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/dockerarchive"
)

// spooledName matches the files of images that were fetched.
const spooledName = "regfs-engine-*.tar"

// leftAge is how old a file is that is locked by now if anybody is going to lock it.
const leftAge = time.Minute

// spooled is an image in a file, which is locked while it is of use, and goes with its closing.
type spooled struct {
	image.Source
	archive *dockerarchive.Archive
	file    *os.File
}

// spool writes an archive into a file, and opens it.
func spool(ctx context.Context, dir string, body io.Reader) (image.Source, error) {
	removeLeft(dir)
	file, err := os.CreateTemp(dir, spooledName)
	if err != nil {
		return nil, err
	}
	s := &spooled{file: file}
	if err = unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{file}, &reader{ctx, body}, make([]byte, 256<<10))
	}
	if err == nil {
		err = s.open(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *spooled) open(ctx context.Context) error {
	var err error
	if s.archive, err = dockerarchive.Open(ctx, s.file.Name()); err != nil {
		return fmt.Errorf("what the engine sent is no image: %w", err)
	}
	host, err := s.archive.Host("")
	if err == nil {
		s.Source, err = host.Source(ctx, "")
	}
	return err
}

// Close removes the file. What is being read stays readable.
func (s *spooled) Close() error {
	var err error
	if s.archive != nil {
		err = s.archive.Close()
	}
	return errors.Join(err, os.Remove(s.file.Name()), s.file.Close())
}

// removeLeft removes the files of processes that were killed: those nobody has locked.
func removeLeft(dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, spooledName)) // the pattern is a good one
	for _, name := range names {
		file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		info, err := file.Stat()
		old := err == nil && time.Since(info.ModTime()) > leftAge
		if old && unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.Remove(name) // it is in nobody's way if it stays
		}
		file.Close()
	}
}
