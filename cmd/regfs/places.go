package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/dir"
	"github.com/regfs/regfs/layout/dockerarchive"
	"github.com/regfs/regfs/layout/engine"
	"github.com/regfs/regfs/layout/oci"
	"github.com/regfs/regfs/layout/ostree"
	"github.com/regfs/regfs/layout/sif"
	"github.com/regfs/regfs/layout/storage"
	"github.com/regfs/regfs/layout/tarball"
)

// placesHelp tells of the places there are.
const placesHelp = `
  docker://HOST/REPOSITORY[:TAG|@DIGEST]   a registry's; without a tag, latest
  oci:PATH[:TAG|:@N][@DIGEST]              an OCI image layout's, a folder
  oci-archive:PATH[:TAG|:@N]               the same as a tar
  dir:PATH                                 a folder with one image
  docker-archive:PATH[:NAME[:TAG]|:@N]     what docker save writes
  docker-daemon:NAME[:TAG]                 a Docker engine's; or docker-daemon:sha256:ID
  containers-storage:[[STORE]]NAME[:TAG]   podman's, buildah's and CRI-O's; or @ID
  ostree:NAME[:TAG][@/PATH]                an OSTree repository's; without a PATH, /ostree/repo's
  tarball:FILE[:FILE...]                   tars of files as an image, one layer each; to read
  sif:PATH                                 a Singularity or Apptainer image; to read
`

// placesOnly tells of places without an image in them.
const placesOnly = `
  docker://                                registries; so it is without any SOURCE
  oci:PATH                                 an OCI image layout, a folder
  oci-archive:PATH                         the same as a tar; to read
  dir:PATH                                 a folder with one image
  docker-archive:PATH                      what docker save writes; to read
  docker-daemon:                           a Docker engine
  containers-storage:[STORE]               podman's, buildah's and CRI-O's; theirs of storage.conf without [STORE]
  ostree:PATH                              an OSTree repository
  tarball:FILE[:FILE...]                   tars of files as an image, one layer each; to read
  sif:PATH                                 a Singularity or Apptainer image; to read
`

// places opens what images live in.
type places struct {
	// registry opens a registry by its name.
	registry func(host string) (image.Host, error)
	// sharedBlobs is the folder that OCI image layouts have their blobs in, "" for their own.
	sharedBlobs string
	// daemon is the Docker engine's address, "" for the usual one.
	daemon  string
	timeout time.Duration
	tempDir string
}

// place is one that was opened: with hosts, or one repository.
type place struct {
	hosts image.Place // nil for one repository
	src   image.Source
	sink  image.Sink // nil where nothing can be written; it is closed with src
	// tagged tells that images of the one repository can have names.
	tagged bool
}

func (p *place) Close() error {
	if p.hosts != nil {
		return p.hosts.Close()
	}
	return p.src.Close()
}

// readOnly is why nothing can be written to places of a kind.
func readOnly(r image.Ref) error {
	return fmt.Errorf("write %s: %w: such a place can only be read", r, image.ErrUnsupported)
}

// open opens any place but a registry, and for writing makes it if it is not there. The context ends it, whatever holds it up; and so
// does the timeout where somebody else's lock can, and nothing that is long is read.
func (p *places) open(ctx context.Context, r image.Ref, write bool) (*place, error) {
	type opened struct {
		at  *place
		err error
	}
	timed, cancel := context.WithCancel(ctx)
	defer cancel()
	if p.timeout > 0 && (write || r.Transport == image.ContainersStorage) {
		timed, cancel = context.WithTimeout(ctx, p.timeout)
		defer cancel()
	}
	done := make(chan opened, 1)
	go func() {
		at, err := p.openNow(ctx, r, write)
		done <- opened{at, err}
	}()
	select {
	case o := <-done:
		return o.at, o.err
	case <-timed.Done():
		go func() {
			if o := <-done; o.err == nil {
				o.at.Close()
			}
		}()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("open %s: nothing happened for %v, another process may have it locked: %w", r.Place(), p.timeout, image.ErrUnavailable)
	}
}

func (p *places) openNow(ctx context.Context, r image.Ref, write bool) (*place, error) {
	switch r.Transport {
	case image.OCI:
		return p.openLayout(r, write)
	case image.OCIArchive:
		l, err := choose(write, oci.CreateArchive, oci.OpenArchive)(ctx, r.Path)
		return alone(l, l, true, err)
	case image.Dir:
		d, err := choose(write, dir.Create, dir.Open)(r.Path)
		return alone(d, d, false, err)
	case image.DockerArchive:
		a, err := choose(write, dockerarchive.Create, dockerarchive.Open)(ctx, r.Path)
		return withHosts(a, err)
	case image.ContainersStorage:
		s, err := choose(write, storage.Create, storage.Open)(ctx, r.Path)
		return withHosts(s, err)
	case image.OSTree:
		o, err := choose(write, ostree.Create, ostree.Open)(r.Path, ostree.Options{TempDir: p.tempDir})
		return withHosts(o, err)
	case image.DockerDaemon:
		e, err := engine.Open(engine.Options{Host: p.daemon, Timeout: p.timeout, TempDir: p.tempDir})
		return withHosts(e, err)
	}
	if write {
		return nil, readOnly(r)
	}
	return p.openReadOnly(r)
}

func (p *places) openLayout(r image.Ref, write bool) (*place, error) {
	var options []oci.Option
	if p.sharedBlobs != "" {
		options = append(options, oci.SharedBlobs(p.sharedBlobs))
	}
	l, err := choose(write, oci.Create, oci.Open)(r.Path, options...)
	return alone(l, l, true, err)
}

func (p *places) openReadOnly(r image.Ref) (*place, error) {
	if r.Transport == image.SIF {
		src, err := sif.Open(r.Path, sif.Options{TempDir: p.tempDir})
		return alone(src, nil, false, err)
	}
	src, err := tarball.Open(r.Path, tarball.Options{TempDir: p.tempDir})
	return alone(src, nil, false, err)
}

// choose is what opens for writing, or what does for reading.
func choose[T any](write bool, create, open T) T {
	if write {
		return create
	}
	return open
}

func withHosts(hosts image.Place, err error) (*place, error) {
	if err != nil {
		return nil, err
	}
	return &place{hosts: hosts}, nil
}

// alone is a place of one repository.
func alone(src image.Source, sink image.Sink, tagged bool, err error) (*place, error) {
	if err != nil {
		return nil, err
	}
	return &place{src: src, sink: sink, tagged: tagged}, nil
}

// source opens the repository that r is in.
func (p *places) source(ctx context.Context, r image.Ref) (image.Source, error) {
	if r.Transport == image.Registry {
		host, err := p.registry(r.Repository.Host)
		if err != nil {
			return nil, err
		}
		return host.Source(ctx, r.Repository.Name)
	}
	at, err := p.open(ctx, r, false)
	if err != nil || at.hosts == nil {
		return at.alone(), err
	}
	host, name, err := at.host(r)
	if err != nil {
		return nil, errors.Join(err, at.Close())
	}
	src, err := host.Source(ctx, name)
	if err != nil {
		return nil, errors.Join(err, at.Close())
	}
	return &ownedSource{src, at}, nil
}

// sink opens the repository that r is to be in.
func (p *places) sink(ctx context.Context, r image.Ref) (image.Sink, error) {
	if r.Transport == image.Registry {
		host, err := p.registry(r.Repository.Host)
		if err != nil {
			return nil, err
		}
		return host.Sink(ctx, r.Repository.Name)
	}
	at, err := p.open(ctx, r, true)
	if err != nil {
		return nil, err
	}
	if at.hosts == nil {
		return at.sink, nil
	}
	host, name, err := at.host(r)
	if err != nil {
		return nil, errors.Join(err, at.Close())
	}
	sink, err := host.Sink(ctx, name)
	if err != nil {
		return nil, errors.Join(err, at.Close())
	}
	return &ownedSink{sink, at}, nil
}

// alone is the Source of one repository.
func (p *place) alone() image.Source {
	if p == nil {
		return nil
	}
	return p.src
}

// host is that of r's repository, and the repository's name there. Images with IDs and positions are in the one without a name.
func (p *place) host(r image.Ref) (image.Host, string, error) {
	at := r.Repository
	if r.ID != "" {
		at = image.Repository{}
	}
	host, err := p.hosts.Host(at.Host)
	return host, at.Name, err
}

// ownedSource and ownedSink are closed with the place that was opened for them alone.
type ownedSource struct {
	image.Source
	at *place
}

func (s *ownedSource) Close() error { return errors.Join(s.Source.Close(), s.at.Close()) }

type ownedSink struct {
	image.Sink
	at *place
}

func (s *ownedSink) Close() error { return errors.Join(s.Sink.Close(), s.at.Close()) }

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

// parseDestination reads the name that an image is to have, which is no ID and no position: those are what images get.
func parseDestination(text string) (image.Ref, error) {
	r, err := parseRef(text)
	switch {
	case err == nil && r.ID != "":
		err = usageError{fmt.Errorf("%s: an image can't be written to an ID: give it a name", r)}
	case err == nil && r.Position >= 0:
		err = usageError{fmt.Errorf("%s: an image can't be written to a position: give it a name", r)}
	}
	return r, err
}

// parseRef reads the name of an image.
func parseRef(text string) (image.Ref, error) {
	r, err := image.ParseRef(text)
	if err != nil {
		return r, usageError{err}
	}
	return r, nil
}
