//go:build linux || freebsd || darwin

package fuse

import (
	"slices"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// known is a file system that has the kernel let go of inodes when there are too many: each that the kernel remembers takes half a
// kilobyte here, and a tree can have millions. The oldest that nobody uses go. It takes Linux 6.18; an older kernel lets go only
// of what it needs the memory of.
type known struct {
	fuse.RawFileSystem
	server *fuse.Server
	// pruning is what goes on beside the requests.
	pruning sync.WaitGroup

	mu sync.Mutex
	// lookups are how often the kernel was told of an inode and has not forgotten it yet.
	lookups map[uint64]uint64
	// order is that in which inodes came to be known. Those that are known no more are left out when it is their turn.
	order []uint64
	// fresh is how many came since the last prune began.
	fresh int
	// stuck: the kernel can't do it.
	stuck bool
}

// How many inodes the kernel may know before it is asked to let go of some, for how many new ones it is asked again, and how many
// are named at once.
const (
	maxKnown   = 70_000
	pruneEach  = 8_000
	pruneBatch = 512
)

func newKnown(inner fuse.RawFileSystem) *known {
	return &known{RawFileSystem: inner, lookups: map[uint64]uint64{}}
}

// Init implements fuse.RawFileSystem.
func (k *known) Init(server *fuse.Server) {
	k.server = server
	k.RawFileSystem.Init(server)
}

// Lookup implements fuse.RawFileSystem. Inodes that come otherwise, by making files, are few.
func (k *known) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	status := k.RawFileSystem.Lookup(cancel, header, name, out)
	if status.Ok() && out.NodeId != 0 && k.add(out.NodeId) {
		k.pruning.Go(k.prune)
	}
	return status
}

// Forget implements fuse.RawFileSystem.
func (k *known) Forget(id, lookups uint64) {
	k.remove(id, lookups)
	k.RawFileSystem.Forget(id, lookups)
}

// add counts a lookup, and tells whether it is time to prune.
func (k *known) add(id uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lookups[id]++
	if k.lookups[id] > 1 || k.stuck {
		return false
	}
	if len(k.order) >= 2*maxKnown {
		k.order = slices.DeleteFunc(k.order, func(id uint64) bool { return k.lookups[id] == 0 })
	}
	k.order = append(k.order, id)
	k.fresh++
	if len(k.lookups) <= maxKnown || k.fresh < pruneEach {
		return false
	}
	k.fresh = 0
	return true
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

// prune asks the kernel to let go of the oldest inodes, as many as are new. No request waits for it. Those in use stay, as the youngest.
func (k *known) prune() {
	for asked := 0; asked < pruneEach; asked += pruneBatch {
		if !k.server.PruneNotify(k.oldest()).Ok() {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.stuck, k.order = true, nil
			return
		}
	}
}

// oldest are the next inodes to let go of.
func (k *known) oldest() []uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	var ids []uint64
	for len(ids) < pruneBatch && len(k.order) > 0 {
		if id := k.order[0]; k.lookups[id] > 0 {
			ids = append(ids, id)
		}
		k.order = k.order[1:]
	}
	k.order = append(k.order, ids...)
	return ids
}
