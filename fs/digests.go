package fs

import (
	"context"
	"fmt"
	"iter"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
)

// digests is the folder of all images of a repository by digest. They are found by name: no registry can list them.
type digests struct {
	dir
	repo *repository
	path string
}

func newDigests(r *repository) *digests {
	path := r.path + "/" + digestsName
	return &digests{dir{attr: Attr{Ino: r.tree.ino(path), Mode: dirMode}}, r, path}
}

func (g *digests) Lookup(ctx context.Context, name string) (Node, error) {
	if digest.Digest(name).Validate() != nil {
		return nil, fmt.Errorf("digest %q: %w", name, image.ErrNotFound)
	}
	d, _, err := g.repo.src.Manifest(ctx, name)
	if err != nil {
		return nil, err
	}
	return newVersion(g.repo, d, "", g.path+"/"+name).folder(), nil
}

func (g *digests) List(context.Context) iter.Seq2[Entry, error] {
	return func(func(Entry, error) bool) {}
}

// blobs is the folder of all blobs of a repository, and below it one for each digest algorithm. No registry lists them; where
// the folder is part of a layout, list tells what the layout holds.
type blobs struct {
	dir
	repo *repository
	path string
	list func(ctx context.Context) ([]image.Descriptor, error)
}

func newBlobs(r *repository, path string, list func(context.Context) ([]image.Descriptor, error)) *blobs {
	return &blobs{dir{attr: Attr{Ino: r.tree.ino(path), Mode: dirMode}}, r, path, list}
}

func (b *blobs) Lookup(_ context.Context, name string) (Node, error) {
	if alg := digest.Algorithm(name); alg.Available() {
		path := b.path + "/" + name
		return &algorithm{dir{attr: Attr{Ino: b.repo.tree.ino(path), Mode: dirMode, Volatile: b.list == nil}}, b.repo, alg, b.list}, nil
	}
	return nil, fmt.Errorf("digest algorithm %q: %w", name, image.ErrNotFound)
}

func (b *blobs) List(context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		name := digest.SHA256.String()
		yield(dirEntry(name, b.repo.tree.ino(b.path+"/"+name)), nil)
	}
}

type algorithm struct {
	dir
	repo *repository
	alg  digest.Algorithm
	list func(ctx context.Context) ([]image.Descriptor, error)
}

func (a *algorithm) Lookup(ctx context.Context, name string) (Node, error) {
	dgst := digest.NewDigestFromEncoded(a.alg, name)
	if dgst.Validate() != nil {
		return nil, fmt.Errorf("blob %q: %w", name, image.ErrNotFound)
	}
	if a.list == nil {
		if e, ok := a.put().entry(ctx, name); ok {
			return a.put().show(e, name)
		}
	}
	d, err := a.repo.src.Stat(ctx, dgst)
	if err != nil {
		return nil, err
	}
	return &content{repo: a.repo, d: d, ino: a.repo.rawIno(dgst)}, nil
}

// put is the folder of the blobs that are being written one by one.
func (a *algorithm) put() *siteDir {
	none := func(context.Context) (Node, error) { return nil, image.ErrNotFound }
	s := &site{a.repo, stage.Site{Repository: a.repo.at, Tag: stage.Blobs}, a.repo.path + "/" + stage.Blobs, none}
	return s.folder(blobsName + "/" + a.alg.String())
}

// Create makes a file that is pushed as a blob when its content matches its name.
func (a *algorithm) Create(ctx context.Context, name string, mode uint32) (Node, File, error) {
	if a.list != nil || digest.NewDigestFromEncoded(a.alg, name).Validate() != nil {
		return nil, nil, ErrFixed
	}
	if a.repo.imagesOnly {
		return nil, nil, fmt.Errorf("a blob that is of no image is not kept here: %w", image.ErrUnsupported)
	}
	return a.put().Create(ctx, name, mode)
}

// Unlink takes back a blob that is not pushed yet.
func (a *algorithm) Unlink(ctx context.Context, name string) error {
	if _, ok := a.put().entry(ctx, name); !ok || a.list != nil {
		return ErrFixed
	}
	return a.put().Unlink(ctx, name)
}

func (a *algorithm) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if a.list == nil {
			return
		}
		all, err := a.list(ctx)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		for _, d := range all {
			if d.Digest.Algorithm() == a.alg && !yield(fileEntry(d.Digest.Encoded(), a.repo.rawIno(d.Digest)), nil) {
				return
			}
		}
	}
}
