package stage

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/regfs/regfs/image"
)

// ErrGone says that the staging ended while somebody was about to use it: begin a new one.
var ErrGone = fmt.Errorf("the staging has ended: %w", image.ErrNotFound)

// IsEmpty tells whether nothing is staged but the image folder itself.
func (l *Staging) IsEmpty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.hasBelow(Top)
}

// Ended tells whether the staging is over.
func (l *Staging) Ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gone
}

// End throws the staging away, and returns when nothing is left of it.
func (l *Staging) End() {
	l.mu.Lock()
	ends := l.finish()
	l.mu.Unlock()
	ends()
}

// finish ends the staging: nothing is changed in it from now on. What it returns is to be called without the lock, and clears up. The
// lock is held.
func (l *Staging) finish() (clearUp func()) {
	if l.gone {
		return func() {}
	}
	l.gone = true
	l.die()
	last := l.status()
	var files []*File
	for _, n := range l.names {
		if n.file != nil {
			files = append(files, n.file)
		}
	}
	l.names = map[string]*name{}
	uploads := slices.Collect(maps.Values(l.uploads))
	for _, u := range uploads {
		u.cancel()
	}
	return func() {
		for _, f := range files {
			f.unlinked()
		}
		if !l.store.spawn(func() { l.letGoSink(uploads) }) {
			_ = l.closeSink() // the mount ends, and its places with it
		}
		l.erase()
		l.store.remove(l, last)
		close(l.over)
	}
}

// letGoSink closes the sink when the uploads and the push that may be on their way have ended.
func (l *Staging) letGoSink(uploads []*upload) {
	for _, u := range uploads {
		select {
		case <-u.done:
		case <-l.store.ctx.Done():
		}
	}
	l.pushing <- struct{}{}
	defer func() { <-l.pushing }()
	if err := l.closeSink(); err != nil {
		l.store.o.Log.Warn("what was pushed to can't be closed", "image", l.site.String(), "error", err)
	}
}

// Over is closed when nothing is left of a staging that ended, so that another one can begin.
func (l *Staging) Over() <-chan struct{} { return l.over }

// erase removes the staging from the disk.
func (l *Staging) erase() {
	_ = l.close()
	if err := os.RemoveAll(l.dir); err != nil {
		l.store.o.Log.Warn("what was staged can't be removed", "folder", l.dir, "error", err)
	}
}

func (l *Staging) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.journal == nil {
		return nil
	}
	err := l.journal.Close()
	l.journal = nil
	return err
}

// rest looks at a staging that may have been left alone: one with nothing but hidden names is dropped, and one that is pushed and has
// only folders left, such as a client's for its temporary files; one that is not finished is told of, once.
func (l *Staging) rest(silence time.Duration) {
	l.mu.Lock()
	if l.gone || time.Since(l.last) < silence {
		l.mu.Unlock()
		return
	}
	folders, files := l.has(Folder), l.has(Regular)
	empty := !files && (l.has(Hidden) && !folders || l.report.state == Pushed)
	tell := !l.warned && !empty
	l.warned = true
	ends := func() {}
	if empty {
		ends = l.finish()
	}
	l.mu.Unlock()
	ends()
	if status := l.Status(); tell && (status.State == Writing || status.State == Broken) {
		l.store.o.Log.Warn("an image is not pushed yet and nobody writes to it", "image", l.site.String(), "why", status.reason())
	}
}

// has tells whether a name of that kind is staged. The lock is held.
func (l *Staging) has(kind Kind) bool {
	for _, n := range l.names {
		if n.kind == kind {
			return true
		}
	}
	return false
}
