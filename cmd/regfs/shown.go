package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/regfs/regfs/fs"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/plain"
)

// show opens all places of a mount. Registries are opened when they are looked at.
func (p *places) show(ctx context.Context, s *sources, readOnly bool) (all fs.Places, err error) {
	all = fs.Places{Host: p.registry, Named: map[string]fs.Named{}}
	for name, r := range s.named {
		if all.Named[name], err = p.showOne(ctx, r, readOnly); err != nil {
			delete(all.Named, name)
			return all, errors.Join(err, all.Close())
		}
	}
	if s.registries() {
		return all, nil
	}
	top, err := p.showOne(ctx, s.top, readOnly)
	if err != nil {
		return all, errors.Join(err, all.Close())
	}
	all.Top = &top
	return all, nil
}

// showOne opens a place to be mounted. Archives can only be read there: each write would make them anew.
func (p *places) showOne(ctx context.Context, r image.Ref, readOnly bool) (fs.Named, error) {
	switch r.Transport {
	case image.OCIArchive, image.DockerArchive, image.SIF, image.Tarball:
		readOnly = true
	}
	at, err := p.open(ctx, r, false)
	if errors.Is(err, image.ErrNotFound) && !readOnly && canBeMade(r) {
		at, err = p.open(ctx, r, true)
	}
	switch {
	case err != nil:
		return fs.Named{}, err
	case at.hosts != nil:
		imagesOnly := r.Transport == image.ContainersStorage || r.Transport == image.DockerDaemon
		return fs.Named{Host: &shown{Host: fs.Merge(at.hosts), readOnly: readOnly}, ImagesOnly: imagesOnly}, nil
	case readOnly:
		at.sink = nil
	}
	return fs.Named{Host: fs.Alone(at.src, at.sink, at.tagged), Single: true}, nil
}

// canBeMade tells whether a place that is not there is to be: where a path is mistyped, its folder mostly is not there either.
func canBeMade(r image.Ref) bool {
	if r.Transport == image.ContainersStorage {
		return true
	}
	_, err := os.Stat(filepath.Dir(r.Path))
	return err == nil
}

// shown is a place with hosts as a mount shows it: of layers that it has only uncompressed, images say so.
type shown struct {
	image.Host
	readOnly bool

	mu      sync.Mutex
	sources map[string]image.Source
}

// maxShownSources is how many repositories are kept open.
const maxShownSources = 1000

// Source opens each repository once: who reads layers goes by who they are read from.
func (s *shown) Source(ctx context.Context, repository string) (image.Source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src := s.sources[repository]; src != nil {
		return src, nil
	}
	src, err := s.Host.Source(ctx, repository)
	if err != nil {
		return nil, err
	}
	if s.sources == nil || len(s.sources) >= maxShownSources {
		s.sources = map[string]image.Source{}
	}
	s.sources[repository] = plain.New(src)
	return s.sources[repository], nil
}

// Sink implements image.Host.
func (s *shown) Sink(ctx context.Context, repository string) (image.Sink, error) {
	if s.readOnly {
		return nil, image.ErrUnsupported
	}
	return s.Host.Sink(ctx, repository)
}
