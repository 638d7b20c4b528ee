//go:build linux || freebsd || darwin

// Package fuse binds the tree to the kernel through go-fuse. It holds no logic of the namespace: it turns nodes into inodes,
// errors into errnos, and asks the kernel to cache what can't change.
package fuse

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/regfs/regfs/fs"
)

// Options says how a tree is mounted.
type Options struct {
	// AllowOther lets other users than the one who mounts see the tree.
	AllowOther bool
	// Options are those of mount(8)'s -o, such as "noatime" or "noexec,max_read=65536". What fuse(4) does not know, the kernel refuses.
	Options []string
	// ReadOnly has the kernel refuse all writing with EROFS.
	ReadOnly bool
	// Log gets one line for every operation that failed otherwise than by a missing name or an interrupt.
	Log *slog.Logger
}

// Server is a mounted tree.
type Server struct {
	server *fuse.Server
	known  *known
}

// maxRequest is the most that one read may ask for, in bytes: as much as fits, with its header, in the largest pipe that
// everybody may have, on which the kernel moves replies.
const maxRequest = 512 << 10

// Mount mounts the tree at a folder, and returns when the kernel answers. Root mounts by itself, anybody else through
// fusermount3.
func Mount(tree *fs.Tree, mountpoint string, o Options) (*Server, error) {
	m := &mount{tree: tree, log: o.Log, readOnly: o.ReadOnly}
	options := m.options(o)
	raw := newKnown(gofs.NewNodeFS(m.newNode(tree.Root(), fs.Attr{}), options))
	server, err := fuse.NewServer(raw, mountpoint, &options.MountOptions)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", mountpoint, err)
	}
	go server.Serve() // until Wait returns
	if err := server.WaitMount(); err != nil {
		return nil, fmt.Errorf("mount %s: %w", mountpoint, err)
	}
	return &Server{server, raw}, nil
}

// Wait returns when the tree is not mounted any more, whoever took it down.
func (s *Server) Wait() {
	s.server.Wait()
	s.known.pruning.Wait()
}

// Unmount takes the mount down. It fails with EBUSY while files are open or working directories inside it.
func (s *Server) Unmount() error { return s.server.Unmount() }

// options of the mount. go-fuse's own timeouts stay 0, since it puts them in the place of an entry's 0, but that of missing names,
// which has no other place. It is not to change owners and modes.
func (m *mount) options(o Options) *gofs.Options {
	opts := split(o.Options)
	if o.ReadOnly {
		opts = append(opts, "ro")
	}
	isRoot := os.Geteuid() == 0
	mo := fuse.MountOptions{
		AllowOther:         o.AllowOther || slices.Contains(opts, "allow_other"),
		FsName:             "regfs",
		Name:               "regfs",
		MaxWrite:           maxRequest,
		MaxReadAhead:       maxRequest,
		MaxBackground:      64,
		DisableReadDirPlus: true, // it would look every entry up, and a lookup can cost a request
		// What is still on its way is not kept in the page cache, but can be mapped all the same.
		ExtraCapabilities:    fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		EnableSymlinkCaching: true, // the only links are those in layers
		DirectMountStrict:    isRoot,
		Logger:               slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	if isRoot {
		mo.DirectMountFlags, opts = mountFlags(opts)
	}
	mo.Options = slices.DeleteFunc(opts, func(s string) bool { return s == "allow_other" })
	missing := forever
	return &gofs.Options{MountOptions: mo, NegativeTimeout: &missing, NullPermissions: true, RootStableAttr: &gofs.StableAttr{Ino: 1}}
}

// split takes apart options as mount(8) writes them, with commas.
func split(options []string) []string {
	return strings.FieldsFunc(strings.Join(options, ","), func(r rune) bool { return r == ',' })
}
