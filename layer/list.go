package layer

import (
	"context"
	"errors"
	"iter"

	"github.com/regfs/regfs/image"
)

func (f *merged) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		l, err := f.lists(ctx)
		defer l.close()
		for err == nil {
			var e Entry
			var visible bool
			if e, visible, err = l.next(ctx, f.m); err != nil {
				break
			}
			if e.Name == "" || visible && !yield(e, nil) {
				return
			}
		}
		yield(Entry{}, err)
	}
}

// lists are the listings of the merged folders, the topmost first.
type lists []*listed

// listed is one of them: what is there, and what is removed from the lists below.
type listed struct {
	layer       int
	files       files
	there, gone *cursor
}

// lists begins to list all parts. It is to be closed, even after an error.
func (f *merged) lists(ctx context.Context) (lists, error) {
	all, err := f.all(ctx)
	if err != nil {
		return nil, err
	}
	var ls lists
	for _, p := range all {
		opened, err := f.m.open(ctx, p.layer)
		if err != nil {
			return ls, err
		}
		l := &listed{p.layer, opened, newCursor(unreserved(opened, p.ino)), newCursor(removed(opened, p.ino))}
		ls = append(ls, l)
		if err := errors.Join(l.there.step(), l.gone.step()); err != nil {
			return ls, err
		}
	}
	return ls, nil
}

func (ls lists) close() {
	for _, l := range ls {
		l.there.close()
		l.gone.close()
		l.files.release()
	}
}

// next is the next name that one of the layers has, and whether it is seen. After the last one it is "".
func (ls lists) next(ctx context.Context, m *merge) (e Entry, visible bool, err error) {
	name, ok := ls.least()
	if !ok {
		return Entry{}, false, ctx.Err()
	}
	n, visible, err := ls.top(name)
	if err == nil {
		err = ls.pass(name)
	}
	if err != nil || !visible {
		return Entry{Name: name}, false, errors.Join(err, ctx.Err())
	}
	if n, err = m.resolve(ctx, n); errors.Is(err, image.ErrNotFound) {
		return Entry{Name: name}, false, nil
	}
	return Entry{name, n.number(), n.typ}, true, err
}

// least is the name that sorts first of those that the lists stand at.
func (ls lists) least() (name string, ok bool) {
	for _, l := range ls {
		if l.there.ok && (!ok || l.there.Name < name) {
			name, ok = l.there.Name, true
		}
	}
	return name, ok
}

// top is what the topmost layer has under the name, unless one above has removed it.
func (ls lists) top(name string) (n node, visible bool, err error) {
	for _, l := range ls {
		if l.there.ok && l.there.Name == name {
			return node{part: part{l.layer, inode(l.there.Ino)}, typ: l.there.Type}, true, nil
		}
		if err := l.gone.seek(name); err != nil {
			return node{}, false, err
		}
		if l.gone.ok && l.gone.Name == name {
			return node{}, false, nil
		}
	}
	return node{}, false, nil
}

// pass steps over the name.
func (ls lists) pass(name string) error {
	for _, l := range ls {
		if l.there.ok && l.there.Name == name {
			if err := l.there.step(); err != nil {
				return err
			}
		}
	}
	return nil
}
