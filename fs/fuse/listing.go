//go:build linux || freebsd || darwin

package fuse

import (
	"context"
	"syscall"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/regfs/regfs/fs"
)

// listing is an open folder: its entries are drawn from the tree beside the kernel's asking for them, a few ahead. An interrupt
// ends the waiting and loses none.
type listing struct {
	n *node
	// cancel and batches are nil until the listing begins.
	cancel  context.CancelFunc
	batches chan []drawn
	// pending are entries to give before those that come.
	pending []drawn
	err     error // how the listing broke off
	// dotted: the folder's own two entries were added.
	dotted bool
	// request is the one that is being answered, and given whether it got entries.
	request context.Context
	given   bool
}

// drawn is an entry, or why there are no more.
type drawn struct {
	fs.Entry
	err error
}

// ahead is how many entries are drawn at the most before they are asked for.
const ahead = 1024

var (
	_ gofs.FileReaddirenter = (*listing)(nil)
	_ gofs.FileSeekdirer    = (*listing)(nil)
	_ gofs.FileReleasedirer = (*listing)(nil)
)

// OpendirHandle begins the listing, so that a folder that can't be listed can't be opened: the C library takes ENOENT later
// on for the end of the folder. What the kernel has whole, and mostly will not ask for again, is not begun before it does.
func (n *node) OpendirHandle(ctx context.Context, _ uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	l := &listing{n: n}
	if !n.isListed() {
		if err := l.wait(ctx); err != nil {
			l.end()
			return nil, 0, n.fail("list", "", err)
		}
	}
	if n.sealed {
		return l, fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE, 0
	}
	return l, 0, 0
}

// isListed tells whether the kernel may have the whole folder.
func (n *node) isListed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listed
}

func (n *node) setListed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listed = n.sealed
}

// start begins the listing. It goes on from request to request, so it lives in a context of its own, for the same caller.
func (l *listing) start(ctx context.Context) {
	own, cancel := context.WithCancel(detach(ctx))
	l.cancel, l.batches = cancel, make(chan []drawn)
	go draw(own, l.n.n, l.batches)
}

// draw lists a folder into a channel, until the end or the context's. Who waits gets what there is; else it gathers.
func draw(ctx context.Context, n fs.Node, batches chan<- []drawn) {
	defer close(batches)
	var batch []drawn
	for e, err := range n.List(ctx) {
		batch = append(batch, drawn{e, err})
		select {
		case batches <- batch:
			batch = nil
		default:
		}
		if len(batch) < ahead {
			continue
		}
		if !hand(ctx, batches, batch) {
			return
		}
		batch = nil
	}
	if len(batch) > 0 {
		hand(ctx, batches, batch)
	}
}

// hand waits until somebody takes the batch.
func hand(ctx context.Context, batches chan<- []drawn, batch []drawn) bool {
	select {
	case batches <- batch:
		return true
	case <-ctx.Done():
		return false
	}
}

// wait waits until entries are pending, or the listing is at its end. It begins one that has not begun; one that broke off stays so.
func (l *listing) wait(ctx context.Context) error {
	if l.batches == nil && len(l.pending) == 0 {
		l.start(ctx)
	}
	for len(l.pending) == 0 && l.err == nil {
		select {
		case batch, ok := <-l.batches:
			if !ok {
				return nil
			}
			l.pending = batch
		case <-ctx.Done():
			return context.Canceled
		}
	}
	if l.err == nil && l.pending[0].err != nil {
		l.err = l.pending[0].err
	}
	return l.err
}

// dots are the two entries that every folder has beside its own: itself, and the one above.
func (n *node) dots() []drawn {
	self := n.StableAttr().Ino
	above := self
	if _, parent := n.Parent(); parent != nil {
		above = parent.StableAttr().Ino
	}
	return []drawn{{fs.Entry{Name: ".", Ino: self, Type: syscall.S_IFDIR}, nil}, {fs.Entry{Name: "..", Ino: above, Type: syscall.S_IFDIR}, nil}}
}

// detach keeps of a request's context who asked. go-fuse uses the rest again for other requests.
func detach(ctx context.Context) context.Context {
	if c, ok := fuse.FromContext(ctx); ok {
		return fs.WithCaller(context.Background(), c.Pid)
	}
	return context.Background()
}

// next is the next entry, if there is one.
func (l *listing) next(ctx context.Context) (e fs.Entry, ok bool, err error) {
	if err := l.wait(ctx); err != nil || len(l.pending) == 0 {
		return fs.Entry{}, false, err
	}
	e = l.pending[0].Entry
	l.pending = l.pending[1:]
	return e, true, nil
}

// Readdirent is the next entry. An error waits for the next request, if this one has entries already: go-fuse would remember
// it beyond that, and lose an entry for it later.
func (l *listing) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	if l.request != ctx {
		l.request, l.given = ctx, false
	}
	if !l.dotted {
		l.dotted, l.pending = true, append(l.n.dots(), l.pending...)
	}
	e, ok, err := l.next(ctx)
	if err != nil && !l.given {
		return nil, midway(l.n.fail("list", "", err))
	}
	if !ok {
		if err == nil {
			l.n.setListed()
		}
		return nil, 0
	}
	l.given = true
	return &fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Type}, 0
}

// midway is the errno of a listing that breaks off, which must not look like its end.
func midway(e syscall.Errno) syscall.Errno {
	if e == syscall.ENOENT {
		return syscall.EIO
	}
	return e
}

// Seekdir goes to the entry after the first off: back to the start and forward again, as rewinddir(3) mostly wants.
func (l *listing) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	l.end()
	l.batches, l.err = nil, nil
	l.dotted, l.pending = true, l.n.dots()
	for range off {
		_, ok, err := l.next(ctx)
		if err != nil {
			return midway(l.n.fail("list", "", err))
		}
		if !ok {
			return 0 // who seeks past the end finds the end
		}
	}
	return 0
}

// end stops the drawing, if it has begun, and waits for its end.
func (l *listing) end() {
	if l.batches == nil {
		return
	}
	l.cancel()
	for range l.batches {
	}
}

func (l *listing) Releasedir(context.Context, uint32) { l.end() }
