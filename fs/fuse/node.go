//go:build linux || freebsd || darwin

package fuse

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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
	// readOnly: the kernel lets nobody write.
	readOnly bool
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
	if e != 0 && (!slices.Contains(ordinary, e) || errors.Is(err, image.ErrUnavailable)) {
		n.report(operation, name, err)
	}
	return e
}

// ordinary are answers that everybody gets who asks for what is not there, or is in the way.
var ordinary = []syscall.Errno{
	syscall.EINTR, syscall.ENOENT, syscall.EEXIST, syscall.ENOTEMPTY, syscall.EISDIR, syscall.ENOTDIR, syscall.EXDEV, syscall.ESTALE,
}

func (n *node) report(operation, name string, err error) {
	path := filepath.Join("/", n.Path(nil), name)
	n.m.tree.Report(operation, path, err)
	n.m.log.Error(operation, "path", path, "error", err)
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

// fill writes attributes. All is readable; what can't be written to says so. Times are 0 but for what is staged, since a time that
// changed would make rsync send all again. A folder has one link, which tells find and its like not to count subfolders by it; a shared
// file two, whatever the number, so that du and tar take it once.
func fill(out *fuse.Attr, a fs.Attr) {
	out.Ino, out.Nlink, out.Size = a.Ino, 1, uint64(a.Size)
	out.Mode = syscall.S_IFREG | 0o444
	switch {
	case a.Dir:
		out.Mode = syscall.S_IFDIR | 0o555
	case a.Link:
		out.Mode = syscall.S_IFLNK | 0o777
	}
	if a.Mode != 0 {
		out.Mode = out.Mode&syscall.S_IFMT | a.Mode&0o7777
	}
	if a.Shared {
		out.Nlink = 2
	}
	out.Uid, out.Gid = uint32(os.Getuid()), uint32(os.Getgid())
	if a.Owned {
		out.Uid, out.Gid = a.UID, a.GID
	}
	setTime(&out.Atime, &out.Atimensec, a.Atime)
	setTime(&out.Mtime, &out.Mtimensec, a.Mtime)
	setTime(&out.Ctime, &out.Ctimensec, a.Mtime)
	out.Blksize, out.Blocks = blockSize, (out.Size+511)/512
}

func setTime(sec *uint64, nsec *uint32, t time.Time) {
	if !t.IsZero() {
		*sec, *nsec = uint64(t.Unix()), uint32(t.Nanosecond())
	}
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

// Access lets everyone read, who was let into the mount, and those write who may.
func (n *node) Access(ctx context.Context, mask uint32) syscall.Errno {
	if mask&accessWrite != 0 && !mayWrite(ctx) {
		return syscall.EACCES
	}
	return 0
}

// accessWrite is access(2)'s W_OK.
const accessWrite = 2

// Statfs answers without numbers of blocks: nobody knows how large all registries are.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	return 0
}

// noAttr is how a missing extended attribute is reported, which systems call by different names.
const noAttr = syscall.Errno(fuse.ENOATTR)

// xattrPrefix is that of all extended attributes there are. Others, which ls -l and cp ask for, cost nothing.
const xattrPrefix = "user."

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
