package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
)

func components(at string) iter.Seq[string] { return strings.SplitSeq(at, "/") }

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// exists tells what a name is for who asks, and whether something is published under it, shown or not.
func (d *siteDir) exists(ctx context.Context, name string) (kind stage.Kind, published bool, err error) {
	_, attr, err := d.below(ctx, name)
	if err != nil && !isMissing(err) {
		return "", false, err
	}
	published = err == nil
	if e, ok := d.entry(ctx, name); ok {
		return e.Kind, published, nil
	}
	switch {
	case !published:
		return "", false, nil
	case attr.IsDir():
		return stage.Folder, true, nil
	}
	return stage.Regular, true, nil
}

func (d *siteDir) Mkdir(ctx context.Context, name string) (Node, error) {
	kind, _, err := d.exists(ctx, name)
	if err != nil {
		return nil, err
	}
	if kind == stage.Folder || kind == stage.Regular {
		return nil, fmt.Errorf("%s: %w", name, unix.EEXIST)
	}
	sub := d.site.folder(path.Join(d.at, name))
	blind := d.site.staged(ctx) == nil
	err = d.site.change(ctx, func(l *stage.Staging) error {
		if e, ok := l.Lookup(sub.at); ok && e.Kind == stage.Folder && blind {
			return nil // others have made it, which who asks could not see
		}
		return l.Mkdir(sub.at)
	})
	if err != nil {
		return nil, err
	}
	d.put(ctx, name)
	d.site.repo.tree.fresh.made(ctx, sub.path())
	return sub, nil
}

// put notes that who asks put a name into the folder.
func (d *siteDir) put(ctx context.Context, name string) {
	d.site.repo.tree.fresh.put(ctx, d.path(), name)
}

func (d *siteDir) Create(ctx context.Context, name string, mode uint32) (Node, File, error) {
	var w *writer
	create := d.site.creating(ctx)
	err := d.site.change(ctx, func(l *stage.Staging) error {
		f, err := create(l, path.Join(d.at, name), mode)
		if err != nil {
			return err
		}
		w, err = d.site.open(ctx, f)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	d.put(ctx, name)
	return &stagedFile{site: d.site, f: w.File}, w, nil
}

func (d *siteDir) Unlink(ctx context.Context, name string) error {
	kind, published, err := d.exists(ctx, name)
	if err != nil {
		return err
	}
	if kind == "" || kind == stage.Hidden {
		return fmt.Errorf("%s: %w", name, image.ErrNotFound)
	}
	return d.site.change(ctx, func(l *stage.Staging) error { return l.Unlink(path.Join(d.at, name), published) })
}

func (d *siteDir) Rmdir(ctx context.Context, name string) error {
	kind, published, err := d.exists(ctx, name)
	switch {
	case err != nil:
		return err
	case kind == stage.Regular:
		return fmt.Errorf("%s: %w", name, unix.ENOTDIR)
	case kind != stage.Folder:
		return fmt.Errorf("%s: %w", name, image.ErrNotFound)
	}
	sub := d.site.folder(path.Join(d.at, name))
	for _, err := range sub.List(ctx) {
		if err == nil {
			err = fmt.Errorf("%s: %w", name, unix.ENOTEMPTY)
		}
		return err
	}
	return d.site.change(ctx, func(l *stage.Staging) error { return l.Rmdir(sub.at, published) })
}

// Rename moves a name within the layout. What is published is staged first, and a published folder stays where it is: mv copies
// it then.
func (d *siteDir) Rename(ctx context.Context, name string, to Node, newName string, exclusive bool) error {
	dest, ok := to.(*siteDir)
	if !ok || dest.site.at != d.site.at {
		return fmt.Errorf("rename out of the layout: %w", unix.EXDEV)
	}
	kind, published, err := d.exists(ctx, name)
	if err != nil {
		return err
	}
	over, overPublished, err := dest.exists(ctx, newName)
	if err != nil {
		return err
	}
	_, staged := d.entry(ctx, name)
	switch {
	case kind == "" || kind == stage.Hidden:
		return fmt.Errorf("%s: %w", name, image.ErrNotFound)
	case kind == stage.Folder && (published || !staged):
		return fmt.Errorf("rename a published folder: %w", unix.EXDEV)
	}
	if err := mayReplace(newName, kind, over, overPublished, exclusive); err != nil {
		return err
	}
	if !staged {
		if err := d.adoptName(ctx, name); err != nil {
			return err
		}
	}
	dest.put(ctx, newName)
	from, at := path.Join(d.at, name), path.Join(dest.at, newName)
	return d.site.change(ctx, func(l *stage.Staging) error {
		return l.RenameAndPush(ctx, from, at, published, exclusive, d.site.view(ctx))
	})
}

// mayReplace tells why what is published under a name, if something is, can't be replaced. The staging knows of what is staged.
func mayReplace(name string, kind, over stage.Kind, published, exclusive bool) error {
	switch {
	case exclusive && (over == stage.Folder || over == stage.Regular):
		return fmt.Errorf("%s: %w", name, unix.EEXIST)
	case over == stage.Folder && kind == stage.Regular:
		return fmt.Errorf("%s: %w", name, unix.EISDIR)
	case over == stage.Folder && published:
		return fmt.Errorf("%s: %w", name, unix.ENOTEMPTY)
	case over == stage.Regular && kind == stage.Folder:
		return fmt.Errorf("%s: %w", name, unix.ENOTDIR)
	}
	return nil
}

func (d *siteDir) adoptName(ctx context.Context, name string) error {
	n, _, err := d.below(ctx, name)
	if err == nil {
		_, err = d.adopt(ctx, name, n)
	}
	return err
}

// Fsync pushes what is whole, and fails if the image is not.
func (d *siteDir) Fsync(ctx context.Context) error {
	l := d.site.staged(ctx)
	if l == nil {
		return nil
	}
	return l.Fsync(ctx, d.site.view(ctx))
}

// open opens a staged file for reading and writing.
func (s *site) open(ctx context.Context, f *stage.File) (*writer, error) {
	h, err := f.Open()
	if err != nil {
		return nil, err
	}
	if l := s.repo.tree.o.Stage.Find(s.at); l != nil {
		s.repo.tree.writers.add(ctx, l)
	}
	return &writer{h, s.view(ctx), s.repo.tree.pins.hold(callerOf(ctx), s.repo.path)}, nil
}

// writer is an open staged file.
type writer struct {
	*stage.Handle
	view    stage.View
	release func()
}

func (w *writer) Flush(ctx context.Context) error { return w.Handle.Flush(ctx, w.view) }
func (w *writer) Fsync(ctx context.Context) error { return w.Handle.Fsync(ctx, w.view) }

func (w *writer) Close() error {
	w.release()
	return w.Handle.Close()
}
