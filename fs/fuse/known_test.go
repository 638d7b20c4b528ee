//go:build linux || freebsd || darwin

package fuse

import "testing"

// TestKnown: what the kernel is asked to let go of is what it knows and has known longest, and one prune is enough for what is new.
func TestKnown(t *testing.T) {
	k := newKnown(nil)
	prunes := 0
	for id := range uint64(maxKnown + 1) {
		if k.add(id + 1) {
			prunes++
		}
	}
	if prunes != 1 {
		t.Errorf("%d prunes for one inode too many", prunes)
	}
	k.add(2) // looked up once more
	k.remove(1, 1)
	k.remove(2, 1)
	ids := k.oldest()
	if len(ids) != pruneBatch || ids[0] != 2 || ids[1] != 3 {
		t.Errorf("%d inodes to let go of, beginning with %v", len(ids), ids[:2])
	}
	for _, id := range ids[1:] { // 2 is in use
		k.remove(id, 1)
	}
	for range maxKnown / pruneBatch {
		k.oldest()
	}
	if again := k.oldest(); again[len(again)-1] == again[0] {
		t.Errorf("the same inode twice: %v", again)
	}
	if n := len(k.lookups); n != maxKnown+1-pruneBatch || len(k.order) != n {
		t.Errorf("%d inodes are known, and %d in order", n, len(k.order))
	}
	for id := range uint64(pruneEach - 1) {
		if k.add(1<<40 + id) {
			t.Fatalf("a prune after %d new inodes", id)
		}
	}
	if !k.add(1 << 50) {
		t.Error("no prune when there are too many again")
	}
}

// TestKnownOrder: the order does not grow with what the kernel forgets by itself.
func TestKnownOrder(t *testing.T) {
	k := newKnown(nil)
	for id := range uint64(5 * maxKnown) {
		k.add(id + 1)
		k.remove(id+1, 1)
	}
	if len(k.order) > 2*maxKnown {
		t.Errorf("%d inodes in order, and none is known", len(k.order))
	}
}

func TestDevice(t *testing.T) {
	for _, test := range []struct{ major, minor, want uint32 }{
		{0, 0, 0}, {1, 3, 0x103}, {8, 255, 0x8ff}, {8, 256, 0x100800}, {0xfff, 0xfffff, 0xffffffff}, {259, 70_000, 0x11110370},
	} {
		if got := device(test.major, test.minor); got != test.want {
			t.Errorf("device %d:%d is %#x, not %#x", test.major, test.minor, got, test.want)
		}
	}
}
