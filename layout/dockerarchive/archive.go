// Package dockerarchive is what docker save writes, and docker load reads, as a place of images: a tar with a manifest.json that
// names configs and layers.
//
// Archives of before Docker 25 have nothing else, and no manifests: they are made, as skopeo makes them, of the config and of the
// layers uncompressed. Later ones are OCI image layouts as well, and their manifests are served as they are. So are all that this
// package writes, with manifest.json beside them for what docker can load: images of one platform, and of others the one for this
// machine. Nothing that was there is lost, whoever wrote it.
package dockerarchive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"

	"go.podman.io/image/v5/docker/reference"
	"golang.org/x/sync/semaphore"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
	"github.com/regfs/regfs/layout/oci"
)

// Archive is the file. It is safe for concurrent use.
type Archive struct {
	path     string
	writable bool
	files    *files.Archive
	all      *oci.Layout // what index.json has, whatever it is called

	loading *semaphore.Weighted // who makes the view
	seen    *view               // only with loading
	turn    int                 // of files, that seen is of
}

var _ image.Place = (*Archive)(nil)

// Open opens an archive that is there; a compressed one is unpacked to $TMPDIR or /var/tmp first. ErrNotFound where there is no such
// file, ErrInvalid where it is no tar, is cut short, or has no manifest.json.
func Open(ctx context.Context, path string) (*Archive, error) { return open(ctx, path, false) }

// Create opens an archive for writing, too. It need not be there: it is made with the first image, and anew with each further one,
// beside the old one, in whose place it goes when it is whole. ErrUnsupported for an archive that is compressed.
func Create(ctx context.Context, path string) (*Archive, error) { return open(ctx, path, true) }

func open(ctx context.Context, path string, writable bool) (*Archive, error) {
	a := &Archive{path: path, writable: writable, loading: semaphore.NewWeighted(1)}
	var err error
	if a.files, err = files.Open(ctx, path, writable); err != nil {
		return nil, fmt.Errorf("open docker archive %s: %w", path, files.Translate(path, err))
	}
	a.all = oci.Over(&keeper{a}, path)
	if _, err = a.view(ctx); err != nil {
		a.files.Close()
		return nil, fmt.Errorf("open docker archive %s: %w", path, files.Translate(path, err))
	}
	return a, nil
}

// failed wraps an error with the operation and its object, once.
func (a *Archive) failed(op, object string, err error) error {
	if object != "" {
		op += " " + files.Clean(object)
	}
	return fmt.Errorf("%s in docker archive %s: %w", op, a.path, files.Translate(a.path, err))
}

// Close implements image.Place. A manifest that was pushed is kept, without a name.
func (a *Archive) Close() error {
	return errors.Join(a.all.Close(), a.files.Close())
}

// Hosts implements image.Place.
func (a *Archive) Hosts(ctx context.Context) iter.Seq2[string, error] {
	return a.list(ctx, "list the hosts", func(n fullName) string { return n.host })
}

// list is something of the names there are: each once, sorted, and not "".
func (a *Archive) list(ctx context.Context, op string, what func(fullName) string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		v, err := a.view(ctx)
		if err != nil {
			yield("", a.failed(op, "", err))
			return
		}
		found := map[string]bool{}
		for n := range v.names {
			found[what(n)] = true
		}
		delete(found, "")
		for _, name := range slices.Sorted(maps.Keys(found)) {
			if !yield(name, nil) {
				return
			}
		}
	}
}

// Host implements image.Place. The host "" has one repository, "", with all images there are: by position ("@0"), or "" for
// the only one.
func (a *Archive) Host(name string) (image.Host, error) { return &host{a, name}, nil }

// host is the repositories of one host.
type host struct {
	a    *Archive
	name string
}

// Repositories implements image.Host.
func (h *host) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return h.a.list(ctx, "list the repositories of "+h.name, func(n fullName) string {
		if n.host != h.name || n.repository <= after {
			return ""
		}
		return n.repository
	})
}

// Source implements image.Host.
func (h *host) Source(_ context.Context, name string) (image.Source, error) {
	return h.repository(name)
}

// Sink implements image.Host.
func (h *host) Sink(_ context.Context, name string) (image.Sink, error) {
	if !h.a.writable {
		return nil, h.a.failed("write", name, fmt.Errorf("it is open for reading only: %w", image.ErrUnsupported))
	}
	return h.repository(name)
}

func (h *host) repository(name string) (*repository, error) {
	r := &repository{a: h.a, host: h.name, name: name, layout: h.a.all}
	if h.name == "" && name == "" {
		return r, nil
	}
	full := h.name + "/" + name
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil || named.String() != full || !reference.IsNameOnly(named) {
		return nil, h.a.failed("open", full, fmt.Errorf("no repository can have that name: %w", image.ErrInvalid))
	}
	r.layout = h.a.all.Repository(full)
	return r, nil
}

// Close implements image.Host. The archive stays open.
func (h *host) Close() error { return nil }

// fullName is what an image goes by. It is written whole: docker takes it as it takes its own short form, and podman makes another name
// of that one.
type fullName struct{ host, repository, tag string }

func (n fullName) String() string { return n.host + "/" + n.repository + ":" + n.tag }

// parseName reads a name as docker writes it, where alpine is docker.io/library/alpine:latest.
func parseName(text string) (fullName, bool) {
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return fullName{}, false
	}
	tagged, ok := reference.TagNameOnly(named).(reference.NamedTagged)
	if _, digested := named.(reference.Digested); digested || !ok {
		return fullName{}, false
	}
	return fullName{reference.Domain(named), reference.Path(named), tagged.Tag()}, true
}

// isMissing tells that a file is not there.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, image.ErrNotFound)
}
