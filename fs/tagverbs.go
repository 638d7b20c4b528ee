package fs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
)

// Mkdir makes an image folder without an image.
func (t *tags) Mkdir(ctx context.Context, name string) (Node, error) {
	if !image.ValidTag(name) {
		return nil, fmt.Errorf("%q is no tag's name: %w", name, unix.EINVAL)
	}
	if _, err := t.Lookup(ctx, name); !isMissing(err) {
		if err == nil {
			err = fmt.Errorf("tag %q: %w", name, unix.EEXIST)
		}
		return nil, err
	}
	tag := newTag(t, name)
	return tag, tag.site.change(ctx, func(l *stage.Staging) error { return l.Mkdir(stage.Top) })
}

// Symlink adds a tag for what another one names: ln -s rc tags/v1.
func (t *tags) Symlink(ctx context.Context, target, name string) (Node, error) {
	target = strings.TrimSuffix(strings.TrimPrefix(target, "./"), "/")
	if !image.ValidTag(target) || !image.ValidTag(name) {
		return nil, fmt.Errorf("a tag can stand for another one of its repository, by its name alone, and not for %q: %w", target, unix.EPERM)
	}
	if err := t.copy(ctx, target, name); err != nil {
		return nil, err
	}
	return &link{file{}, t.repo.tree.ino(t.path, name, "link")}, nil
}

// link is what a new tag is for a moment: a link, for that was asked for. Who looks again finds an image folder.
type link struct {
	file
	ino uint64
}

func (l *link) Attr(context.Context) (Attr, error) { return Attr{Ino: l.ino, Mode: linkMode}, nil }

func (l *link) Open(context.Context) (image.Blob, error) { return nil, image.ErrNotFound }

// copy has a tag name what another one names now.
func (t *tags) copy(ctx context.Context, from, to string) error {
	d, raw, err := t.repo.src.Manifest(ctx, from)
	if err != nil {
		return err
	}
	sink, err := t.repo.host.Sink(ctx, t.repo.at.Name)
	if err != nil {
		return err
	}
	defer sink.Close()
	// Nobody could tell what an interrupted one did.
	if err := sink.Tag(context.WithoutCancel(ctx), d, raw, to); err != nil {
		return err
	}
	t.repo.tree.pins.move(callerOf(ctx), t.repo.path, to, d)
	return nil
}

// Rmdir deletes a tag, and nothing else; or drops a folder that has no image and nothing in it.
func (t *tags) Rmdir(ctx context.Context, name string) error {
	tag := newTag(t, name)
	l := tag.site.staging()
	if _, err := tag.resolve(ctx); isMissing(err) && l != nil {
		if !l.IsEmpty() {
			return fmt.Errorf("tag %q: %w", name, unix.ENOTEMPTY)
		}
		l.End()
		return nil
	} else if err != nil {
		return err
	}
	if err := t.mayDelete(ctx, tag.path); err != nil {
		return err
	}
	return t.delete(ctx, name)
}

// mayDelete tells why nothing may be deleted. Who was just refused the files in a folder goes on with the folder itself, as find
// -delete does, and means no tag by it.
func (t *tags) mayDelete(ctx context.Context, path string) error {
	if !t.repo.tree.o.AllowDelete {
		return fmt.Errorf("tags are deleted only in a mount with --allow-delete: %w", unix.EPERM)
	}
	if t.repo.tree.refusals.has(callerOf(ctx), path) {
		return fmt.Errorf("its files can't be removed: use rmdir alone: %w", unix.ENOTEMPTY)
	}
	return nil
}

func (t *tags) delete(ctx context.Context, name string) error {
	sink, err := t.repo.host.Sink(ctx, t.repo.at.Name)
	if err != nil {
		return err
	}
	defer sink.Close()
	if err := sink.Delete(context.WithoutCancel(ctx), name); err != nil {
		return err
	}
	t.repo.tree.pins.forget(callerOf(ctx), t.repo.path, name)
	t.repo.tree.known.remove(t.path)
	return nil
}

// Rename renames a tag: it adds the new name, then deletes the old one, so that there are never fewer than one. Where tags can't
// be deleted, nothing has changed.
func (t *tags) Rename(ctx context.Context, name string, to Node, newName string, _ bool) error {
	dest, ok := to.(*tags)
	if !ok || dest.repo.at != t.repo.at {
		return fmt.Errorf("a tag is renamed within its repository: %w", image.ErrUnsupported)
	}
	if !image.ValidTag(newName) {
		return fmt.Errorf("%q is no tag's name: %w", newName, unix.EINVAL)
	}
	tag := newTag(t, name)
	if _, err := tag.resolve(ctx); isMissing(err) && tag.site.staging() != nil {
		return fmt.Errorf("tag %q is not pushed yet: %w", name, image.ErrUnsupported)
	} else if err != nil {
		return err
	}
	if _, err := t.Lookup(ctx, newName); !isMissing(err) {
		if err == nil {
			err = fmt.Errorf("tag %q: %w", newName, unix.EEXIST)
		}
		return err
	}
	if err := t.mayDelete(ctx, tag.path); err != nil {
		return err
	}
	if err := t.canDelete(ctx); err != nil {
		return err
	}
	if err := t.copy(ctx, name, newName); err != nil {
		return err
	}
	return t.delete(ctx, name)
}

// canDelete asks whether the registry can delete tags, by deleting one that there is none of.
func (t *tags) canDelete(ctx context.Context) error {
	sink, err := t.repo.host.Sink(ctx, t.repo.at.Name)
	if err != nil {
		return err
	}
	defer sink.Close()
	err = sink.Delete(ctx, "regfs-asks-"+strings.ToLower(rand.Text()))
	if errors.Is(err, image.ErrNotFound) {
		return nil
	}
	return err
}

// Rmdir deletes a manifest, and with it all tags that name it.
func (g *digests) Rmdir(ctx context.Context, name string) error {
	t := newTags(g.repo)
	if err := t.mayDelete(ctx, g.path+"/"+name); err != nil {
		return err
	}
	if _, err := g.Lookup(ctx, name); err != nil {
		return err
	}
	return t.delete(ctx, name)
}

// refusals are who was refused to remove files, and in which image folder.
type refusals struct {
	mu sync.Mutex
	m  map[refusal]time.Time
}

type refusal struct {
	who  process
	path string
}

// refusalLife is how long a refusal counts.
const refusalLife = time.Minute

func newRefusals() *refusals { return &refusals{m: map[refusal]time.Time{}} }

func (r *refusals) add(who process, path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for old, at := range r.m {
		if time.Since(at) > refusalLife {
			delete(r.m, old)
		}
	}
	r.m[refusal{who, path}] = time.Now()
}

func (r *refusals) has(who process, path string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.m[refusal{who, path}]
	return ok && time.Since(at) < refusalLife
}
