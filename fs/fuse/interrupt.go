//go:build linux || freebsd || darwin

package fuse

import (
	"context"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// look is how often a caller that was sent a signal is looked at again.
const look = 50 * time.Millisecond

// patient is the context of a call that may push an image. The kernel interrupts a call for any signal, also for those that mean
// nothing of the kind, as Go's scheduler sends them to its own threads: this context ends only for one that is meant to end
// the program. stop is to be called before the call returns, for its context is not to be used after that.
func patient(ctx context.Context) (own context.Context, stop func()) {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return ctx, func() {}
	}
	own, cancel := context.WithCancel(detach(ctx))
	stopped, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
		case <-stopped:
			return
		}
		for !meantToEnd(c.Pid) {
			select {
			case <-stopped:
				return
			case <-time.After(look):
			}
		}
		cancel()
	}()
	return own, func() {
		close(stopped)
		<-watched
		cancel()
	}
}
