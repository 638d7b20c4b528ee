package fs

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
)

// stagedFile is a file that is being written, or waits to be pushed.
type stagedFile struct {
	file
	site *site
	f    *stage.File
}

func (s *stagedFile) ino() uint64 {
	return s.site.repo.tree.ino("staged", fmt.Sprint(s.f.ID()))
}

// Attr is Made: another process may be writing to the file at this moment.
func (s *stagedFile) Attr(context.Context) (Attr, error) {
	m := s.f.Meta()
	return Attr{
		Ino: s.ino(), Size: s.f.Size(), Made: true, Mode: unix.S_IFREG | m.Mode&0o7777, Owned: m.Owned, UID: m.UID, GID: m.GID,
		Atime: m.Atime, Mtime: m.Mtime,
	}, nil
}

func (s *stagedFile) Open(ctx context.Context) (image.Blob, error) {
	h, err := s.f.Open()
	if err != nil {
		return nil, err
	}
	return &stagedBlob{h, s.site.repo.tree.pins.hold(callerOf(ctx), s.site.repo.path)}, nil
}

func (s *stagedFile) OpenWrite(ctx context.Context) (File, error) {
	w, err := s.site.open(ctx, s.f)
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (s *stagedFile) SetAttr(ctx context.Context, c Change) error {
	if c.Size != nil {
		if err := s.f.Truncate(ctx, *c.Size); err != nil {
			return err
		}
	}
	s.f.SetMeta(c.Mode, c.UID, c.GID, c.Atime, c.Mtime)
	return nil
}

func (s *stagedFile) XattrNames(context.Context) ([]string, error) { return s.f.Xattrs(), nil }

func (s *stagedFile) Xattr(_ context.Context, name string) (string, error) { return s.f.Xattr(name) }

func (s *stagedFile) SetXattr(_ context.Context, name string, value []byte, create, replace bool) error {
	return s.f.SetXattr(name, value, create, replace)
}

func (s *stagedFile) RemoveXattr(_ context.Context, name string) error { return s.f.RemoveXattr(name) }

// stagedBlob is a staged file open for reading.
type stagedBlob struct {
	*stage.Handle
	release func()
}

func (b *stagedBlob) Ready(context.Context, int64, int) (*os.File, error) { return nil, nil }

func (b *stagedBlob) File() *os.File { return nil }

func (b *stagedBlob) Close() error {
	b.release()
	return b.Handle.Close()
}
