//go:build linux || freebsd || darwin

package fuse

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/regfs/regfs/fs"
	"github.com/regfs/regfs/image"
)

// forever is how long the kernel may keep what can't change.
const forever = 365 * 24 * time.Hour

// mount is what all nodes of a mount share.
type mount struct {
	tree *fs.Tree
	log  *slog.Logger
}

// node is an inode that shows a Node of the tree.
type node struct {
	gofs.Inode
	n fs.Node
	m *mount

	// The kernel wants all handles of an inode to be of one kind, through the daemon or past it, until the last is released.
	mu    sync.Mutex
	plain int
	// unverified: the page cache may hold bytes that were never verified.
	unverified bool
}

var (
	_ gofs.NodeLookuper       = (*node)(nil)
	_ gofs.NodeGetattrer      = (*node)(nil)
	_ gofs.NodeAccesser       = (*node)(nil)
	_ gofs.NodeOpendirHandler = (*node)(nil)
	_ gofs.NodeOpener         = (*node)(nil)
	_ gofs.NodeGetxattrer     = (*node)(nil)
	_ gofs.NodeListxattrer    = (*node)(nil)
	_ gofs.NodeStatfser       = (*node)(nil)
)

// caller tells the tree who asks.
func caller(ctx context.Context) context.Context {
	if c, ok := fuse.FromContext(ctx); ok {
		return fs.WithCaller(ctx, c.Pid)
	}
	return ctx
}

// fail makes the errno of an error, and writes down each one that is worth reading. A reader who left is not, nor a name that is
// missing; but a registry that is missing is, since it may be the network that is.
func (n *node) fail(operation, name string, err error) syscall.Errno {
	e := errno(err)
	if e != 0 && e != syscall.EINTR && (e != syscall.ENOENT || errors.Is(err, image.ErrUnavailable)) {
		path := filepath.Join("/", n.Path(nil), name)
		n.m.tree.Report(operation, path, err)
		n.m.log.Error(operation, "path", path, "error", err)
	}
	return e
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	child, attr, err := n.lookup(caller(ctx), name)
	if err != nil {
		return nil, n.fail("lookup", name, err)
	}
	fill(&out.Attr, attr)
	out.SetAttrTimeout(keep(attr.Fixed || attr.Dir))
	out.SetEntryTimeout(keep(!n.volatile(ctx)))
	return n.NewInode(ctx, &node{n: child, m: n.m}, gofs.StableAttr{Ino: attr.Ino, Mode: out.Mode & syscall.S_IFMT}), 0
}

func (n *node) lookup(ctx context.Context, name string) (fs.Node, fs.Attr, error) {
	child, err := n.n.Lookup(ctx, name)
	if err != nil {
		return nil, fs.Attr{}, err
	}
	attr, err := child.Attr(ctx)
	return child, attr, err
}

// volatile tells whether the kernel must ask again for every name in this folder. A folder's own attributes send nothing.
func (n *node) volatile(ctx context.Context) bool {
	attr, err := n.n.Attr(ctx)
	return err != nil || attr.Volatile
}

func keep(fixed bool) time.Duration {
	if fixed {
		return forever
	}
	return 0
}

// blockSize is how much cp and others read at once, in bytes: more of it than 256 KiB is out of the processor's cache when it is
// written.
const blockSize = 256 << 10

// fill writes attributes. All is readable and nothing can be written; times are 0, since a time that changed would make
// rsync send all again. A folder has one link, which tells find and its like not to count subfolders by it; a shared file two,
// whatever the number, so that du and tar take it once.
func fill(out *fuse.Attr, a fs.Attr) {
	out.Ino, out.Nlink, out.Size = a.Ino, 1, uint64(a.Size)
	out.Mode = syscall.S_IFREG | 0o444
	if a.Dir {
		out.Mode = syscall.S_IFDIR | 0o555
	}
	if a.Shared {
		out.Nlink = 2
	}
	out.Blksize, out.Blocks = blockSize, (out.Size+511)/512
}

func (n *node) Getattr(ctx context.Context, _ gofs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	attr, err := n.n.Attr(caller(ctx))
	if err != nil {
		return n.fail("stat", "", err)
	}
	fill(&out.Attr, attr)
	out.SetTimeout(keep(attr.Fixed || attr.Dir))
	return 0
}

// Access lets everyone read, who was let into the mount. Writing is refused by the kernel, which knows the mount as read-only.
func (n *node) Access(context.Context, uint32) syscall.Errno { return 0 }

// Statfs answers without numbers of blocks: nobody knows how large all registries are.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	return 0
}

// noAttr is how a missing extended attribute is reported, which systems call by different names.
const noAttr = syscall.Errno(fuse.ENOATTR)

// xattrPrefix is that of all extended attributes there are. Others, which ls -l and cp ask for, cost nothing.
const xattrPrefix = "user.oci."

func (n *node) Getxattr(ctx context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	if !strings.HasPrefix(name, xattrPrefix) {
		return 0, noAttr
	}
	value, err := n.n.Xattr(caller(ctx), name)
	if e := errno(err); e == syscall.ENOENT {
		return 0, noAttr
	} else if err != nil {
		return 0, n.fail("getxattr", "", err)
	}
	return give(dest, value)
}

func (n *node) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	var all strings.Builder
	for _, name := range n.n.XattrNames() {
		if all.Len()+len(name)+1 > maxXattrList {
			break
		}
		all.WriteString(name + "\x00")
	}
	return give(dest, all.String())
}

// maxXattrList is the longest list of names that Linux takes, in bytes.
const maxXattrList = 64 << 10

// give answers with a value, or with how large it is to one whose buffer can't hold it.
func give(dest []byte, value string) (uint32, syscall.Errno) {
	if len(dest) < len(value) {
		return uint32(len(value)), syscall.ERANGE
	}
	return uint32(copy(dest, value)), 0
}
