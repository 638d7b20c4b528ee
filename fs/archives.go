package fs

import (
	"context"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout"
)

// layout is the image as an OCI image layout.
func (v *version) layout() child {
	names := []string{v1.ImageLayoutFile, v1.ImageIndexFile, v1.ImageBlobsDir}
	return v.dir(layoutName, part{
		func(name string) bool { return slices.Contains(names, name) },
		v.repo.tree.nested(v.key+"/"+layoutName, "", v.layoutFiles),
	})
}

// layoutFiles are the files of the layout.
func (v *version) layoutFiles(ctx context.Context) ([]leaf, bool, error) {
	files, err := v.ociFiles(ctx)
	if err != nil {
		return nil, false, err
	}
	keep, err := v.complete(ctx, files)
	return v.leaves(layoutName, files), keep, err
}

// complete tells whether files have every entry of the index: what the repository lacks today it may have tomorrow.
func (v *version) complete(ctx context.Context, files []layout.File) (bool, error) {
	m, err := v.document(ctx, v.d)
	if err != nil {
		return false, err
	}
	there := map[digest.Digest]bool{}
	for _, f := range files {
		if f.Blob != nil {
			there[f.Blob.Digest] = true
		}
	}
	for _, d := range m.Manifests {
		if !there[d.Digest] {
			return false, nil
		}
	}
	return true, nil
}

func (v *version) leaves(path string, files []layout.File) []leaf {
	all := make([]leaf, len(files))
	for i, f := range files {
		var c child
		if f.Blob != nil {
			c = v.content(f.Name, *f.Blob)
		} else {
			c = v.text(path+"/"+f.Name, string(f.Data))
		}
		all[i] = leaf{f.Name, c.ino, c.node}
	}
	return sorted(all)
}

func (v *version) ociFiles(ctx context.Context) ([]layout.File, error) {
	return layout.OCI(ctx, v.repo.src, []layout.Root{{Descriptor: v.d, Tag: v.tag}})
}

// dockerFiles are those of the mount's platform: a docker archive holds one image under a name.
func (v *version) dockerFiles(ctx context.Context) ([]layout.File, error) {
	d, _, err := v.image(ctx)
	if err != nil {
		return nil, err
	}
	name := ""
	if v.tag != "" && v.repo.name != "" {
		name = v.repo.name + ":" + v.tag
	}
	return layout.Docker(ctx, v.repo.src, d, name)
}

// archive is files as one tar. It is not listed, or diff -r and du would read everything once more.
func (v *version) archive(name string, files func(context.Context) ([]layout.File, error)) child {
	ino := v.repo.tree.ino(v.key + "/" + name)
	return child{name: name, ino: ino, hidden: true, node: func(ctx context.Context) (Node, error) {
		all, err := files(ctx)
		if err != nil {
			return nil, err
		}
		t, err := layout.NewTar(all)
		return &archive{repo: v.repo, ino: ino, tar: t}, err
	}}
}

// archive is a tar made of an image as it is read.
type archive struct {
	file
	repo *repository
	ino  uint64
	tar  *layout.Tar
}

func (a *archive) Attr(context.Context) (Attr, error) {
	return Attr{Ino: a.ino, Mode: fileMode, Size: a.tar.Size(), Fixed: true}, nil
}

func (a *archive) Open(ctx context.Context) (image.Blob, error) {
	release := a.repo.tree.pins.hold(callerOf(ctx), a.repo.path)
	return &held{a.tar.Open(a.repo.src, a.repo.tree.o.Blobs), release}, nil
}
