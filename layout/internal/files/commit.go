package files

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// Edit implements Files.
func (a *Archive) Edit(ctx context.Context, fn func() (Change, error)) error {
	if err := a.writing.Acquire(ctx, writers); err != nil {
		return err
	}
	defer a.writing.Release(writers)
	folder, err := os.Open(filepath.Dir(a.path))
	if err != nil {
		return err
	}
	return Locked(ctx, folder, func() error {
		c, err := fn()
		if err != nil || c.Empty() {
			return err
		}
		return a.commit(ctx, c)
	})
}

// commit makes the draft the archive. If that fails, the draft is as it was.
func (a *Archive) commit(ctx context.Context, c Change) error {
	if err := a.refresh(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	err := a.startDraft()
	d, now := a.draft, a.now
	a.mu.Unlock()
	if err != nil {
		return err
	}
	m := &merger{ctx: ctx, draft: *d, from: now, gone: map[string]bool{}}
	m.members, m.unused = maps.Clone(d.members), slices.Clone(d.unused)
	if err := m.merge(c); err != nil {
		return err
	}
	if err := a.publish(m); err != nil {
		return err
	}
	return a.published(m)
}

// merger completes a draft. Of the one it was made of it changes nothing but headers and what lies behind its end.
type merger struct {
	ctx context.Context
	draft
	from *snapshot
	gone map[string]bool // what is not carried over
}

func (m *merger) merge(c Change) error {
	for _, name := range c.Remove {
		m.drop(name)
	}
	for _, put := range c.Put {
		m.drop(put.Name)
	}
	for name := range m.members {
		m.gone[name] = true // it is here already
	}
	if err := m.carry(); err != nil {
		return err
	}
	for _, put := range c.Put {
		if err := m.put(put); err != nil {
			return err
		}
	}
	return m.finish()
}

// drop takes a member out. Its room stays: the draft it is of may have to be used again.
func (m *merger) drop(name string) {
	m.gone[name] = true
	f, ok := m.members[name]
	if !ok {
		return
	}
	delete(m.members, name)
	m.unused = append(m.unused, f.room(name))
}

// room is what a member of a draft takes, and header what it begins with.
func (f member) room(name string) room {
	header, _ := tarHeader(name, f.link, f.size) // it worked when the member was made
	return room{f.off - int64(len(header)), f.off, f.size}
}

// carry copies what the archive had, in its order.
func (m *merger) carry() error {
	names := slices.SortedFunc(maps.Keys(m.from.members), func(a, b string) int {
		return cmp.Compare(m.from.members[a].off, m.from.members[b].off)
	})
	for _, name := range names {
		f := m.from.members[name]
		if m.gone[name] || f.odd == notRegular {
			continue
		}
		if f.odd != "" {
			return fmt.Errorf("%s is %s, and can't be kept: %w", Clean(name), f.odd, image.ErrUnsupported)
		}
		if err := m.copy(name, f); err != nil {
			return err
		}
	}
	return nil
}

// copy has the kernel copy a member.
func (m *merger) copy(name string, f member) error {
	to, err := m.append(name, f.link, f.size)
	if err != nil {
		return err
	}
	if _, err := m.file.Seek(to, io.SeekStart); err != nil {
		return err
	}
	if _, err := m.from.file.Seek(f.off, io.SeekStart); err != nil {
		return err
	}
	for left := f.size; left > 0; left -= copyPiece {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(m.file, m.from.file, min(left, copyPiece)); err != nil {
			return fmt.Errorf("copy %s: %w", Clean(name), err)
		}
	}
	return nil
}

// copyPiece is how much is copied before the context is asked, in bytes.
const copyPiece = 64 << 20

func (m *merger) put(c Content) error {
	off, err := m.append(c.Name, "", int64(len(c.Data)))
	if err == nil {
		_, err = m.file.WriteAt(c.Data, off)
	}
	return err
}

// append makes room for a member, at the end, and tells where its content goes.
func (m *merger) append(name, link string, size int64) (off int64, err error) {
	header, err := tarHeader(name, link, size)
	if err != nil {
		return 0, err
	}
	r := room{m.end, m.end + int64(len(header)), size}
	m.end = r.end()
	m.members[name] = member{off: r.off, size: size, link: link}
	return r.off, nil
}

// finish writes what stands between the contents: the headers, the zeros behind each, and the end.
func (m *merger) finish() error {
	if err := m.file.Truncate(m.end + tarEnd); err != nil {
		return err
	}
	for name, f := range m.members {
		if err := m.frame(name, f.link, f.room(name)); err != nil {
			return err
		}
	}
	for i, r := range m.unused {
		if err := m.frameUnused(unusedPrefix+strconv.Itoa(i), r); err != nil {
			return err
		}
	}
	_, err := m.file.WriteAt(make([]byte, tarEnd), m.end)
	return err
}

func (m *merger) frame(name, link string, r room) error {
	header, err := tarHeader(name, link, r.size)
	if err == nil {
		_, err = m.file.WriteAt(header, r.start)
	}
	if err == nil {
		_, err = m.file.WriteAt(make([]byte, r.end()-r.off-r.size), r.off+r.size)
	}
	return err
}

// frameUnused makes a member that nobody looks for of room that was not needed.
func (m *merger) frameUnused(name string, r room) error {
	header, err := tarHeader(name, "", r.size)
	if err != nil {
		return err
	}
	end := r.end()
	r.off = r.start + int64(len(header))
	r.size = end - r.off
	return m.frame(name, "", r)
}

// publish puts a draft in the archive's place.
func (a *Archive) publish(m *merger) error {
	if m.from.info != nil {
		if err := m.file.Chmod(m.from.info.Mode().Perm()); err != nil {
			return err
		}
	}
	if err := m.file.Sync(); err != nil {
		return err
	}
	if err := m.ctx.Err(); err != nil {
		return err
	}
	return os.Rename(m.file.Name(), a.path)
}

// published goes on with the archive that was just made, which is on the disk only with its folder.
func (a *Archive) published(m *merger) error {
	info, err := m.file.Stat()
	if err != nil {
		return err
	}
	_ = unix.Flock(int(m.file.Fd()), unix.LOCK_UN) // nobody looks for a lock there any more
	a.replace(&snapshot{listing: &listing{members: m.members}, file: m.file, info: info})
	a.mu.Lock()
	a.draft = nil
	a.mu.Unlock()
	folder, err := os.Open(filepath.Dir(a.path))
	if err != nil {
		return err
	}
	return SyncFolder(folder)
}
