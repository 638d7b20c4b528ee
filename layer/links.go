package layer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"

	"github.com/regfs/regfs/image"
)

const (
	// maxForeign is how many hard links to lower layers are counted in one root filesystem.
	maxForeign = 1 << 14
	// maxNamed is how many names a report gives.
	maxNamed = 3
)

// links are the hard links to files of lower layers that are seen. They are rare; most layers have none.
type links struct {
	// turn is held by who takes them in.
	turn chan struct{}
	mu   sync.Mutex
	// upTo is the lowest layer whose links are in, as are those of all above.
	upTo int
	to   map[part]linked
	n    int
}

// linked is what links do for a file.
type linked struct {
	// names is how many links to it are seen.
	names uint32
	// path is one that the file has in its own layer.
	path string
}

// find tells the links to a file from the layers above its own.
func (l *links) find(ctx context.Context, m *merge, p part) (linked, error) {
	if err := l.take(ctx, m, p.layer+1); err != nil {
		return linked{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to[p], nil
}

func (l *links) has(layer int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.upTo <= layer
}

// take takes in the links of the layers from "layer" up. All of these were needed before, to get down there.
func (l *links) take(ctx context.Context, m *merge, layer int) error {
	if l.has(layer) {
		return nil
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for l.upTo > layer {
		t := taking{m: m, layer: l.upTo - 1, room: maxForeign - l.n}
		if err := t.all(ctx); err != nil {
			return err
		}
		l.add(t)
		t.report()
	}
	return nil
}

func (l *links) add(t taking) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.upTo--
	for _, found := range t.found {
		if l.to == nil {
			l.to = map[part]linked{}
		}
		l.to[found.part] = linked{l.to[found.part].names + 1, found.path}
	}
	l.n += len(t.found)
}

// taking goes through the links of one layer.
type taking struct {
	m     *merge
	layer int
	// room is how many may be found.
	room  int
	found []foundLink
	// lost are the first links to nowhere, and missing is how many there are.
	lost    []string
	missing int
	full    bool
}

// foundLink is the file that a link leads to, and its path.
type foundLink struct {
	part
	path string
}

func (t *taking) all(ctx context.Context) error {
	f, err := t.m.open(ctx, t.layer)
	if err != nil {
		return err
	}
	defer f.release()
	for link, err := range f.foreign() {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = t.one(ctx, link)
		}
		if err != nil || t.full {
			return err
		}
	}
	return nil
}

// one takes in a link, if it is seen.
func (t *taking) one(ctx context.Context, link foreignLink) error {
	n, rest, err := t.m.root().walk(ctx, link.path)
	if errors.Is(err, image.ErrNotFound) || err == nil && (rest != "" || n.layer != t.layer || !isForeign(n.typ)) {
		return nil
	}
	if err != nil {
		return err
	}
	to, path, err := t.m.target(ctx, n)
	if errors.Is(err, image.ErrNotFound) {
		if t.missing++; t.missing <= maxNamed {
			t.lost = append(t.lost, link.path)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if t.full = len(t.found) == t.room; !t.full {
		t.found = append(t.found, foundLink{to.part, path})
	}
	return nil
}

func (t *taking) report() {
	if t.missing > 0 {
		names := make([]string, len(t.lost))
		for i, path := range t.lost {
			names[i] = fmt.Sprintf("%q", path)
		}
		more := ""
		if n := t.missing - len(t.lost); n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		t.m.report(t.layer, "hard links to files that no lower layer has are left out: "+strings.Join(names, ", ")+more)
	}
	if t.full {
		t.m.report(t.layer, fmt.Sprintf("of the hard links to lower layers, only %d are counted as links", maxForeign))
	}
}

// count is how many names of a file are seen; own is how many its layer has.
func (m *merge) count(ctx context.Context, p part, own uint32) (uint32, error) {
	from, err := m.links.find(ctx, m, p)
	if err != nil {
		return 0, err
	}
	if own <= 1 && from.names == 0 {
		return 1, nil
	}
	n, err := m.counts.get(p.number(), func() (uint32, error) { return m.countOwn(ctx, p, own, from.path) })
	return max(n+from.names, 1), err
}

// countOwn is how many names that a file has in its layer are seen. If it has only one, it is path.
func (m *merge) countOwn(ctx context.Context, p part, own uint32, path string) (uint32, error) {
	f, err := m.open(ctx, p.layer)
	if err != nil {
		return 0, err
	}
	defer f.release()
	names := f.paths(p.ino)
	if own <= 1 {
		names = one(path)
	}
	return countSeen(ctx, names, func(path string) (bool, error) {
		n, rest, err := m.root().walk(ctx, path)
		return err == nil && rest == "" && n.folder == nil && n.part == p, err
	})
}

func one(path string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield(path, nil) }
}
