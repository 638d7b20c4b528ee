package fs

import (
	"context"
	"sync"
	"time"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout"
)

// pins keep what a tag named when a process first looked inside its folder, so that one process sees one version until it is
// done. A process is done with a repository when it has none of its files open and asked for nothing there for a while.
type pins struct {
	idle time.Duration
	now  func() time.Time

	mu    sync.Mutex
	m     map[pinKey]*pin
	swept time.Time

	// threads are those that asked in the last second, and whose they are.
	threads      map[uint32]process
	threadsSince time.Time
}

type pinKey struct {
	who  process
	repo string
}

type pin struct {
	tags map[string]image.Descriptor
	all  []layout.Root // what the repository's own layout holds, once asked for
	open int
	last time.Time
	// nobody: who asks can't be told from others, in another pid namespace. Pins then last from when they were made,
	// or everybody's asking would keep them for ever.
	nobody bool
}

func newPins(idle time.Duration, now func() time.Time) *pins {
	return &pins{idle: idle, now: now, m: map[pinKey]*pin{}, threads: map[uint32]process{}}
}

// touch finds a process's pins in a repository, empty if it was done with what it saw before. The lock is held.
func (p *pins) touch(who process, repo string) *pin {
	p.sweep()
	key := pinKey{who, repo}
	e := p.m[key]
	if e == nil || e.over(p.now(), p.idle) {
		e = &pin{tags: map[string]image.Descriptor{}, nobody: who.isNobody(), last: p.now()}
		p.m[key] = e
	}
	e.used(p.now())
	return e
}

// used tells that the process is not done.
func (e *pin) used(now time.Time) {
	if !e.nobody {
		e.last = now
	}
}

func (e *pin) over(now time.Time, idle time.Duration) bool {
	return (e.open == 0 || e.nobody) && now.Sub(e.last) > idle
}

// sweep forgets those who are done. The lock is held.
func (p *pins) sweep() {
	now := p.now()
	if now.Sub(p.swept) < p.idle/2 {
		return
	}
	p.swept = now
	for key, e := range p.m {
		if e.over(now, p.idle) {
			delete(p.m, key)
		}
	}
}

// pinned is what a tag is for this process, if it has looked before.
func (p *pins) pinned(who process, repo, tag string) (image.Descriptor, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, ok := p.touch(who, repo).tags[tag]
	return d, ok
}

// resolve is what a tag is for this process. At the first look it asks; of two first looks at once, one counts.
func (p *pins) resolve(ctx context.Context, who process, repo, tag string, ask func(context.Context) (image.Descriptor, error)) (image.Descriptor, error) {
	if d, ok := p.pinned(who, repo, tag); ok {
		return d, nil
	}
	d, err := ask(ctx)
	if err != nil {
		return image.Descriptor{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.touch(who, repo)
	if first, ok := e.tags[tag]; ok {
		return first, nil
	}
	e.tags[tag] = d
	return d, nil
}

// snapshot is what all tags of a repository are for this process, as resolve does for one.
func (p *pins) snapshot(ctx context.Context, who process, repo string, ask func(context.Context) ([]layout.Root, error)) ([]layout.Root, error) {
	if all := p.pinnedAll(who, repo); all != nil {
		return all, nil
	}
	all, err := ask(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.touch(who, repo)
	if e.all == nil {
		e.all = append([]layout.Root{}, all...)
	}
	return e.all, nil
}

func (p *pins) pinnedAll(who process, repo string) []layout.Root {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.touch(who, repo).all
}

// lately is who asks, or who had this thread's number up to a second ago: that is good enough to keep pins by, and takes no look
// into /proc for each of a million files.
func (p *pins) lately(ctx context.Context) process {
	tid := tidOf(ctx)
	if who, ok := p.thread(tid); ok {
		return who
	}
	who := callerOf(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.threads[tid] = who
	return who
}

func (p *pins) thread(tid uint32) (process, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.now(); now.Sub(p.threadsSince) > time.Second {
		clear(p.threads)
		p.threadsSince = now
	}
	who, ok := p.threads[tid]
	return who, ok
}

// hold keeps a process's pins in a repository for as long as a file is open, which may be longer than it asks for anything.
func (p *pins) hold(who process, repo string) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.touch(who, repo)
	e.open++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		e.open--
		e.used(p.now())
	}
}

// move makes a tag name something else for a process that has looked at it, or that has done something with it.
func (p *pins) move(who process, repo, tag string, d image.Descriptor) {
	if who == (process{}) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.touch(who, repo)
	e.tags[tag], e.all = d, nil
}

// forget makes a process look at a tag anew.
func (p *pins) forget(who process, repo, tag string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.m[pinKey{who, repo}]; e != nil {
		delete(e.tags, tag)
		e.all = nil
	}
}
