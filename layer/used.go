package layer

import (
	"errors"
	"iter"
)

var _ files = (*used)(nil)

// maxWorn is how often an index is made again because it is damaged. One that is damaged more often is on a broken disk.
const maxWorn = 3

// judge passes an error on. An index that turns out to be damaged is not opened again, but made anew for whoever comes next.
func (u *used) judge(err error) error {
	if !errors.Is(err, errDamaged) {
		return err
	}
	u.l.mu.Lock()
	defer u.l.mu.Unlock()
	if name := u.o.name; u.l.live[name] == u.o && u.l.worn[name] < maxWorn {
		delete(u.l.live, name)
		u.o.gone = true
		u.l.worn[name]++
		u.l.stale[name] = true
	}
	return err
}

// isStale tells whether what is kept as an index is known to be damaged.
func (l *Layers) isStale(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stale[name]
}

// renewed notes that an index was made.
func (l *Layers) renewed(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.stale, name)
}

func (u *used) stat(ino inode) (Info, error) {
	info, err := u.index.stat(ino)
	return info, u.judge(err)
}

func (u *used) xattrs(ino inode) (map[string]string, error) {
	all, err := u.index.xattrs(ino)
	return all, u.judge(err)
}

func (u *used) lookup(dir inode, name string) (Entry, error) {
	e, err := u.index.lookup(dir, name)
	return e, u.judge(err)
}

func (u *used) list(dir inode, from string) iter.Seq2[Entry, error] {
	return judged(u, u.index.list(dir, from))
}

func (u *used) paths(ino inode) iter.Seq2[string, error] { return judged(u, u.index.paths(ino)) }

func (u *used) foreign() iter.Seq2[foreignLink, error] { return judged(u, u.index.foreign()) }

func judged[T any](u *used, all iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for v, err := range all {
			if !yield(v, u.judge(err)) {
				return
			}
		}
	}
}
