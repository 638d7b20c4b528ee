package fs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
)

// site is an oci-layout/ that can be written to, of a tag or of a whole repository: what is published, and what is staged on top
// of it for those who wrote it.
type site struct {
	repo *repository
	at   stage.Site
	// path is where its oci-layout/ stands below the mount.
	path string
	// published is the layout folder as it is published for who asks; ErrNotFound where nothing is.
	published func(ctx context.Context) (Node, error)
}

// staged is the staging as who asks sees it: nil for none. What is staged over a published image is seen by those who write it,
// their parents and these ones' other children: anybody else reads the image as it was, whole.
func (s *site) staged(ctx context.Context) *stage.Staging {
	store := s.repo.tree.o.Stage
	if store == nil {
		return nil
	}
	l := store.Find(s.at)
	if l == nil || s.repo.tree.writers.sees(ctx, l) {
		return l
	}
	if _, err := s.published(ctx); isMissing(err) {
		return l
	}
	return nil
}

// change has fn change the staging, which is made if there is none. Who changes it sees it from then on.
func (s *site) change(ctx context.Context, fn func(*stage.Staging) error) error {
	store := s.repo.tree.o.Stage
	if store == nil {
		return unix.EROFS
	}
	if err := s.writable(ctx); err != nil {
		return err
	}
	for {
		l, err := store.Begin(s.at)
		if err != nil {
			return err
		}
		s.repo.tree.writers.add(ctx, l)
		if err := fn(l); !errors.Is(err, stage.ErrGone) {
			return err
		}
		select {
		case <-l.Over():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// writable tells before anything is staged that the place takes nothing.
func (s *site) writable(ctx context.Context) error {
	sink, err := s.repo.host.Sink(ctx, s.repo.at.Name)
	if errors.Is(err, image.ErrUnsupported) {
		return unix.EROFS
	}
	if err == nil {
		err = sink.Close()
	}
	return ignoreUnavailable(err)
}

// ignoreUnavailable: what can't be asked now may be there when it is pushed.
func ignoreUnavailable(err error) error {
	if errors.Is(err, image.ErrUnavailable) {
		return nil
	}
	return err
}

// creating is how who asks makes a file: what others have staged, and he does not see yet, is not in his way.
func (s *site) creating(ctx context.Context) func(l *stage.Staging, at string, mode uint32) (*stage.File, error) {
	if s.staged(ctx) == nil {
		return (*stage.Staging).Replace
	}
	return (*stage.Staging).Create
}

// view is how who asks sees what is published.
func (s *site) view(ctx context.Context) stage.View {
	return &view{s.repo, callerOf(ctx), parentOf(ctx)}
}

type view struct {
	repo   *repository
	who    process
	parent process
}

// Now implements stage.View.
func (v *view) Now(ctx context.Context, tag string) (image.Descriptor, error) {
	if !image.ValidTag(tag) {
		return image.Descriptor{}, fmt.Errorf("tag %q: %w", tag, image.ErrNotFound)
	}
	return v.repo.tree.pins.resolve(ctx, v.who, v.repo.path, tag, func(ctx context.Context) (image.Descriptor, error) {
		d, _, err := v.repo.src.Manifest(ctx, tag)
		return d, err
	})
}

// Saw implements stage.View: who pushed sees what was pushed. A place that is no registry may have made another image of it, such as an
// engine, which keeps no manifests: there he looks at the tag anew.
func (v *view) Saw(tag string, d image.Descriptor) {
	if host := v.repo.at.Host; host == "" || host[0] == '@' {
		v.repo.tree.pins.forget(v.who, v.repo.path, tag)
		v.repo.tree.pins.forget(v.parent, v.repo.path, tag)
		return
	}
	v.repo.tree.pins.move(v.who, v.repo.path, tag, d)
	v.repo.tree.pins.move(v.parent, v.repo.path, tag, d)
}

// siteDir is oci-layout/ or a folder below it.
type siteDir struct {
	dir
	site *site
	// at is the folder's path in the layout: "." for oci-layout/ itself.
	at string
}

func (s *site) folder(at string) *siteDir {
	attr := Attr{Ino: s.repo.tree.ino(path.Join(s.path, at)), Mode: ownDirMode, Volatile: true}
	return &siteDir{dir{attr: attr}, s, at}
}

// path is where the folder stands below the mount.
func (d *siteDir) path() string { return path.Join(d.site.path, d.at) }

// base is the same folder of what is published. One that is hidden is not there.
func (d *siteDir) base(ctx context.Context) (Node, error) {
	if d.hidden(ctx) {
		return nil, fmt.Errorf("%s: %w", d.at, image.ErrNotFound)
	}
	n, err := d.site.published(ctx)
	if err != nil || d.at == "." {
		return n, err
	}
	for name := range components(d.at) {
		if n, err = n.Lookup(ctx, name); err != nil {
			return nil, err
		}
	}
	if attr, err := n.Attr(ctx); err != nil || !attr.IsDir() {
		return nil, fmt.Errorf("%s: %w", d.at, image.ErrNotFound)
	}
	return n, nil
}

// below finds a name in what is published. ErrNotFound where there is none.
func (d *siteDir) below(ctx context.Context, name string) (Node, Attr, error) {
	if d.site.repo.tree.fresh.hides(ctx, d.path(), name) {
		return nil, Attr{}, fmt.Errorf("%s: %w", name, image.ErrNotFound)
	}
	n, err := d.base(ctx)
	if err != nil {
		return nil, Attr{}, err
	}
	if n, err = n.Lookup(ctx, name); err != nil {
		return nil, Attr{}, err
	}
	attr, err := n.Attr(ctx)
	return n, attr, err
}

// entry is what is staged under a name, as who asks sees it.
func (d *siteDir) entry(ctx context.Context, name string) (stage.Entry, bool) {
	l := d.site.staged(ctx)
	if l == nil {
		return stage.Entry{}, false
	}
	return l.Lookup(path.Join(d.at, name))
}

func (d *siteDir) Lookup(ctx context.Context, name string) (Node, error) {
	if e, ok := d.entry(ctx, name); ok {
		return d.show(e, name)
	}
	n, attr, err := d.below(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case attr.IsDir():
		return d.site.folder(path.Join(d.at, name)), nil
	case !d.site.repo.tree.intends(ctx, attr.Ino):
		return n, nil
	}
	f, err := d.adopt(ctx, name, n)
	if err != nil {
		return nil, err
	}
	return &stagedFile{site: d.site, f: f}, nil
}

func (d *siteDir) show(e stage.Entry, name string) (Node, error) {
	switch e.Kind {
	case stage.Folder:
		return d.site.folder(path.Join(d.at, name)), nil
	case stage.Regular:
		return &stagedFile{site: d.site, f: e.File}, nil
	}
	return nil, fmt.Errorf("%s: %w", name, image.ErrNotFound)
}

// adopt stages what is published under a name, so that it can be changed.
func (d *siteDir) adopt(ctx context.Context, name string, n Node) (f *stage.File, err error) {
	at := path.Join(d.at, name)
	create := d.site.creating(ctx)
	err = d.site.change(ctx, func(l *stage.Staging) error {
		if c, ok := n.(*content); ok {
			f, err = l.Adopt(at, stage.Reference{From: c.repo.at, Descriptor: c.d, N: c.d.Size})
			return err
		}
		raw, err := readNode(ctx, n)
		if err != nil {
			return err
		}
		if f, err = create(l, at, 0o644); err != nil {
			return err
		}
		return f.WriteAt(ctx, raw, 0)
	})
	return f, err
}

// readNode reads a file that regfs makes.
func readNode(ctx context.Context, n Node) ([]byte, error) {
	b, err := n.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	raw := make([]byte, b.Size())
	_, err = b.ReadAt(ctx, raw, 0)
	return raw, ignoreEOF(err)
}

// List shows what is staged and then what is published and neither staged nor hidden.
func (d *siteDir) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		d.site.repo.tree.fresh.listed(ctx, d.path())
		staged := map[string]bool{}
		if l := d.site.staged(ctx); l != nil {
			for _, e := range l.List(d.at) {
				staged[e.Name] = true
				if e.Kind != stage.Hidden && !yield(d.listed(e), nil) {
					return
				}
			}
		}
		base, err := d.base(ctx)
		if err == nil {
			d.listBase(ctx, base, staged, yield)
		} else if err != nil && !isMissing(err) {
			yield(Entry{}, err)
		}
	}
}

// hidden tells whether the folder as it is published was removed, or one that it is in.
func (d *siteDir) hidden(ctx context.Context) bool {
	l := d.site.staged(ctx)
	if l == nil {
		return false
	}
	for at := d.at; ; at = path.Dir(at) {
		if l.Hides(at) {
			return true
		}
		if at == "." {
			return false
		}
	}
}

func (d *siteDir) listed(e stage.Entry) Entry {
	if e.Kind == stage.Folder {
		return dirEntry(e.Name, d.site.folder(path.Join(d.at, e.Name)).attr.Ino)
	}
	return fileEntry(e.Name, (&stagedFile{site: d.site, f: e.File}).ino())
}

func (d *siteDir) listBase(ctx context.Context, base Node, staged map[string]bool, yield func(Entry, error) bool) {
	for e, err := range base.List(ctx) {
		if err == nil && staged[e.Name] {
			continue
		}
		if err == nil && e.IsDir() {
			e.Ino = d.site.folder(path.Join(d.at, e.Name)).attr.Ino
		}
		if !yield(e, err) {
			return
		}
	}
}
