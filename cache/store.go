package cache

import (
	// The algorithms content is named by, whatever else the program has.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// store is the content on disk. It assumes nothing about what is there: other processes add and remove all the time. Content isn't
// synced to the disk: a file that lost its end in a power failure is found out by its size, and manifests are hashed each time.
type store struct{ dir string }

func (s store) init() error {
	for _, f := range folders {
		if err := os.MkdirAll(filepath.Join(s.dir, f.name), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// writable tells why nothing can be kept, if so.
func (s store) writable() error {
	for _, f := range folders {
		path := filepath.Join(s.dir, f.name)
		if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
			return &os.PathError{Op: "write to", Path: path, Err: err}
		}
	}
	return nil
}

// blobPath is where content is once it matched dgst, which must be valid.
func (s store) blobPath(dgst digest.Digest) string {
	return filepath.Join(s.dir, "blobs", dgst.Algorithm().String(), dgst.Encoded()[:2], dgst.Encoded())
}

// partialPath is where d is on its way. Its size is part of the name: who describes content with a wrong size fails, and must
// not have others fail who follow its transfer.
func (s store) partialPath(d image.Descriptor) string {
	return filepath.Join(s.dir, "partial", fmt.Sprintf("%s-%s-%d", d.Digest.Algorithm(), d.Digest.Encoded(), d.Size))
}

// openBlob opens a complete blob for reading, so that nobody evicts it, and makes it the one used last. fs.ErrNotExist where there
// is none; ErrDigest where d's size is not that of the content its digest names.
func (s store) openBlob(d image.Descriptor) (*os.File, error) {
	path := s.blobPath(d.Digest)
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := s.check(file, d); err != nil {
		file.Close()
		return nil, err
	}
	shareLock(file)
	touch(path, file)
	return file, nil
}

// check trusts a file of the right size: it was verified when it got its name. For any other it finds out whether the file is
// damaged, and removes it then, or the descriptor is wrong.
func (s store) check(file *os.File, d image.Descriptor) error {
	info, err := file.Stat()
	if err != nil || info.Size() == d.Size {
		return err
	}
	verifier := d.Digest.Verifier()
	if _, err := io.Copy(verifier, io.NewSectionReader(file, 0, info.Size())); err != nil {
		return err
	}
	if !verifier.Verified() {
		s.removeBlob(file, d.Digest)
		return os.ErrNotExist
	}
	if d.Size >= 0 {
		return fmt.Errorf("%d bytes instead of %d: %w", info.Size(), d.Size, image.ErrDigest)
	}
	return nil
}

// removeBlob removes a damaged blob, unless a good one took its place meanwhile.
func (s store) removeBlob(file *os.File, dgst digest.Digest) {
	if samePath(file, s.blobPath(dgst)) {
		os.Remove(s.blobPath(dgst))
	}
}

// manifest reads a manifest from the store and verifies it again. fs.ErrNotExist where there is none, or not the one d describes.
func (s store) manifest(d image.Descriptor) ([]byte, error) {
	path := s.blobPath(d.Digest)
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, image.MaxManifest+1))
	if err != nil {
		return nil, err
	}
	got, err := image.DigestManifest(d.Digest.Algorithm(), d.MediaType, raw)
	if err != nil || got != d.Digest {
		s.removeBlob(file, d.Digest)
		return nil, os.ErrNotExist
	}
	// A signed manifest of schema 1 may come with other signatures from elsewhere.
	if d.Size >= 0 && d.Size != int64(len(raw)) {
		return nil, os.ErrNotExist
	}
	touch(path, file)
	return raw, nil
}

// putManifest keeps a manifest that its Source verified.
func (s store) putManifest(dgst digest.Digest, raw []byte) error {
	return s.replace(s.blobPath(dgst), func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	})
}

// replace makes the file at path what write writes, at once or not at all.
func (s store) replace(path string, write func(io.Writer) error) error {
	temp, err := s.temp()
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	err = write(temp)
	if err := errors.Join(err, temp.Close()); err != nil {
		return err
	}
	return move(temp.Name(), path)
}

func (s store) temp() (*os.File, error) {
	return s.create(func() (*os.File, error) { return os.CreateTemp(filepath.Join(s.dir, "tmp"), "") })
}

// partial opens content on its way, for reading and appending.
func (s store) partial(d image.Descriptor) (*os.File, error) {
	return s.create(func() (*os.File, error) {
		return os.OpenFile(s.partialPath(d), os.O_RDWR|os.O_CREATE, 0o600)
	})
}

// create makes a file, and first the directory, should somebody have removed it to clear the cache.
func (s store) create(open func() (*os.File, error)) (*os.File, error) {
	file, err := open()
	if errors.Is(err, os.ErrNotExist) && s.init() == nil {
		return open()
	}
	return file, err
}

// move renames a file, and makes the folder it goes to. That is tried again: Prune may remove the folder while it is empty.
func move(from, to string) error {
	err := os.Rename(from, to)
	for range 3 {
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err = os.MkdirAll(filepath.Dir(to), 0o700); err == nil {
			err = os.Rename(from, to)
		}
	}
	return err
}

// touch makes a file the one used last, once a minute at most.
func touch(path string, file *os.File) {
	info, err := file.Stat()
	if now := time.Now(); err == nil && now.Sub(info.ModTime()) > time.Minute {
		// Only the order of eviction depends on it.
		_ = os.Chtimes(path, time.Time{}, now)
	}
}

// lock takes the file's lock for writing or removing it, if nobody else has it.
func lock(file *os.File) bool {
	return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

func unlock(file *os.File) { _ = unix.Flock(int(file.Fd()), unix.LOCK_UN) }

// shareLock tells that the file is in use. A file whose lock can't be had is about to be removed: its content stays as good as it was.
func shareLock(file *os.File) bool {
	return unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil
}

// samePath tells whether path still names the open file.
func samePath(file *os.File, path string) bool {
	mine, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(mine, there)
}
