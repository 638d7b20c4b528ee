package fs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// repository is what all nodes of one repository share.
type repository struct {
	tree *Tree
	src  image.Source
	// path is the folder below the mount, name the full name of the repository: they differ for docker.io/alpine.
	path, name string
}

// content is a file of what a descriptor names. Its inode is the same wherever the repository's images name it alike, so that
// the kernel caches it once.
func (r *repository) content(d image.Descriptor) *content {
	ino := r.tree.ino(r.path, d.Digest.String(), d.MediaType, fmt.Sprint(d.Annotations))
	return &content{repo: r, d: d, ino: ino}
}

// rawIno is the inode of content that is named by digest alone.
func (r *repository) rawIno(dgst digest.Digest) uint64 { return r.tree.ino(r.path, dgst.String()) }

// tags is the folder of all tags of a repository. Listing it costs the pages of the tag list, and a lookup in it never lists.
type tags struct {
	dir
	repo *repository
	path string
}

func newTags(r *repository) *tags {
	path := r.path + "/" + tagsName
	return &tags{dir{attr: Attr{Ino: r.tree.ino(path), Dir: true, Volatile: true}}, r, path}
}

func (t *tags) Lookup(ctx context.Context, name string) (Node, error) {
	if !image.ValidTag(name) {
		return nil, fmt.Errorf("tag %q: %w", name, image.ErrNotFound)
	}
	tag := newTag(t, name)
	if listed, ok := t.repo.tree.known.peek(t.path); ok && listed.has(tag.attr.Ino, time.Now()) {
		return tag, nil
	}
	if _, err := tag.resolve(ctx); err != nil {
		return nil, err
	}
	return tag, nil
}

// List shows the tags as their list comes in, and remembers them for a while: who lists will stat.
func (t *tags) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		tree := t.repo.tree
		listed := newNames(time.Now().Add(tree.pins.idle))
		tree.known.put(t.path, listed, listed.cost())
		for name, err := range t.repo.src.Tags(ctx, "") {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			ino := tree.ino(t.path, name)
			listed.add(ino)
			if !yield(Entry{name, ino, true}, nil) {
				return
			}
		}
		listed.keep(time.Now().Add(tree.pins.idle))
		tree.known.put(t.path, listed, listed.cost())
	}
}

// tag is an image folder by tag. What it shows inside is the version that its process is pinned to.
type tag struct {
	dir
	repo *repository
	name string
	path string
}

func newTag(t *tags, name string) *tag {
	attr := Attr{Ino: t.repo.tree.ino(t.path, name), Dir: true, Volatile: true}
	return &tag{dir{attr: attr}, t.repo, name, t.path + "/" + name}
}

// resolve is what the tag is for the process that asks. A first look reads the manifest, not only its digest: that is what is
// wanted next, and the request is saved.
func (t *tag) resolve(ctx context.Context) (*version, error) {
	d, err := t.repo.tree.pins.resolve(ctx, callerOf(ctx), t.repo.path, t.name, func(ctx context.Context) (image.Descriptor, error) {
		d, _, err := t.repo.src.Manifest(ctx, t.name)
		return d, err
	})
	if err != nil {
		return nil, err
	}
	return newVersion(t.repo, d, t.name, t.path), nil
}

func (t *tag) Lookup(ctx context.Context, name string) (Node, error) {
	if name == digestName {
		return t.digest(), nil
	}
	if !slices.Contains(ownNames, name) && !slices.Contains(imageNames, name) {
		return nil, fmt.Errorf("%q: %w", name, image.ErrNotFound)
	}
	v, err := t.resolve(ctx)
	if err != nil {
		return nil, err
	}
	return v.folder().Lookup(ctx, name)
}

func (t *tag) List(ctx context.Context) iter.Seq2[Entry, error] {
	v, err := t.resolve(ctx)
	if err != nil {
		return failed(err)
	}
	return v.folder().List(ctx)
}

// digest is the one file here that is not pinned: who polls it sees the tag move.
func (t *tag) digest() Node {
	return &made{ino: t.repo.tree.ino(t.path, digestName), content: func(ctx context.Context) ([]byte, error) {
		d, err := t.repo.src.Resolve(ctx, t.name)
		return []byte(d.Digest + "\n"), err
	}}
}

// XattrNames leaves out annotations, which can't be named without a request.
func (t *tag) XattrNames() []string { return xattrNames(image.Descriptor{}) }

func (t *tag) Xattr(ctx context.Context, name string) (string, error) {
	v, err := t.resolve(ctx)
	if err != nil {
		return "", err
	}
	return v.folder().Xattr(ctx, name)
}

// isMissing tells whether the registry said that there is no such thing, and not only that it could not be asked.
func isMissing(err error) bool {
	return errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrUnavailable)
}
