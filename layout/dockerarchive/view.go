package dockerarchive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
	"github.com/regfs/regfs/layout/oci"
)

const (
	manifestFile   = "manifest.json"
	namesFile      = "repositories" // what docker had before manifest.json
	maxManifest    = 8 << 20        // bytes of manifest.json
	maxIndex       = 64 << 20       // bytes of index.json
	maxConfig      = 4 << 20        // bytes of a config, as elsewhere
	maxItems       = 20_000         // images of manifest.json
	mediaTypeLayer = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	mediaTypeConf  = image.MediaTypeDockerConfig
)

// item is an image of manifest.json.
type item struct {
	Config       string
	RepoTags     []string
	Layers       []string
	Parent       string          `json:",omitempty"`
	LayerSources json.RawMessage `json:",omitempty"`
}

// view is an archive that does not change.
type view struct {
	a      *Archive
	items  []*item
	listed []image.Descriptor // in index.json
	// names are all names of images, and the images of manifest.json, nil for what only index.json has.
	names map[fullName]*item

	// What follows is made when it is wanted, with a.loading.
	configs  map[string]*config              // by where they are
	contents map[digest.Digest]content       // all but what index.json has; nil before they were looked for
	roots    map[digest.Digest]digest.Digest // what index.json lists, by the digests of configs; nil before they were looked for
	sizes    map[string]int64                // of compressed layers, uncompressed
	made     map[*item]*content              // the manifests that had to be made
}

// view is the archive as it is now.
func (a *Archive) view(ctx context.Context) (*view, error) {
	if err := a.loading.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer a.loading.Release(1)
	turn, err := a.files.Turn(ctx)
	if err != nil || a.seen != nil && a.turn == turn {
		return a.seen, err
	}
	v := &view{
		a: a, names: map[fullName]*item{}, configs: map[string]*config{}, sizes: map[string]int64{}, made: map[*item]*content{},
	}
	if err := v.load(ctx); err != nil {
		return nil, err
	}
	a.seen, a.turn = v, turn
	return v, nil
}

func (v *view) load(ctx context.Context) error {
	var err error
	if v.items, err = v.a.readItems(ctx); err != nil {
		return err
	}
	if v.listed, err = v.a.readIndex(ctx); err != nil {
		return err
	}
	for _, it := range v.items {
		for _, tag := range it.RepoTags {
			if n, ok := parseName(tag); ok && v.names[n] == nil {
				v.names[n] = it
			}
		}
	}
	for _, d := range v.listed {
		full := d.Annotations[oci.AnnotationFullName]
		if n, ok := parseName(full); ok && n.String() == full && v.names[n] == nil {
			v.names[n] = nil
		}
	}
	return nil
}

// readItems reads manifest.json.
func (a *Archive) readItems(ctx context.Context) ([]*item, error) {
	raw, err := files.Read(ctx, a.files, manifestFile, maxManifest)
	switch {
	case isMissing(err) && a.writable && a.files.None():
		return nil, nil
	case isMissing(err) && !errors.Is(err, image.ErrInvalid): // which is one that is cut short
		return nil, fmt.Errorf("no docker archive: it has no %s: %w", manifestFile, image.ErrInvalid)
	case err != nil:
		return nil, err
	}
	return parseItems(raw)
}

// parseItems reads a manifest.json. What is none is ErrInvalid.
func parseItems(raw []byte) ([]*item, error) {
	wrong := func(reason any) error { return fmt.Errorf("%s: %v: %w", manifestFile, reason, image.ErrInvalid) }
	if !json.Valid(raw) {
		return nil, wrong("it is not JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if start, err := dec.Token(); err != nil || start != json.Delim('[') {
		return nil, wrong("it is no list")
	}
	var items []*item
	for dec.More() {
		it := &item{}
		if err := dec.Decode(it); err != nil {
			return nil, wrong(err)
		}
		if len(items) >= maxItems {
			return nil, wrong(fmt.Sprintf("it lists more than %d images", maxItems))
		}
		items = append(items, it)
	}
	return items, nil
}

// readIndex reads index.json, if it is there.
func (a *Archive) readIndex(ctx context.Context) ([]image.Descriptor, error) {
	raw, err := files.Read(ctx, a.files, v1.ImageIndexFile, maxIndex)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return oci.Entries(raw)
}
