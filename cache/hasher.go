package cache

import (
	"fmt"
	"hash"

	"github.com/opencontainers/go-digest"
)

// How much is received, hashed and written at a time if that much is there, in bytes, and in how many buffers.
const (
	chunk   = 512 << 10
	buffers = 4
)

// hasher hashes beside the transfer, which would wait for it as long as it does for all else.
type hasher struct {
	alg  digest.Algorithm
	hash hash.Hash
	free chan []byte // to be filled
	full chan []byte // to be hashed, in order
	done chan struct{}
}

func newHasher(alg digest.Algorithm) *hasher {
	h := &hasher{
		alg: alg, hash: alg.Hash(), free: make(chan []byte, buffers), full: make(chan []byte, buffers), done: make(chan struct{}),
	}
	for range buffers {
		h.free <- make([]byte, chunk)
	}
	go h.run()
	return h
}

func (h *hasher) run() {
	defer close(h.done)
	for p := range h.full {
		h.hash.Write(p)
		h.free <- p[:chunk]
	}
}

// buffer is one to fill. It goes back with add.
func (h *hasher) buffer() []byte { return <-h.free }

// add hashes the beginning of a buffer.
func (h *hasher) add(p []byte) { h.full <- p }

// finish ends the hashing, and is the digest of all that was added.
func (h *hasher) finish() string {
	close(h.full)
	<-h.done
	return fmt.Sprintf("%s:%x", h.alg, h.hash.Sum(nil))
}
