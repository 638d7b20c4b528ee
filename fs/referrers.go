package fs

import (
	"context"
	"fmt"
	"iter"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// referrers is the folder of what names an image as its subject: signatures, SBOMs, attestations, each an image folder.
type referrers struct {
	dir
	v    *version
	path string
}

func (v *version) referrers() child {
	path := v.key + "/referrers"
	r := &referrers{dir{attr: Attr{Ino: v.repo.tree.ino(path), Mode: dirMode, Volatile: true}}, v, path}
	return child{name: "referrers", ino: r.attr.Ino, dir: true, node: func(context.Context) (Node, error) { return r, nil }}
}

func (r *referrers) Lookup(ctx context.Context, name string) (Node, error) {
	if digest.Digest(name).Validate() != nil {
		return nil, fmt.Errorf("referrer %q: %w", name, image.ErrNotFound)
	}
	for d, err := range r.v.repo.src.Referrers(ctx, r.v.d, "") {
		if err != nil {
			return nil, err
		}
		if d.Digest.String() == name {
			return newVersion(r.v.repo, d, "", r.path+"/"+name).folder(), nil
		}
	}
	return nil, fmt.Errorf("referrer %q of %s: %w", name, r.v.d.Digest, image.ErrNotFound)
}

func (r *referrers) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for d, err := range r.v.repo.src.Referrers(ctx, r.v.d, "") {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			name := d.Digest.String()
			if !yield(dirEntry(name, newVersion(r.v.repo, d, "", r.path+"/"+name).folder().attr.Ino), nil) {
				return
			}
		}
	}
}
