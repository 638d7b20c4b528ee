package stage

import (
	"fmt"
	"os"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// Rename moves a file or folder within the staging, as rename(2) does. With hideFrom, something is published under the old name,
// which is not to show; where exclusive, nothing is replaced.
func (l *Staging) Rename(from, to string, hideFrom, exclusive bool) error {
	l.mu.Lock()
	replaced, err := l.rename(from, to, hideFrom, exclusive)
	l.mu.Unlock()
	if err == nil && replaced != nil {
		replaced.unlinked()
	}
	return err
}

func (l *Staging) rename(from, to string, hideFrom, exclusive bool) (replaced *File, err error) {
	n, over := l.names[from], l.names[to]
	if over != nil && over.kind == Hidden {
		over = nil
	}
	if err := l.mayRename(n, over, from, to, exclusive); err != nil || from == to || over == n {
		return nil, err
	}
	if err := l.note(record{Path: from, To: to}); err != nil {
		return nil, err
	}
	l.move(from, to)
	l.wants = nil
	if from == v1.ImageIndexFile {
		l.stuck = nil
	}
	if hideFrom {
		err = l.set(from, &name{kind: Hidden})
	}
	l.changed()
	if over != nil {
		replaced = over.file
	}
	return replaced, err
}

// mayRename tells why a name can't be moved to another path, where over stands or nothing.
func (l *Staging) mayRename(n, over *name, from, to string, exclusive bool) error {
	switch {
	case l.gone:
		return ErrGone
	case n == nil || n.kind == Hidden:
		return fmt.Errorf("%s: %w", from, image.ErrNotFound)
	case below(to, from):
		return fmt.Errorf("%s into itself: %w", from, unix.EINVAL)
	case over == nil || over == n:
		return nil
	case exclusive:
		return fmt.Errorf("%s: %w", to, os.ErrExist)
	case n.kind == Folder && over.kind != Folder:
		return fmt.Errorf("%s: %w", to, unix.ENOTDIR)
	case n.kind != Folder && over.kind == Folder:
		return fmt.Errorf("%s: %w", to, unix.EISDIR)
	case over.kind == Folder && l.hasBelow(to):
		return fmt.Errorf("%s: %w", to, unix.ENOTEMPTY)
	}
	return nil
}

func (l *Staging) hasBelow(folder string) bool {
	for at, n := range l.names {
		if below(at, folder) && n.kind != Hidden {
			return true
		}
	}
	return false
}

// move renames a path and all below it. What stood in the way, hidden names too, is forgotten. The lock is held.
func (l *Staging) move(from, to string) {
	for at := range l.names {
		if at == to || below(at, to) {
			delete(l.names, at)
		}
	}
	moved := map[string]*name{}
	for at, n := range l.names {
		if at == from || below(at, from) {
			moved[to+strings.TrimPrefix(at, from)] = n
			delete(l.names, at)
		}
	}
	for at, n := range moved {
		l.names[at] = n
		if n.file != nil {
			n.file.path = at
		}
	}
}
