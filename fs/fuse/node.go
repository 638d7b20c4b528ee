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
	plain int32
	// unverified: the page cache may hold bytes that were never verified.
	unverified bool
	// listed: the folder was listed to its end.
	listed bool
	// volatile and sealed are as in the node's fs.Attr.
	volatile, sealed bool
}

// newNode shows a Node whose attributes are given.
func (m *mount) newNode(n fs.Node, attr fs.Attr) *node {
	return &node{n: n, m: m, volatile: attr.Volatile, sealed: attr.Sealed}
}

var (
	_ gofs.NodeLookuper       = (*node)(nil)
	_ gofs.NodeGetattrer      = (*node)(nil)
	_ gofs.NodeAccesser       = (*node)(nil)
	_ gofs.NodeOpendirHandler = (*node)(nil)
	_ gofs.NodeOpener         = (*node)(nil)
	_ gofs.NodeReadlinker     = (*node)(nil)
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
		if !n.sealed {
			out.SetEntryTimeout(askAgain)
		}
		return nil, n.fail("lookup", name, err)
	}
	fill(&out.Attr, attr)
	out.SetAttrTimeout(keep(attr.Fixed || attr.IsDir()))
	out.SetEntryTimeout(keep(!n.volatile))
	return n.newInode(ctx, child, attr), 0
}

// askAgain marks a name that is missing as one to ask for again. All others that are missing, those without a time, are kept
// as go-fuse's NegativeTimeout says.
const askAgain = 1

func (n *node) newInode(ctx context.Context, child fs.Node, attr fs.Attr) *gofs.Inode {
	return n.NewInode(ctx, n.m.newNode(child, attr), gofs.StableAttr{Ino: attr.Ino, Mode: attr.Mode & syscall.S_IFMT})
}

func (n *node) lookup(ctx context.Context, name string) (fs.Node, fs.Attr, error) {
	child, err := n.n.Lookup(ctx, name)
	if err != nil {
		return nil, fs.Attr{}, err
	}
	attr, err := child.Attr(ctx)
	return child, attr, err
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

// fill writes attributes. Times are 0 but for what is staged and what is in layers, since a time that changed would make rsync send
// all again. A folder has one link, which tells find and its like not to count subfolders by it.
func fill(out *fuse.Attr, a fs.Attr) {
	out.Ino, out.Mode, out.Size, out.Nlink = a.Ino, a.Mode, uint64(a.Size), 1
	if !a.IsDir() {
		out.Nlink = max(a.Links, 1)
	}
	out.Rdev = device(a.Major, a.Minor)
	out.Uid, out.Gid = uint32(os.Getuid()), uint32(os.Getgid())
	if a.Owned {
		out.Uid, out.Gid = a.UID, a.GID
	}
	setTime(&out.Atime, &out.Atimensec, a.Atime)
	setTime(&out.Mtime, &out.Mtimensec, a.Mtime)
	setTime(&out.Ctime, &out.Ctimensec, a.Mtime)
	out.Blksize, out.Blocks = blockSize, (out.Size+511)/512
}

// device is the number of a device as the kernel writes it in 32 bits: 12 of the major number, 20 of the minor.
func device(major, minor uint32) uint32 {
	return minor&0xff | major&0xfff<<8 | minor&0xfff00<<12
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
	out.SetTimeout(keep(attr.Fixed || attr.IsDir()))
	return 0
}

// Access lets everyone read, who was let into the mount, and those write who may. What nobody may execute the kernel executes for
// nobody.
func (n *node) Access(ctx context.Context, mask uint32) syscall.Errno {
	if mask&accessWrite != 0 && !mayWrite(ctx) {
		return syscall.EACCES
	}
	if mask&accessExecute == 0 || n.IsDir() {
		return 0
	}
	attr, err := n.n.Attr(caller(ctx))
	if err != nil {
		return n.fail("access", "", err)
	}
	if attr.Mode&0o111 == 0 {
		return syscall.EACCES
	}
	return 0
}

// access(2)'s X_OK and W_OK.
const (
	accessExecute = 1
	accessWrite   = 2
)

// Statfs answers without numbers of blocks: nobody knows how large all registries are.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	return 0
}

func (n *node) Readlink(ctx context.Context) ([]byte, syscall.Errno) {
	target, err := n.n.Readlink(caller(ctx))
	if err != nil {
		return nil, n.fail("readlink", "", err)
	}
	return []byte(target), 0
}

// noAttr is how a missing extended attribute is reported, which systems call by different names.
const noAttr = syscall.Errno(fuse.ENOATTR)

func (n *node) Getxattr(ctx context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	value, err := n.n.Xattr(caller(ctx), name)
	if e := errno(err); e == syscall.ENOENT {
		return 0, noAttr
	} else if err != nil {
		return 0, n.fail("getxattr", "", err)
	}
	return give(dest, value)
}

// Listxattr leaves out the names that only root may read, for all others, as other file systems do.
func (n *node) Listxattr(ctx context.Context, dest []byte) (uint32, syscall.Errno) {
	names, err := n.n.XattrNames(caller(ctx))
	if err != nil {
		return 0, n.fail("listxattr", "", err)
	}
	c, known := fuse.FromContext(ctx)
	isRoot := known && c.Uid == 0
	var all strings.Builder
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.") && !isRoot {
			continue
		}
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
