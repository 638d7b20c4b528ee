package layer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// numbers are the inode numbers of a tree by path.
func numbers(t *testing.T, root File) map[string]uint64 {
	t.Helper()
	of := map[string]uint64{}
	for _, f := range walkTree(t, root, "") {
		of[f.path] = f.ino
	}
	info, err := root.Stat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	of[""] = info.Ino
	return of
}

func TestNumbersStay(t *testing.T) {
	layers := [][]string{
		{"./", "a", "b => a", "d/", "d/e/", "d/e/f", "g"},
		{"d/e/h", "c => a", ".wh.g", "x/y/z"},
		{"a", "g", "d/", "d/e/i", "g2 => g"},
	}
	s := newStack(t, layers...)
	listed := numbers(t, s.root())
	again := s.root()
	for path, want := range listed { // in any order, looked up alone
		f := again
		if path != "" {
			var err error
			if f, err = lookPath(t.Context(), again, path); err != nil {
				t.Fatal(err)
			}
		}
		if info, err := f.Stat(t.Context()); err != nil || info.Ino != want {
			t.Errorf("%q has the numbers %#x and %#x (%v)", path, want, info.Ino, err)
		}
	}
	other := newStack(t, layers...)
	if diff := cmp.Diff(listed, numbers(t, other.root())); diff != "" {
		t.Error(diff)
	}
}

func TestSameLayerTwice(t *testing.T) {
	twice := []string{"a/", "a/b", "c => a/b", ".wh.a", "d"}
	s := newStack(t, twice, twice, []string{"a/e", ".wh.c"})
	want := []string{"a: folder @1", "a/b: a/b @1", "a/e: a/e @2", "d: d @1"}
	if diff := cmp.Diff(want, show(t, s.root())); diff != "" {
		t.Error(diff)
	}
}

func TestManyAtOnce(t *testing.T) {
	layers := [][]string{
		{"./", "a", "b => a", "d/", "d/e/", "d/e/f", "g"},
		{"d/e/h", "c => a", ".wh.g", "x => nowhere"},
		{"a2", "g", "d/", "d/e/i", "g2 => g"},
	}
	want := show(t, newStack(t, layers...).root())
	s := newStack(t, layers...)
	root := s.root()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if diff := cmp.Diff(want, show(t, root)); diff != "" {
				t.Error(diff)
			}
		})
	}
	all.Wait()
	if len(s.reported) != 1 {
		t.Errorf("reported: %q", s.reported)
	}
}

// Who waits for a layer that is being indexed, or for somebody who does, can leave.
func TestWaitingCanEnd(t *testing.T) {
	waiting := make(chan string)
	s := newStack(t, []string{"a", "c"}, []string{"b => a"})
	root := s.root()
	c, err := root.Lookup(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	s.before = func(ctx context.Context, n int) error {
		if n == 1 {
			waiting <- "for layer 1"
			<-ctx.Done()
		}
		return ctx.Err()
	}
	uses := map[string]func(context.Context) error{
		"lookup": func(ctx context.Context) error { _, err := root.Lookup(ctx, "d"); return err },
		"list": func(ctx context.Context) (last error) {
			for _, err := range root.List(ctx) {
				last = err
			}
			return last
		},
		"count the links": func(ctx context.Context) error { _, err := c.Stat(ctx); return err },
	}
	for name, use := range uses {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- use(ctx) }()
		<-waiting
		if name == "count the links" {
			second, leave := context.WithCancel(t.Context())
			leave()
			if err := use(second); !errors.Is(err, context.Canceled) {
				t.Errorf("%s, as the second: %v", name, err)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// More links than are counted, more names than are looked at: the files are there, and the count is roughly right.
func TestTooManyLinks(t *testing.T) {
	const many = maxForeign + 100
	base, top := []string{"a", "b"}, []string{".wh.b"}
	for i := range many {
		base = append(base, fmt.Sprintf("own/%d => a", i))
		top = append(top, fmt.Sprintf("links/%d => b", i))
	}
	s := newStack(t, base, top)
	root := s.root()
	for path, want := range map[string]uint32{"own/7": many + 1, fmt.Sprintf("links/%d", many-1): maxForeign} {
		f, err := lookPath(t.Context(), root, path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat(t.Context()); err != nil || info.Links != want {
			t.Errorf("%s has %d links, want %d (%v)", path, info.Links, want, err)
		}
	}
	if len(s.reported) != 1 || !strings.Contains(s.reported[0], "only 16384 are counted") {
		t.Errorf("reported: %q", s.reported)
	}
}
