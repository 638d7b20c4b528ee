package fs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/regfs/regfs/image"
)

// Places are what a tree shows: the registries and named places beside them, or one place alone.
type Places struct {
	// Host opens a registry by its name. It sends nothing.
	Host func(name string) (image.Host, error)
	// Named are places beside the registries, by the names of their folders without the "@" that these begin with.
	Named map[string]Named
	// Top, if not nil, stands in the place of the registries.
	Top *Named
}

// Named is a place that is no registry.
type Named struct {
	// Host has the repositories of the place.
	Host image.Host
	// Single tells that it is one repository, whose name is "". Else their names begin with a registry's: Merge makes such a Host.
	Single bool
	// ImagesOnly tells that nothing is kept but whole images: a blob can't be written by itself.
	ImagesOnly bool
}

// Open opens the host of an image.Repository of the tree: a registry, "@" and the name of a place, or "" for Top.
func (p Places) Open(host string) (image.Host, error) {
	if p.Top != nil && host == "" {
		return p.Top.Host, nil
	}
	name, ok := strings.CutPrefix(host, "@")
	if !ok {
		return p.Host(host)
	}
	if named, ok := p.Named[name]; ok {
		return named.Host, nil
	}
	return nil, fmt.Errorf("no source of this mount is called %s: %w", name, image.ErrNotFound)
}

// Close closes all of Named, and Top.
func (p Places) Close() error {
	var all error
	for _, n := range p.Named {
		all = errors.Join(all, n.Host.Close())
	}
	if p.Top != nil {
		all = errors.Join(all, p.Top.Host.Close())
	}
	return all
}

// Merge is a place's hosts as one: the names of its repositories begin with their host's, "quay.io/podman/stable". Closing it closes
// the place.
func Merge(p image.Place) image.Host { return merged{p} }

type merged struct{ image.Place }

func (m merged) split(name string) (image.Host, string, error) {
	host, repository, _ := strings.Cut(name, "/")
	h, err := m.Host(host)
	return h, repository, err
}

// Source implements image.Host.
func (m merged) Source(ctx context.Context, name string) (image.Source, error) {
	h, repository, err := m.split(name)
	if err != nil {
		return nil, err
	}
	return h.Source(ctx, repository)
}

// Sink implements image.Host.
func (m merged) Sink(ctx context.Context, name string) (image.Sink, error) {
	h, repository, err := m.split(name)
	if err != nil {
		return nil, err
	}
	return h.Sink(ctx, repository)
}

// Repositories implements image.Host.
func (m merged) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for host, err := range m.Hosts(ctx) {
			if err == nil && host != "" {
				err = m.below(ctx, host, after, yield)
			}
			if errors.Is(err, errEnough) {
				return
			}
			if err != nil {
				yield("", err)
				return
			}
		}
	}
}

// errEnough ends a listing whose reader has seen enough.
var errEnough = errors.New("enough")

// below lists the repositories of one host that sort after "after".
func (m merged) below(ctx context.Context, host, after string, yield func(string, error) bool) error {
	h, err := m.Host(host)
	if err != nil {
		return err
	}
	for repository, err := range h.Repositories(ctx, "") {
		if err != nil {
			return err
		}
		if name := host + "/" + repository; name > after && !yield(name, nil) {
			return errEnough
		}
	}
	return nil
}

// latest is the tag that stands for an image without a name, in places where images can have none.
const latest = "latest"

// Alone is a place of one repository as a Host. Where its only image has no name, the tag latest shows it; and where images can't have
// names, which tagged tells, latest writes it. A sink that is nil is for what can't be written. Closing the Host closes the source, and
// the sink with it.
func Alone(src image.Source, sink image.Sink, tagged bool) image.Host {
	return &alone{src, sink, tagged}
}

type alone struct {
	src    image.Source
	sink   image.Sink
	tagged bool
}

func (a *alone) Repositories(context.Context, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("", nil) }
}

func (a *alone) Source(context.Context, string) (image.Source, error) { return aloneSource{a.src}, nil }

func (a *alone) Sink(context.Context, string) (image.Sink, error) {
	if a.sink == nil {
		return nil, fmt.Errorf("this place can only be read: %w", image.ErrUnsupported)
	}
	return aloneSink{a.sink, a.tagged}, nil
}

func (a *alone) Close() error { return a.src.Close() }

// aloneSource shows an image without a name as latest. It is many nodes', and closed with its Host.
type aloneSource struct{ image.Source }

func (aloneSource) Close() error { return nil }

// names tells whether any image has a name.
func (s aloneSource) names(ctx context.Context) (bool, error) {
	for _, err := range s.Source.Tags(ctx, "") {
		return err == nil, err
	}
	return false, nil
}

// ref is what a tag is called in the place.
func (s aloneSource) ref(ctx context.Context, ref string) (string, error) {
	if ref != latest {
		return ref, nil
	}
	named, err := s.names(ctx)
	if named || err != nil {
		return ref, err
	}
	return "", nil
}

func (s aloneSource) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	ref, err := s.ref(ctx, ref)
	if err != nil {
		return image.Descriptor{}, err
	}
	return s.Source.Resolve(ctx, ref)
}

func (s aloneSource) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	ref, err := s.ref(ctx, ref)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	return s.Source.Manifest(ctx, ref)
}

// Tags lists those that can be names of folders: a layout has others, too.
func (s aloneSource) Tags(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		named := false
		for name, err := range s.Source.Tags(ctx, after) {
			named = true
			if (err != nil || image.ValidTag(name)) && !yield(name, err) {
				return
			}
		}
		if named || after >= latest {
			return
		}
		if _, err := s.Resolve(ctx, latest); err == nil {
			yield(latest, nil)
		}
	}
}

// aloneSink writes latest without a name where there are none.
type aloneSink struct {
	image.Sink
	tagged bool
}

func (aloneSink) Close() error { return nil }

func (s aloneSink) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if !s.tagged {
		if tag != latest {
			return fmt.Errorf("images have no tags here: write to tags/%s: %w", latest, image.ErrUnsupported)
		}
		tag = ""
	}
	return s.Sink.Tag(ctx, d, raw, tag)
}
