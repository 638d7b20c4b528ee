package fs

import (
	"context"
	"sync"
	"time"
)

// fresh are the folders that a process has made and not listed yet. It knows what is in them, for it put all of that there, and
// mostly says so (O_EXCL): the image that its last file completed must not fill the rest of the names in under its hands. So of a
// fresh folder its maker sees only what it made.
type fresh struct {
	mu    sync.Mutex
	m     map[freshKey]*freshFolder
	swept time.Time
}

type freshKey struct {
	who  process
	path string
}

type freshFolder struct {
	names map[string]bool
	last  time.Time
}

// freshLife is how long a folder that its maker leaves alone stays fresh.
const freshLife = time.Minute

func newFresh() *fresh { return &fresh{m: map[freshKey]*freshFolder{}} }

// made notes that who asks made a folder.
func (f *fresh) made(ctx context.Context, path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweep()
	f.m[freshKey{callerOf(ctx), path}] = &freshFolder{map[string]bool{}, time.Now()}
}

// put notes that who asks put something into a folder.
func (f *fresh) put(ctx context.Context, path, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.m[freshKey{callerOf(ctx), path}]; e != nil {
		e.names[name] = true
		e.last = time.Now()
	}
}

// hides tells whether a name that is published in a folder does not show for who asks.
func (f *fresh) hides(ctx context.Context, path, name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.m) == 0 {
		return false
	}
	e := f.m[freshKey{callerOf(ctx), path}]
	if e == nil {
		return false
	}
	if time.Since(e.last) > freshLife {
		return false
	}
	e.last = time.Now()
	return !e.names[name]
}

// listed notes that who asks has listed a folder, and so knows what is in it.
func (f *fresh) listed(ctx context.Context, path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.m) > 0 {
		delete(f.m, freshKey{callerOf(ctx), path})
	}
}

// sweep forgets what is not fresh any more. The lock is held.
func (f *fresh) sweep() {
	if time.Since(f.swept) < freshLife/2 {
		return
	}
	f.swept = time.Now()
	for key, e := range f.m {
		if time.Since(e.last) > freshLife {
			delete(f.m, key)
		}
	}
}
