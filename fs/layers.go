package fs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/regfs/regfs/image"
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
		all[i] = v.layer(fmt.Sprintf("%0*d", width, i), i, d)
	}
	return all, nil
}

func (v *version) layer(name string, i int, d image.Descriptor) child {
	path := "layers/" + name
	own := func(context.Context) ([]child, error) {
		blob, dgst := v.blob(d), v.text(path+"/digest", d.Digest.String()+"\n")
		dgst.name = digestName
		return []child{blob, dgst}, nil
	}
	told := func(ctx context.Context) ([]child, error) { return v.createdBy(ctx, path, i) }
	c := v.dir(path, anyOf([]string{"blob", digestName}, own), anyOf([]string{"created_by"}, told))
	c.name = name
	return c
}

// blob is a layer's blob. A schema 1 manifest does not tell its size: then the registry must.
func (v *version) blob(d image.Descriptor) child {
	c := v.content("blob", d)
	if d.Size < 0 {
		c.node = func(ctx context.Context) (Node, error) {
			found, err := v.repo.src.Stat(ctx, d.Digest)
			if err != nil {
				return nil, err
			}
			sized := v.repo.content(d)
			sized.d.Size = found.Size
			return sized, nil
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
