package fs

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout"
)

// clock is time that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// answers is a tag that moves at every look.
type answers struct{ n int }

func (a *answers) next(context.Context) (image.Descriptor, error) {
	a.n++
	return image.Descriptor{Size: int64(a.n)}, nil
}

func TestPins(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	p := newPins(time.Minute, c.now)
	a := &answers{}
	one, two := process{"1", "100"}, process{"2", "100"}
	expect := func(what string, who process, tag string, want int64) {
		t.Helper()
		if d, err := p.resolve(t.Context(), who, "repo", tag, a.next); err != nil || d.Size != want {
			t.Errorf("%s: version %d, not %d (%v)", what, d.Size, want, err)
		}
	}
	expect("first look", one, "v1", 1)
	expect("again", one, "v1", 1)
	expect("another process", two, "v1", 2)
	expect("another tag", one, "v2", 3)
	expect("a process that was given the number again", process{"1", "200"}, "v1", 4)
	for range 5 {
		c.t = c.t.Add(50 * time.Second)
		expect("while it keeps looking", one, "v1", 1)
	}
	c.t = c.t.Add(61 * time.Second)
	expect("after it left", one, "v1", 5)

	release := p.hold(one, "repo")
	c.t = c.t.Add(time.Hour)
	expect("with a file open", one, "v1", 5)
	c.t = c.t.Add(time.Hour)
	release()
	c.t = c.t.Add(59 * time.Second)
	expect("soon after it was closed", one, "v1", 5)
	c.t = c.t.Add(61 * time.Second)
	expect("long after", one, "v1", 6)
	c.t = c.t.Add(time.Hour)
	p.pinned(one, "other", "v1")
	if len(p.m) != 1 {
		t.Errorf("%d processes are remembered that are done", len(p.m)-1)
	}
}

// TestPinsOfNobody: callers that the kernel can't tell apart must not keep a version alive for each other.
func TestPinsOfNobody(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	p := newPins(time.Minute, c.now)
	a, nobody := &answers{}, process{pid: "0"}
	defer p.hold(nobody, "repo")()
	for range 61 {
		if d, _ := p.resolve(t.Context(), nobody, "repo", "v1", a.next); d.Size != 1 {
			t.Fatalf("another version within the minute")
		}
		c.t = c.t.Add(time.Second)
	}
	if d, _ := p.resolve(t.Context(), nobody, "repo", "v1", a.next); d.Size != 2 {
		t.Errorf("the version of a minute ago, although nobody stayed")
	}
}

func TestPinsOfOneProcessAtOnce(t *testing.T) {
	p := newPins(time.Minute, time.Now)
	var mu sync.Mutex
	a := &answers{}
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			d, _ := p.resolve(t.Context(), process{}, "repo", "v1", func(ctx context.Context) (image.Descriptor, error) {
				mu.Lock()
				defer mu.Unlock()
				return a.next(ctx)
			})
			mu.Lock()
			defer mu.Unlock()
			seen[d.Size] = true
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("one process saw %d versions", len(seen))
	}
}

func TestPinsKeepNoErrors(t *testing.T) {
	p := newPins(time.Minute, time.Now)
	fails := func(context.Context) (image.Descriptor, error) { return image.Descriptor{}, image.ErrNotFound }
	if _, err := p.resolve(t.Context(), process{}, "repo", "v1", fails); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, ok := p.pinned(process{}, "repo", "v1"); ok {
		t.Error("a failure is pinned")
	}
}

func TestSnapshot(t *testing.T) {
	p := newPins(time.Minute, time.Now)
	n := 0
	ask := func(context.Context) ([]layout.Root, error) {
		n++
		return nil, nil
	}
	for range 3 {
		if _, err := p.snapshot(t.Context(), process{}, "repo", ask); err != nil {
			t.Fatal(err)
		}
	}
	if n != 1 {
		t.Errorf("an empty repository was asked for %d times", n)
	}
}

func TestCallerOf(t *testing.T) {
	self := callerOf(WithCaller(t.Context(), uint32(os.Getpid())))
	if _, err := os.Stat("/proc/self/stat"); err == nil && self.start == "" {
		t.Errorf("%+v has no start", self)
	}
	other := make(chan process)
	go func() { other <- callerOf(WithCaller(t.Context(), uint32(gettid()))) }()
	if got := <-other; got != self {
		t.Errorf("a thread of this process belongs to %+v, the process is %+v", got, self)
	}
	if got := callerOf(t.Context()); got.start != "" {
		t.Errorf("nobody is %+v", got)
	}
}

func TestMemo(t *testing.T) {
	m := newMemo[string, int](100)
	made := 0
	get := func(key string, cost int) {
		t.Helper()
		v, err := m.get(t.Context(), key, func(context.Context) (int, int, error) {
			made++
			return cost, cost, nil
		})
		if err != nil || v != cost {
			t.Errorf("%s is %d, %v", key, v, err)
		}
	}
	get("a", 40)
	get("b", 40)
	get("a", 40) // now b is the oldest
	get("c", 40)
	get("a", 40)
	if _, ok := m.peek("b"); ok || made != 3 || m.used != 80 {
		t.Errorf("made %d, use %d", made, m.used)
	}
	get("huge", 1000)
	if _, ok := m.peek("huge"); ok {
		t.Error("what is over the limit is remembered")
	}
	m.put("a", 1, 10)
	if m.used != 50 || len(m.items) != m.order.Len() {
		t.Errorf("use %d by %d items, %d in order", m.used, len(m.items), m.order.Len())
	}
}

func TestTitled(t *testing.T) {
	layer := func(mediaType, title string) image.Descriptor {
		return image.Descriptor{MediaType: mediaType, Digest: digest.FromString(title), Annotations: map[string]string{"org.opencontainers.image.title": title}}
	}
	m := &image.Manifest{Layers: []image.Descriptor{
		layer("x", "a.txt"), layer("x", "dir/b.txt"), layer("x", "../evil"), layer("x", "/etc/passwd"), layer("x", "a/../../b"), layer("x", "."),
		layer("x", "a\x00b"), layer("x", "a.txt"), layer("x", ""), {MediaType: "application/vnd.cncf.helm.chart.content.v1.tar+gzip"},
	}, Annotations: map[string]string{"org.opencontainers.image.title": "web", "org.opencontainers.image.version": "1.2"}}
	got := titled(m)
	for _, name := range []string{"a.txt", "dir/b.txt", "web-1.2.tgz"} {
		if _, ok := got[name]; !ok {
			t.Errorf("no %s in %v", name, got)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("also %v", got)
	}
	m.Annotations["org.opencontainers.image.title"] = "../../evil"
	if got := titled(m); len(got) != 2 {
		t.Errorf("a chart named out of its folder is shown: %v", got)
	}
}

func TestNested(t *testing.T) {
	tree := New(Options{})
	all := sorted([]leaf{{path: "b/c/d"}, {path: "b"}, {path: "a-b"}, {path: "a/y"}, {path: "a/x"}, {path: "z"}})
	from := func(context.Context) ([]leaf, bool, error) { return all, true, nil }
	want := map[string]bool{"a": true, "a-b": false, "b": false, "z": false}
	f := tree.folder("key", part{func(string) bool { return true }, tree.nested("key", "", from)})
	for e, err := range f.List(t.Context()) {
		if isDir, ok := want[e.Name]; err != nil || !ok || isDir != e.IsDir() {
			t.Errorf("%+v, %v", e, err)
		}
		delete(want, e.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

func TestErrorLog(t *testing.T) {
	l := &errorLog{}
	for range 5 * maxErrors {
		l.add("read", "/a\nb", errors.New("bad\r\nthing\x1b[31m"))
	}
	lines := 0
	for _, c := range l.bytes() {
		if c == '\n' {
			lines++
		} else if c < ' ' {
			t.Fatalf("a control character %d is in the log", c)
		}
	}
	if lines != maxErrors || len(l.lines) > 2*maxErrors {
		t.Errorf("%d lines shown, %d kept", lines, len(l.lines))
	}
}
