//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/storage"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// name is one of an image's names. It has a tag or a digest.
type name struct {
	image.Repository
	tag    string
	digest digest.Digest
}

// parseName reads a name as podman does, if it is one.
func parseName(text string) (name, bool) {
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return name{}, false
	}
	n := name{Repository: image.Repository{Host: reference.Domain(named), Name: reference.Path(named)}}
	if digested, ok := named.(reference.Digested); ok {
		n.digest = digested.Digest()
	}
	if tagged, ok := named.(reference.Tagged); ok {
		n.tag = tagged.Tag()
	}
	return n, true
}

// names are all names of an image that can be read.
func names(img *storage.Image) []name {
	var all []name
	for _, text := range img.Names {
		if n, ok := parseName(text); ok {
			all = append(all, n)
		}
	}
	return all
}

// Hosts implements image.Place: those of the names that images have. An image without a name has none: it is found in the host ""
// by its ID.
func (s *Store) Hosts(ctx context.Context) iter.Seq2[string, error] {
	return s.list(ctx, "list the hosts", func(n name) (string, bool) { return n.Host, true })
}

// Host implements image.Place. The host "" has one repository, "", for all images.
func (s *Store) Host(name string) (image.Host, error) { return &host{s, name}, nil }

// list yields what pick makes of the names of all images, sorted, each once.
func (s *Store) list(ctx context.Context, op string, pick func(name) (string, bool)) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		found, err := s.collect(ctx, pick)
		if err != nil {
			yield("", s.failed(op, "", err))
			return
		}
		for _, one := range found {
			if !yield(one, nil) {
				return
			}
		}
	}
}

func (s *Store) collect(ctx context.Context, pick func(name) (string, bool)) ([]string, error) {
	images, err := ask(ctx, s.lib.Images)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for i := range images {
		for _, n := range names(&images[i]) {
			if one, ok := pick(n); ok {
				found[one] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// host is the repositories of one host.
type host struct {
	store *Store
	name  string
}

// Repositories implements image.Host.
func (h *host) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return h.store.list(ctx, "list the repositories of "+files.Clean(h.name), func(n name) (string, bool) {
		return n.Name, n.Host == h.name && n.Name > after
	})
}

// Source implements image.Host.
func (h *host) Source(_ context.Context, repository string) (image.Source, error) {
	return &source{h.store, image.Repository{Host: h.name, Name: repository}}, nil
}

// Sink implements image.Host. What is written to the repository "" of the host "" has no name. ErrInvalid where no image can have such
// a name.
func (h *host) Sink(_ context.Context, repository string) (image.Sink, error) {
	at := image.Repository{Host: h.name, Name: repository}
	if at != (image.Repository{}) && (!image.ValidHost(at.Host) || !image.ValidRepository(at.Name)) {
		return nil, h.store.failed("write", at.String(), fmt.Errorf("no image can have that name: %w", image.ErrInvalid))
	}
	return newSink(h.store, at), nil
}

// Close implements image.Host. The store stays open.
func (h *host) Close() error { return nil }
