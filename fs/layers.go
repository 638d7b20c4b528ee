package fs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layer"
)

// isNumber and isFileName tell names that can't be there without a request: .git and its like are looked up everywhere.
func isNumber(name string) bool { return strings.Trim(name, "0123456789") == "" }

func isFileName(name string) bool { return !strings.HasPrefix(name, ".") }

// layers are numbered from the base up, with as many digits as the last one needs and at least two.
func (v *version) layers(ctx context.Context) ([]child, error) {
	_, m, err := v.image(ctx)
	if err != nil {
		return nil, err
	}
	width := max(2, len(fmt.Sprint(len(m.Layers)-1)))
	all := make([]child, len(m.Layers))
	for i, d := range m.Layers {
		all[i] = v.layer(fmt.Sprintf("%0*d", width, i), i, d, isImage(m) && layer.IsLayer(d.MediaType))
	}
	return all, nil
}

func (v *version) layer(name string, i int, d image.Descriptor, hasTree bool) child {
	path := "layers/" + name
	own := func(context.Context) ([]child, error) {
		blob, dgst := v.blob(d), v.text(path+"/digest", d.Digest.String()+"\n")
		dgst.name = digestName
		if !hasTree {
			return []child{blob, dgst}, nil
		}
		return []child{blob, dgst, v.layerTree(path, d)}, nil
	}
	told := func(ctx context.Context) ([]child, error) { return v.createdBy(ctx, path, i) }
	c := v.dir(path, anyOf([]string{"blob", digestName, treeName}, own), anyOf([]string{"created_by"}, told))
	c.name = name
	return c
}

// The folders that show what is inside layers: one of them, and all of them as a container has them.
const (
	treeName   = "tree"
	rootfsName = "rootfs"
)

// hasRootfs tells whether the layers of an image make up a root filesystem.
func hasRootfs(m *image.Manifest) bool {
	isOther := func(d image.Descriptor) bool { return !layer.IsLayer(d.MediaType) }
	return isImage(m) && len(m.Layers) > 0 && !slices.ContainsFunc(m.Layers, isOther)
}

// layerTree is the folder of what one layer contains.
func (v *version) layerTree(path string, d image.Descriptor) child {
	tree := v.repo.tree
	content := tree.ino(treeName, fmt.Sprint(v.repo.content(d).ino))
	return v.layerTop(path+"/"+treeName, treeName, content, func(ctx context.Context) (layer.File, error) {
		sized, err := v.sized(ctx, d)
		if err != nil {
			return nil, err
		}
		return tree.o.Layers.Tree(v.repo.src, sized, tree.o.Whiteouts), nil
	})
}

// rootfs is the folder of what all layers make up. d is the image's manifest.
func (v *version) rootfs(d image.Descriptor, m *image.Manifest) child {
	content := v.repo.tree.ino(rootfsName, v.repo.path, d.Digest.String())
	return v.layerTop(rootfsName, rootfsName, content, func(ctx context.Context) (layer.File, error) {
		all := make([]image.Descriptor, len(m.Layers))
		for i, d := range m.Layers {
			var err error
			if all[i], err = v.sized(ctx, d); err != nil {
				return nil, err
			}
		}
		return v.repo.tree.o.Layers.Root(v.repo.src, all), nil
	})
}

// layerTop is the top of a tree that stands at a path in the image's folder.
func (v *version) layerTop(path, name string, content uint64, open func(context.Context) (layer.File, error)) child {
	place := v.repo.tree.ino(v.key + "/" + path)
	top := &layerTop{dir: dir{attr: Attr{Ino: place, Mode: dirMode, Fixed: true, Sealed: true}}, tree: &layerTree{v.repo, place, content}, open: open}
	return child{name: name, ino: place, dir: true, node: func(context.Context) (Node, error) { return top, nil }}
}

// sized is a layer with its size. A schema 1 manifest does not tell it: then the registry must.
func (v *version) sized(ctx context.Context, d image.Descriptor) (image.Descriptor, error) {
	if d.Size >= 0 {
		return d, nil
	}
	found, err := v.repo.src.Stat(ctx, d.Digest)
	d.Size = found.Size
	return d, err
}

// blob is a layer's blob.
func (v *version) blob(d image.Descriptor) child {
	c := v.content("blob", d)
	if d.Size < 0 {
		c.node = func(ctx context.Context) (Node, error) {
			sized, err := v.sized(ctx, d)
			if err != nil {
				return nil, err
			}
			n := v.repo.content(d)
			n.d.Size = sized.Size
			return n, nil
		}
	}
	return c
}

// createdBy is what the image's history says of a layer.
func (v *version) createdBy(ctx context.Context, path string, i int) ([]child, error) {
	_, m, err := v.image(ctx)
	if err != nil {
		return nil, err
	}
	history, err := v.history(ctx, m)
	if isMissing(err) || errors.Is(err, image.ErrInvalid) {
		return nil, nil // a config that tells nothing: its own file says why
	}
	if err != nil || i >= len(history) {
		return nil, err
	}
	c := v.made(path+"/created_by", func(ctx context.Context) ([]byte, error) {
		history, err := v.history(ctx, m)
		if err != nil {
			return nil, err
		}
		return []byte(history[i] + "\n"), nil
	})
	c.name = "created_by"
	return []child{c}, nil
}
