//go:build linux || freebsd || darwin

package fuse

import (
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// known is a file system that the kernel, and so go-fuse, knows a bounded number of inodes of, beside those in use. The kernel
// forgets an inode with the last use of a name that is not to be kept. Of too many names the next are not, and cost a lookup each
// time: one million files would take half a gigabyte here.
type known struct {
	fuse.RawFileSystem
	mu sync.Mutex
	// lookups are how often the kernel was told of an inode and has not forgotten it yet.
	lookups map[uint64]uint64
}

// How many inodes there may be for a name of a file to be kept, and for that of a folder, of which there are fewer and each
// has more behind it. One takes half a kilobyte.
const (
	maxFiles   = 50_000
	maxFolders = 100_000
)

func newKnown(inner fuse.RawFileSystem) *known {
	return &known{RawFileSystem: inner, lookups: map[uint64]uint64{}}
}

// Lookup implements fuse.RawFileSystem. Inodes that come otherwise, by creating files, are few.
func (k *known) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	status := k.RawFileSystem.Lookup(cancel, header, name, out)
	if !status.Ok() || out.NodeId == 0 {
		return status
	}
	limit := maxFiles
	if out.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		limit = maxFolders
	}
	if k.add(out.NodeId) > limit {
		out.SetEntryTimeout(0)
	}
	return status
}

// Forget implements fuse.RawFileSystem.
func (k *known) Forget(id, lookups uint64) {
	k.remove(id, lookups)
	k.RawFileSystem.Forget(id, lookups)
}

// add counts a lookup, and tells how many inodes there are.
func (k *known) add(id uint64) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lookups[id]++
	return len(k.lookups)
}

func (k *known) remove(id, lookups uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.lookups[id]; now > lookups {
		k.lookups[id] = now - lookups
	} else {
		delete(k.lookups, id)
	}
}
