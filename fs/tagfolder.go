package fs

import (
	"context"
	"fmt"
	"iter"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
)

// staging is what is staged, whoever asks; nil for nothing.
func (s *site) staging() *stage.Staging {
	if s.repo.tree.o.Stage == nil {
		return nil
	}
	return s.repo.tree.o.Stage.Find(s.at)
}

// layout is the tag's oci-layout/ as it is published.
func (t *tag) layout(ctx context.Context) (Node, error) {
	v, err := t.resolve(ctx)
	if err != nil {
		return nil, err
	}
	return v.folder().Lookup(ctx, layoutName)
}

// Lookup finds what is staged first, then what is published. An image folder without an image has what was made in it.
func (t *tag) Lookup(ctx context.Context, name string) (Node, error) {
	if !isImageFile(name) {
		return nil, fmt.Errorf("%q: %w", name, image.ErrNotFound)
	}
	if name == layoutName {
		return t.lookupLayout(ctx)
	}
	if f := t.stagedFile(ctx, name); f != nil {
		return f, nil
	}
	n, ino, err := t.lookupPublished(ctx, name)
	if err != nil || !isVerb(name) || !t.repo.tree.intends(ctx, ino) {
		return n, err
	}
	return t.adopt(ctx, name)
}

func (t *tag) lookupPublished(ctx context.Context, name string) (Node, uint64, error) {
	v, err := t.resolve(ctx)
	if err != nil {
		return nil, 0, err
	}
	if name == digestName {
		d := t.digest()
		return d, d.ino, nil
	}
	n, err := v.folder().Lookup(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	attr, err := n.Attr(ctx)
	return n, attr.Ino, err
}

func (t *tag) lookupLayout(ctx context.Context) (Node, error) {
	l := t.site.staged(ctx)
	if l != nil {
		if e, ok := l.Lookup("."); ok && e.Kind == stage.Folder {
			return t.site.folder("."), nil
		}
		if l.Removed(".") {
			return nil, fmt.Errorf("%s: %w", layoutName, image.ErrNotFound)
		}
	}
	if _, err := t.layout(ctx); err != nil {
		return nil, err
	}
	return t.site.folder("."), nil
}

// isVerb tells the files of the image folder that do something when they are written.
func isVerb(name string) bool {
	at := "/" + name
	return at == stage.DigestFile || at == stage.ManifestFile || at == stage.IndexFile
}

// stagedFile is a file of the image folder that was written and has not done its work.
func (t *tag) stagedFile(ctx context.Context, name string) *stagedFile {
	l := t.site.staged(ctx)
	if l == nil {
		return nil
	}
	if e, ok := l.Lookup("/" + name); ok && e.Kind == stage.Regular {
		return &stagedFile{site: t.site, f: e.File}
	}
	return nil
}

// adopt makes an empty file in the place of the published one: what is written to it says something anew.
func (t *tag) adopt(ctx context.Context, name string) (Node, error) {
	var f *stage.File
	create := t.site.creating(ctx)
	err := t.site.change(ctx, func(l *stage.Staging) (err error) {
		f, err = create(l, "/"+name, 0o644)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &stagedFile{site: t.site, f: f}, nil
}

// List shows the image's files, or what was made in a folder that has no image yet.
func (t *tag) List(ctx context.Context) iter.Seq2[Entry, error] {
	v, err := t.resolve(ctx)
	l := t.site.staged(ctx)
	if isMissing(err) && l != nil {
		return t.listStaged(l)
	}
	if err != nil {
		return failed(err)
	}
	return func(yield func(Entry, error) bool) {
		for e, err := range v.folder().List(ctx) {
			switch {
			case err != nil:
			case e.Name == layoutName && l != nil && l.Removed("."):
				continue
			case e.Name == layoutName:
				e.Ino = t.site.folder(".").attr.Ino
			case e.Name == digestName:
				e.Ino = t.digest().ino
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func (t *tag) listStaged(l *stage.Staging) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, e := range l.List("/") {
			if !yield(fileEntry(e.Name, (&stagedFile{site: t.site, f: e.File}).ino()), nil) {
				return
			}
		}
		if e, ok := l.Lookup("."); ok && e.Kind == stage.Folder {
			yield(dirEntry(layoutName, t.site.folder(".").attr.Ino), nil)
		}
	}
}

// Mkdir makes oci-layout/, and nothing else.
func (t *tag) Mkdir(ctx context.Context, name string) (Node, error) {
	if name != layoutName {
		return nil, ErrFixed
	}
	if _, err := t.lookupLayout(ctx); !isMissing(err) {
		if err == nil {
			err = fmt.Errorf("%s: %w", name, unix.EEXIST)
		}
		return nil, err
	}
	if err := t.site.change(ctx, func(l *stage.Staging) error { return l.Mkdir(".") }); err != nil {
		return nil, err
	}
	top := t.site.folder(".")
	t.repo.tree.fresh.made(ctx, top.path())
	return top, nil
}

// Create makes one of the files that do something when they are written.
func (t *tag) Create(ctx context.Context, name string, mode uint32) (Node, File, error) {
	if !isVerb(name) {
		return nil, nil, ErrFixed
	}
	var w *writer
	create := t.site.creating(ctx)
	err := t.site.change(ctx, func(l *stage.Staging) error {
		f, err := create(l, "/"+name, mode)
		if err == nil {
			w, err = t.site.open(ctx, f)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return &stagedFile{site: t.site, f: w.File}, w, nil
}

// Unlink takes back a file that has not done its work. Nothing of an image is removed this way.
func (t *tag) Unlink(ctx context.Context, name string) error {
	if t.stagedFile(ctx, name) == nil {
		t.repo.tree.refusals.add(callerOf(ctx), t.path)
		return ErrFixed
	}
	return t.site.change(ctx, func(l *stage.Staging) error { return l.Unlink("/"+name, false) })
}

// Rmdir removes an oci-layout/ in which nothing shows.
func (t *tag) Rmdir(ctx context.Context, name string) error {
	if name != layoutName {
		t.repo.tree.refusals.add(callerOf(ctx), t.path)
		return ErrFixed
	}
	for _, err := range t.site.folder(".").List(ctx) {
		if err == nil {
			err = fmt.Errorf("%s: %w", name, unix.ENOTEMPTY)
		}
		return err
	}
	_, err := t.layout(ctx)
	if err != nil && !isMissing(err) {
		return err
	}
	published := err == nil
	return t.site.change(ctx, func(l *stage.Staging) error { return l.Rmdir(".", published) })
}

// Fsync is that of the layout.
func (t *tag) Fsync(ctx context.Context) error { return t.site.folder(".").Fsync(ctx) }
