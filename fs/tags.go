package fs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
)

// repository is what all nodes of one repository share.
type repository struct {
	tree *Tree
	host image.Host
	src  image.Source
	at   image.Repository
	// path is the folder below the mount, name the full name of the repository: they differ for docker.io/alpine.
	path, name string
	// imagesOnly tells that a blob can't be written by itself.
	imagesOnly bool
}

// content is a file of what a descriptor names. Its inode is the same wherever the repository's images name it alike, so that
// the kernel caches it once.
func (r *repository) content(d image.Descriptor) *content {
	d = image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: showable(d.Annotations)}
	parts := []string{r.path, d.Digest.String(), d.MediaType, fmt.Sprint(d.Size)}
	for _, key := range slices.Sorted(maps.Keys(d.Annotations)) {
		parts = append(parts, key, d.Annotations[key])
	}
	return &content{repo: r, d: d, ino: r.tree.ino(parts...)}
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
	return &tags{dir{attr: Attr{Ino: r.tree.ino(path), Mode: ownDirMode, Volatile: true}}, r, path}
}

func (t *tags) Lookup(ctx context.Context, name string) (Node, error) {
	if !image.ValidTag(name) {
		return nil, fmt.Errorf("tag %q: %w", name, image.ErrNotFound)
	}
	tag := newTag(t, name)
	if listed, ok := t.repo.tree.known.peek(t.path); ok && listed.has(tag.attr.Ino) || tag.site.staging() != nil {
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
		// The listing before this one counts until this one is whole.
		listed, now := newNames(tree.pins.idle), newNames(tree.pins.idle)
		if before, ok := tree.known.peek(t.path); ok {
			now = before
		}
		defer func() { tree.known.put(t.path, now, now.cost()) }()
		tree.known.put(t.path, now, now.cost())
		staged := t.staged()
		for name, err := range t.repo.src.Tags(ctx, "") {
			if len(staged) > 0 && isMissing(err) { // the repository comes to be with the first push
				break
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			ino := tree.ino(t.path, name)
			listed.add(ino)
			now.add(ino)
			delete(staged, name)
			if !yield(dirEntry(name, ino), nil) {
				return
			}
		}
		for _, name := range slices.Sorted(maps.Keys(staged)) {
			if !yield(dirEntry(name, tree.ino(t.path, name)), nil) {
				return
			}
		}
		now = listed
	}
}

// staged are the tags that something is written for.
func (t *tags) staged() map[string]bool {
	all := map[string]bool{}
	if t.repo.tree.o.Stage == nil {
		return all
	}
	for _, name := range t.repo.tree.o.Stage.Sites(t.repo.at) {
		if image.ValidTag(name) {
			all[name] = true
		}
	}
	return all
}

// tag is an image folder by tag. What it shows inside is the version that its process is pinned to.
type tag struct {
	dir
	repo *repository
	name string
	path string
	site *site
}

func newTag(t *tags, name string) *tag {
	attr := Attr{Ino: t.repo.tree.ino(t.path, name), Mode: ownDirMode, Volatile: true}
	tag := &tag{dir: dir{attr: attr}, repo: t.repo, name: name, path: t.path + "/" + name}
	tag.site = &site{t.repo, stage.Site{Repository: t.repo.at, Tag: name}, tag.path + "/" + layoutName, tag.layout}
	return tag
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

// digest is the one file here that is not pinned: who polls it sees the tag move.
func (t *tag) digest() *made {
	return &made{ino: t.repo.tree.ino(t.path, digestName), content: func(ctx context.Context) ([]byte, error) {
		d, err := t.repo.src.Resolve(ctx, t.name)
		return []byte(d.Digest + "\n"), err
	}}
}

// XattrNames leaves out annotations, which can't be named without a request.
func (t *tag) XattrNames(context.Context) ([]string, error) {
	return xattrNames(image.Descriptor{}), nil
}

func (t *tag) Xattr(ctx context.Context, name string) (string, error) {
	if !strings.HasPrefix(name, xattrOwn) { // users' own are not kept on folders
		return "", fmt.Errorf("extended attribute %s: %w", name, image.ErrNotFound)
	}
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
