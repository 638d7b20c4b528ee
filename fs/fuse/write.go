//go:build linux || freebsd || darwin

package fuse

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/regfs/regfs/fs"
)

// All of these are there for every node: where one is missing, go-fuse succeeds in silence.
var (
	_ gofs.NodeMkdirer        = (*node)(nil)
	_ gofs.NodeMknoder        = (*node)(nil)
	_ gofs.NodeCreater        = (*node)(nil)
	_ gofs.NodeLinker         = (*node)(nil)
	_ gofs.NodeSymlinker      = (*node)(nil)
	_ gofs.NodeUnlinker       = (*node)(nil)
	_ gofs.NodeRmdirer        = (*node)(nil)
	_ gofs.NodeRenamer        = (*node)(nil)
	_ gofs.NodeSetattrer      = (*node)(nil)
	_ gofs.NodeSetxattrer     = (*node)(nil)
	_ gofs.NodeRemovexattrer  = (*node)(nil)
	_ gofs.NodeFsyncer        = (*node)(nil)
	_ gofs.NodeCopyFileRanger = (*node)(nil)
	_ gofs.FileFsyncdirer     = (*listing)(nil)
)

// mayWrite lets those write who mounted, and root: the credentials that a push uses are theirs, whoever else may look.
func mayWrite(ctx context.Context) bool {
	c, ok := fuse.FromContext(ctx)
	return ok && (c.Uid == 0 || c.Uid == uint32(os.Geteuid()))
}

// change runs something that changes a folder or a file, for those who may.
func (n *node) change(ctx context.Context, operation, name string, fn func(ctx context.Context) error) syscall.Errno {
	switch {
	case n.m.readOnly: // the kernel says so first, unless somebody remounted it from outside
		return syscall.EROFS
	case !mayWrite(ctx):
		return syscall.EACCES
	}
	ctx, stop := patient(ctx)
	defer stop()
	err := fn(ctx)
	if e := errno(err); e == syscall.ENOTSUP && operation == "setxattr" {
		return e // who copies attributes asks for each file
	}
	return n.fail(operation, name, err)
}

// made turns a node that was just made into an inode.
func (n *node) made(ctx context.Context, child fs.Node, out *fuse.EntryOut) (*gofs.Inode, error) {
	attr, err := child.Attr(ctx)
	if err != nil {
		return nil, err
	}
	fill(&out.Attr, attr)
	return n.newInode(ctx, child, attr), nil
}

func (n *node) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (inode *gofs.Inode, e syscall.Errno) {
	e = n.change(ctx, "mkdir", name, func(ctx context.Context) error {
		child, err := n.n.Mkdir(ctx, name)
		if err == nil {
			inode, err = n.made(ctx, child, out)
		}
		return err
	})
	return inode, e
}

// Mknod makes a plain file, and nothing else.
func (n *node) Mknod(ctx context.Context, name string, mode uint32, _ uint32, out *fuse.EntryOut) (inode *gofs.Inode, e syscall.Errno) {
	if mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil, syscall.EPERM
	}
	e = n.change(ctx, "mknod", name, func(ctx context.Context) error {
		child, file, err := n.n.Create(ctx, name, mode)
		if err != nil {
			return err
		}
		inode, err = n.made(ctx, child, out)
		return errors.Join(err, file.Close())
	})
	return inode, e
}

func (n *node) Create(ctx context.Context, name string, _ uint32, mode uint32, out *fuse.EntryOut) (inode *gofs.Inode, h gofs.FileHandle, flags uint32, e syscall.Errno) {
	e = n.change(ctx, "create", name, func(ctx context.Context) error {
		child, file, err := n.n.Create(ctx, name, mode)
		if err != nil {
			return err
		}
		if inode, err = n.made(ctx, child, out); err != nil {
			return errors.Join(err, file.Close())
		}
		h = &writer{n: inode.Operations().(*node), file: file}
		return nil
	})
	return inode, h, fuse.FOPEN_DIRECT_IO, e
}

// Link is refused: a file here is one blob of one image.
func (n *node) Link(context.Context, gofs.InodeEmbedder, string, *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (inode *gofs.Inode, e syscall.Errno) {
	e = n.change(ctx, "symlink", name, func(ctx context.Context) error {
		child, err := n.n.Symlink(ctx, target, name)
		if err == nil {
			inode, err = n.made(ctx, child, out)
		}
		return err
	})
	return inode, e
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	return n.change(ctx, "unlink", name, func(ctx context.Context) error { return n.n.Unlink(ctx, name) })
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.change(ctx, "rmdir", name, func(ctx context.Context) error { return n.n.Rmdir(ctx, name) })
}

// noReplace is renameat2(2)'s RENAME_NOREPLACE, the only flag there is here.
const noReplace = 1

func (n *node) Rename(ctx context.Context, name string, to gofs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	dest, ok := to.(*node)
	if !ok || flags&^noReplace != 0 {
		return syscall.EINVAL
	}
	return n.change(ctx, "rename", name, func(ctx context.Context) error {
		return n.n.Rename(ctx, name, dest.n, newName, flags == noReplace)
	})
}

func (n *node) Setattr(ctx context.Context, h gofs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	e := n.change(ctx, "setattr", "", func(ctx context.Context) error { return n.setAttr(ctx, h, changes(in)) })
	if e != 0 {
		return e
	}
	return n.Getattr(ctx, h, out)
}

// setAttr sets the length through the handle, where there is one: that counts as writing. By name, a file that is fixed may have
// another one in its place.
func (n *node) setAttr(ctx context.Context, h gofs.FileHandle, c fs.Change) error {
	if w, ok := h.(*writer); ok && c.Size != nil {
		if err := w.file.Truncate(ctx, *c.Size); err != nil {
			return err
		}
		c.Size = nil
	}
	err := n.n.SetAttr(ctx, c)
	if errors.Is(err, fs.ErrFixed) && n.again(ctx) {
		return syscall.ESTALE
	}
	return err
}

// again tells whether the kernel should look a fixed file's name up once more, which ESTALE has it do.
func (n *node) again(ctx context.Context) bool {
	return n.m.tree.Intend(ctx, n.StableAttr().Ino)
}

func changes(in *fuse.SetAttrIn) fs.Change {
	var c fs.Change
	if mode, ok := in.GetMode(); ok {
		c.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		c.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		c.GID = &gid
	}
	if size, ok := in.GetSize(); ok {
		n := int64(min(size, 1<<63-1))
		c.Size = &n
	}
	c.Atime, c.Mtime = moment(in.GetATime()), moment(in.GetMTime())
	return c
}

func moment(t time.Time, ok bool) *time.Time {
	if !ok {
		return nil
	}
	return &t
}

// Flags of setxattr(2).
const (
	xattrCreate  = 1
	xattrReplace = 2
)

// Setxattr keeps those of users. Access lists and labels mean nothing here: cp -a asks for them all the same.
func (n *node) Setxattr(ctx context.Context, name string, value []byte, flags uint32) syscall.Errno {
	if !strings.HasPrefix(name, "user.") {
		return syscall.ENOTSUP
	}
	e := n.change(ctx, "setxattr", "", func(ctx context.Context) error {
		return n.n.SetXattr(ctx, name, value, flags&xattrCreate != 0, flags&xattrReplace != 0)
	})
	return attrErrno(e)
}

func (n *node) Removexattr(ctx context.Context, name string) syscall.Errno {
	return attrErrno(n.change(ctx, "removexattr", "", func(ctx context.Context) error { return n.n.RemoveXattr(ctx, name) }))
}

func attrErrno(e syscall.Errno) syscall.Errno {
	if e == syscall.ENOENT {
		return noAttr
	}
	return e
}

// Fsync of a file is its handle's; of a folder it fails as long as something written in it is not pushed.
func (n *node) Fsync(ctx context.Context, h gofs.FileHandle, _ uint32) syscall.Errno {
	if w, ok := h.(*writer); ok {
		return n.push(ctx, "fsync", w.file.Fsync)
	}
	return n.push(ctx, "fsync", n.n.Fsync)
}

func (l *listing) Fsyncdir(ctx context.Context, _ uint32) syscall.Errno {
	return l.n.push(ctx, "fsync", l.n.n.Fsync)
}

// push runs what may push an image. Its failure is worth a line whatever it is: a missing blob, too.
func (n *node) push(ctx context.Context, operation string, fn func(context.Context) error) syscall.Errno {
	ctx, stop := patient(ctx)
	defer stop()
	err := fn(ctx)
	if err == nil {
		return 0
	}
	if e := errno(err); e == syscall.ENOENT {
		n.report(operation, "", err)
		return e
	}
	return n.fail(operation, "", err)
}

// CopyFileRange copies by reference what is in a registry. For all else the kernel reads and writes.
func (n *node) CopyFileRange(ctx context.Context, _ gofs.FileHandle, offIn uint64, _ *gofs.Inode, out gofs.FileHandle, offOut, length, _ uint64) (uint32, syscall.Errno) {
	from, d, ok := n.n.Origin()
	w, isWriter := out.(*writer)
	const most = 1 << 62
	if !ok || !isWriter || offIn > most || offOut > most {
		return 0, syscall.ENOTSUP
	}
	length = min(length, 1<<31) // cp asks for all there can be, and the answer has 32 bits
	done, err := w.file.Refer(from, d, int64(offIn), int64(length), int64(offOut))
	if err != nil {
		if e := errno(err); e == syscall.ENOTSUP {
			return 0, e
		}
		return 0, n.fail("copy", "", err)
	}
	return uint32(done), 0
}
