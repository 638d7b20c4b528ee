package fs

import (
	"sync"
	"time"
)

// names are the tags that a listing showed not long ago, so that stat(2) of each costs no request. Only hashes are kept.
type names struct {
	idle time.Duration // how long they count after the last one came
	mu   sync.Mutex
	seen map[uint64]struct{}
	last time.Time
}

// maxNames is how many tags of one listing are remembered. A lookup of one beyond asks for it.
const maxNames = 500_000

// nameCost is about what one takes in memory, in bytes.
const nameCost = 16

func newNames(idle time.Duration) *names { return &names{idle: idle, seen: map[uint64]struct{}{}} }

func (n *names) add(hash uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.seen) < maxNames {
		n.seen[hash] = struct{}{}
	}
	n.last = time.Now()
}

func (n *names) has(hash uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.seen[hash]
	return ok && time.Since(n.last) < n.idle
}

func (n *names) cost() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return nameCost * (len(n.seen) + 16)
}
