package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/regfs/regfs/fs"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/oci"
)

// parseRef reads the name of an image, of a place that this program can open.
func parseRef(text string) (image.Ref, error) {
	r, err := image.ParseRef(text)
	if err == nil && r.Transport != image.Registry && r.Transport != image.OCI {
		err = fmt.Errorf("%q: %s: is not there yet", text, r.Transport)
	}
	if err != nil {
		return r, usageError{err}
	}
	return r, nil
}

// hosts opens a registry by its name.
type hosts func(host string) (image.Host, error)

// source opens the place that r is in.
func (h hosts) source(ctx context.Context, r image.Ref) (image.Source, error) {
	if r.Transport == image.OCI {
		return oci.Open(r.Path)
	}
	host, err := h(r.Repository.Host)
	if err != nil {
		return nil, err
	}
	return host.Source(ctx, r.Repository.Name)
}

// sink opens the place that r is to be in.
func (h hosts) sink(ctx context.Context, r image.Ref) (image.Sink, error) {
	if r.Transport == image.OCI {
		return oci.Create(r.Path)
	}
	host, err := h(r.Repository.Host)
	if err != nil {
		return nil, err
	}
	return host.Sink(ctx, r.Repository.Name)
}

// find says what r names in its place.
func find(ctx context.Context, r image.Ref, src image.Source) (image.Descriptor, error) {
	d, err := src.Resolve(ctx, r.Name())
	if err != nil || r.Digest == "" || r.Tag == "" {
		return d, err
	}
	tagged, err := src.Resolve(ctx, r.Tag)
	if err == nil && tagged.Digest != d.Digest {
		err = fmt.Errorf("%s: the tag is %s", r, tagged.Digest)
	}
	return d, err
}

// tags are what r has an image put under. Where there are no repositories, an image without a tag is listed all the same, or nobody
// would find it.
func tags(r image.Ref) []string {
	if r.Tag == "" && r.Repository != (image.Repository{}) {
		return nil
	}
	return []string{r.Tag}
}

// placesHelp tells of the places that can be mounted.
const placesHelp = `
  docker://          all registries
  oci:PATH           an OCI image layout, a folder, which is made if there is nothing
`

// mountable tells whether a place of this kind can be mounted.
func mountable(r image.Ref) error {
	if r.Transport != image.Registry && r.Transport != image.OCI {
		return fmt.Errorf("%s: is not there yet", r.Transport)
	}
	return nil
}

// openSources opens all places of a mount. Registries are opened by open when they are looked at.
func openSources(s *sources, open hosts, readOnly bool) (p fs.Places, err error) {
	p = fs.Places{Host: open, Named: map[string]fs.Named{}}
	for name, r := range s.named {
		if p.Named[name], err = openNamed(r, readOnly); err != nil {
			delete(p.Named, name)
			return p, errors.Join(err, p.Close())
		}
	}
	if s.top.Transport == image.Registry {
		return p, nil
	}
	top, err := openNamed(s.top, readOnly)
	if err != nil {
		return p, errors.Join(err, p.Close())
	}
	p.Top = &top
	return p, nil
}

// openNamed opens a place to be mounted.
func openNamed(r image.Ref, readOnly bool) (fs.Named, error) {
	l, err := oci.Open(r.Path)
	if errors.Is(err, image.ErrNotFound) && !readOnly {
		l, err = oci.Create(r.Path)
	}
	if err != nil {
		return fs.Named{}, err
	}
	return fs.Named{Host: fs.Alone(l, l, true), Single: true}, nil
}
