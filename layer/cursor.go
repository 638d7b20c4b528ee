package layer

import (
	"iter"
	"strings"
)

// cursor goes through a listing, and stands at one entry. It must be closed.
type cursor struct {
	Entry
	ok   bool
	next func() (Entry, error, bool)
	stop func()
}

// newCursor stands before the first entry.
func newCursor(list iter.Seq2[Entry, error]) *cursor {
	c := &cursor{}
	c.next, c.stop = iter.Pull2(list)
	return c
}

// step goes to the next entry. There is none when it is not ok.
func (c *cursor) step() (err error) {
	c.Entry, err, c.ok = c.next()
	if err != nil {
		c.ok = false
	}
	return err
}

// seek goes on to the first entry that is "name" or sorts after it.
func (c *cursor) seek(name string) error {
	for c.ok && c.Name < name {
		if err := c.step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *cursor) close() { c.stop() }

// only leaves out of a listing what keep is not true for.
func only(list iter.Seq2[Entry, error], keep func(Entry) bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range list {
			if err == nil && !keep(e) {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// unreserved lists the files of a folder that are no whiteouts.
func unreserved(f files, dir inode) iter.Seq2[Entry, error] {
	return only(f.list(dir, ""), func(e Entry) bool { return !isReserved(e.Name) })
}

// removed lists the whiteouts of a folder by what they remove, which has the same order.
func removed(f files, dir inode) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range f.list(dir, whiteoutPrefix) {
			if err == nil && !strings.HasPrefix(e.Name, whiteoutPrefix) {
				return
			}
			name, ok := removes(e.Name)
			if err == nil && !ok {
				continue
			}
			e.Name = name
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}
