package fs

import (
	"bytes"
	"context"
	"os"
	"sync"
	"time"

	"github.com/regfs/regfs/fs/stage"
)

// writers are who changed a staging, and their parents: all of these see it, and so do their children.
type writers struct {
	mu sync.Mutex
	m  map[*stage.Staging]map[process]bool
}

// maxWriters is how many stagings' writers are remembered, and how many of each.
const maxWriters = 1 << 14

func newWriters() *writers { return &writers{m: map[*stage.Staging]map[process]bool{}} }

func (w *writers) add(ctx context.Context, l *stage.Staging) {
	who, parent := callerOf(ctx), parentOf(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m[l] == nil {
		if len(w.m) > 64 {
			w.sweep()
		}
		w.m[l] = map[process]bool{}
	}
	if len(w.m[l]) < maxWriters {
		w.m[l][who] = true
	}
	if parent != (process{}) {
		w.m[l][parent] = true
	}
}

// sweep forgets stagings that ended. The lock is held.
func (w *writers) sweep() {
	for l := range w.m {
		if l.Ended() {
			delete(w.m, l)
		}
	}
}

func (w *writers) sees(ctx context.Context, l *stage.Staging) bool {
	who := callerOf(ctx)
	w.mu.Lock()
	sees, nobody := w.m[l][who], len(w.m[l]) == 0
	w.mu.Unlock()
	if sees || nobody {
		return sees
	}
	parent := parentOf(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	return parent != (process{}) && w.m[l][parent]
}

// parentOfProcess finds the process that started another one; none where that is not known, or is the one that adopts orphans, or
// is the daemon itself.
func parentOfProcess(who process) process {
	status, err := os.ReadFile("/proc/" + who.pid + "/status")
	if err != nil {
		return process{}
	}
	_, rest, ok := bytes.Cut(status, []byte("\nPPid:\t"))
	if !ok {
		return process{}
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	if pid := string(line); pid != "0" && pid != "1" {
		return process{pid, startTime(pid)}
	}
	return process{}
}

// intents are who was just told to look a name up again, because the file it stood for can't be written to: the next lookup may
// find one that can.
type intents struct {
	mu sync.Mutex
	m  map[intent]time.Time
}

// intent is of one thread, for it does one thing at a time.
type intent struct {
	tid uint32
	ino uint64
}

// intentLife is how long an intent counts: the kernel comes back at once.
const intentLife = 5 * time.Second

func newIntents() *intents { return &intents{m: map[intent]time.Time{}} }

// Intend notes that who asks wants to write to the file of that inode, which is fixed, and tells whether looking its name up again
// may help: it does not a second time.
func (t *Tree) Intend(ctx context.Context, ino uint64) bool {
	key := intent{tidOf(ctx), ino}
	t.intents.mu.Lock()
	defer t.intents.mu.Unlock()
	for old, at := range t.intents.m {
		if time.Since(at) > intentLife {
			delete(t.intents.m, old)
		}
	}
	if _, again := t.intents.m[key]; again {
		delete(t.intents.m, key)
		return false
	}
	t.intents.m[key] = time.Now()
	return true
}

// intends tells whether who looks a name up wants to write to what it stands for.
func (t *Tree) intends(ctx context.Context, ino uint64) bool {
	key := intent{tidOf(ctx), ino}
	t.intents.mu.Lock()
	defer t.intents.mu.Unlock()
	at, ok := t.intents.m[key]
	if ok && time.Since(at) < intentLife {
		delete(t.intents.m, key)
		return true
	}
	return false
}
