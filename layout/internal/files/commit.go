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
	return Locked(ctx, folder, archivePatience, func() error {
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
	d, now, err := a.state()
	if err != nil {
		return err
	}
	m, err := newMerger(ctx, d, c)
	if err != nil {
		return err
	}
	if err = m.merge(d, now, c); err == nil {
		err = a.publish(m, now)
	}
	if err == nil {
		return a.published(m)
	}
	if m.file != d.file {
		m.draft.discard()
	}
	return err
}

// state is the draft, which is made if there is none, and the archive that is to be replaced.
func (a *Archive) state() (*draft, *snapshot, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.startDraft()
	return a.draft, a.now, err
}

// merger makes an archive of a draft and of the archive that was there.
type merger struct {
	ctx context.Context
	draft
	gone map[string]bool // what is not carried over
}

// newMerger goes on with the draft, of which only what lies behind its end changes; or, where there is room in the draft that
// something had which failed or is to go, with a new one.
func newMerger(ctx context.Context, d *draft, c Change) (*merger, error) {
	m := &merger{ctx: ctx, draft: *d, gone: map[string]bool{}}
	for _, name := range c.Remove {
		m.gone[name] = true
	}
	for _, put := range c.Put {
		m.gone[put.Name] = true
	}
	gaps := len(d.unused) > 0
	for name := range d.members {
		gaps = gaps || m.gone[name]
	}
	if !gaps {
		m.members = maps.Clone(d.members)
		return m, nil
	}
	fresh, err := newDraft(filepath.Dir(d.file.Name()))
	if err == nil {
		m.draft = *fresh
	}
	return m, err
}

func (m *merger) merge(d *draft, now *snapshot, c Change) error {
	if m.file != d.file {
		if err := m.carry(&snapshot{file: d.file, listing: &listing{members: d.members}}); err != nil {
			return err
		}
	}
	if err := m.carry(now); err != nil {
		return err
	}
	for _, put := range c.Put {
		if err := m.put(put); err != nil {
			return err
		}
	}
	return m.finish()
}

// room is what a member of a draft takes.
func (f member) room(name string) room {
	header, _ := tarHeader(name, f.link, f.size) // it worked when the member was made
	return room{f.off - int64(len(header)), f.off, f.size}
}

// carry copies what an archive has, in its order, but what is here already.
func (m *merger) carry(from *snapshot) error {
	names := slices.SortedFunc(maps.Keys(from.members), func(a, b string) int {
		return cmp.Compare(from.members[a].off, from.members[b].off)
	})
	for _, name := range names {
		f := from.members[name]
		if _, ok := m.members[name]; ok || m.gone[name] || f.odd == notRegular {
			continue
		}
		if f.odd != "" {
			return fmt.Errorf("%s is %s, and can't be kept: %w", Clean(name), f.odd, image.ErrUnsupported)
		}
		if err := m.copy(name, f, from.file); err != nil {
			return err
		}
	}
	return nil
}

// copy has the kernel copy a member.
func (m *merger) copy(name string, f member, from *os.File) error {
	to, err := m.append(name, f.link, f.size)
	if err != nil {
		return err
	}
	if _, err := m.file.Seek(to, io.SeekStart); err != nil {
		return err
	}
	if _, err := from.Seek(f.off, io.SeekStart); err != nil {
		return err
	}
	for left := f.size; left > 0; left -= copyPiece {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(m.file, from, min(left, copyPiece)); err != nil {
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

// publish puts a draft in the archive's place.
func (a *Archive) publish(m *merger, was *snapshot) error {
	if was.info != nil {
		if err := m.file.Chmod(was.info.Mode().Perm()); err != nil {
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
	old := a.draft
	a.draft = nil
	a.mu.Unlock()
	if old != nil && old.file != m.file {
		old.discard() // not before: others open what is in it
	}
	folder, err := os.Open(filepath.Dir(a.path))
	if err != nil {
		return err
	}
	return SyncFolder(folder)
}
