package dockerarchive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// config is what matters of the config of an image.
type config struct {
	image.Descriptor
	diffIDs []digest.Digest
}

// content is what is in the archive under no digest: a config, a layer, or a manifest that was made.
type content struct {
	image.Descriptor        // Size is -1 for a layer that is not measured yet
	path             string // where it is, or
	raw              []byte // what it is
	layer            bool
}

// config reads the config of an image.
func (v *view) config(ctx context.Context, it *item) (*config, error) {
	where := path.Clean(it.Config)
	if c := v.configs[where]; c != nil {
		return c, nil
	}
	raw, err := files.Read(ctx, v.a.files, where, maxConfig)
	if err != nil {
		return nil, err
	}
	var doc struct {
		RootFS *struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil || doc.RootFS == nil {
		return nil, fmt.Errorf("%s is no config of an image: %w", files.Clean(it.Config), image.ErrInvalid)
	}
	c := &config{diffIDs: doc.RootFS.DiffIDs}
	c.Descriptor = image.Descriptor{MediaType: mediaTypeConf, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	v.configs[where] = c
	return c, nil
}

// image reads the config of an image that can be had as its layers are.
func (v *view) image(ctx context.Context, it *item) (*config, error) {
	c, err := v.config(ctx, it)
	if err != nil {
		return nil, err
	}
	if len(c.diffIDs) != len(it.Layers) {
		return nil, fmt.Errorf("%s has %d layers and its config %d: %w", manifestFile, len(it.Layers), len(c.diffIDs), image.ErrInvalid)
	}
	for _, id := range c.diffIDs {
		if err := id.Validate(); err != nil {
			return nil, fmt.Errorf("layer %s: %v: %w", files.Clean(id.String()), err, image.ErrInvalid)
		}
	}
	return c, nil
}

// look finds all configs and layers. Images that are none have none.
func (v *view) look(ctx context.Context) error {
	if v.contents != nil {
		return nil
	}
	found := map[digest.Digest]content{}
	for _, it := range v.items {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := v.image(ctx, it)
		if err != nil {
			continue
		}
		found[c.Digest] = content{Descriptor: c.Descriptor, path: path.Clean(it.Config)}
		for i, id := range c.diffIDs {
			if _, ok := found[id]; !ok {
				d := image.Descriptor{MediaType: mediaTypeLayer, Digest: id, Size: -1}
				found[id] = content{Descriptor: d, path: path.Clean(it.Layers[i]), layer: true}
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	v.contents = found
	return nil
}

// size is how long a layer is, uncompressed.
func (v *view) size(ctx context.Context, where string) (int64, error) {
	if size, ok := v.sizes[where]; ok {
		return size, nil
	}
	r, size, packed, err := v.a.openLayer(ctx, where)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if packed {
		if size, err = io.Copy(io.Discard, r); err != nil {
			return 0, fmt.Errorf("%s: %w", files.Clean(where), err)
		}
	}
	v.sizes[where] = size
	return size, nil
}

// openLayer opens a layer uncompressed. The size is that of its file.
func (a *Archive) openLayer(ctx context.Context, where string) (r io.ReadCloser, size int64, packed bool, err error) {
	file, size, err := a.files.Open(ctx, where)
	if err != nil {
		return nil, 0, false, err
	}
	how, err := files.Packed(file)
	var plain io.ReadCloser
	if err == nil {
		plain, err = files.Unpack(&reader{ctx, file}, how)
	}
	if err != nil {
		file.Close()
		return nil, 0, false, fmt.Errorf("%s: %w", files.Clean(where), err)
	}
	return &layerReader{plain, file}, size, how != "", nil
}

// layerReader is a layer and the file it is in.
type layerReader struct {
	io.ReadCloser
	file io.Closer
}

func (r *layerReader) Close() error { return errors.Join(r.ReadCloser.Close(), r.file.Close()) }

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// manifest2 is a Docker schema 2 manifest, field for field as skopeo writes it.
type manifest2 struct {
	SchemaVersion int           `json:"schemaVersion"`
	MediaType     string        `json:"mediaType"`
	Config        descriptor2   `json:"config"`
	Layers        []descriptor2 `json:"layers"`
}

type descriptor2 struct {
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Digest    digest.Digest `json:"digest"`
}

// make is the manifest of an image that has none: that of its config, and its layers uncompressed.
func (v *view) make(ctx context.Context, it *item) (*content, error) {
	if c := v.made[it]; c != nil {
		return c, nil
	}
	c, err := v.image(ctx, it)
	if err != nil {
		return nil, err
	}
	m := manifest2{
		SchemaVersion: 2, MediaType: image.MediaTypeDockerManifest, Layers: []descriptor2{},
		Config: descriptor2{mediaTypeConf, c.Size, c.Digest},
	}
	for i, id := range c.diffIDs {
		size, err := v.size(ctx, path.Clean(it.Layers[i]))
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, descriptor2{mediaTypeLayer, size, id})
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	d := image.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	v.made[it] = &content{Descriptor: d, raw: raw}
	return v.made[it], nil
}

// find finds what is in the archive under no digest.
func (v *view) find(ctx context.Context, dgst digest.Digest) (content, error) {
	if err := v.a.loading.Acquire(ctx, 1); err != nil {
		return content{}, err
	}
	defer v.a.loading.Release(1)
	if err := v.look(ctx); err != nil {
		return content{}, err
	}
	if c, ok := v.contents[dgst]; ok {
		return v.measured(ctx, c)
	}
	for _, it := range v.items {
		if err := ctx.Err(); err != nil {
			return content{}, err
		}
		if root, err := v.root(ctx, it); err != nil || root != "" {
			continue
		}
		if c, err := v.make(ctx, it); err == nil && c.Digest == dgst {
			return *c, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return content{}, err
	}
	return content{}, fmt.Errorf("the archive has nothing of that digest: %w", image.ErrNotFound)
}

func (v *view) measured(ctx context.Context, c content) (content, error) {
	var err error
	if c.layer {
		c.Size, err = v.size(ctx, c.path)
	}
	return c, err
}

// root is what index.json lists of an image: the image, or the index of images that it is of; "" for nothing.
func (v *view) root(ctx context.Context, it *item) (digest.Digest, error) {
	if len(v.listed) == 0 {
		return "", nil
	}
	c, err := v.config(ctx, it)
	if err != nil {
		return "", err
	}
	if v.roots == nil {
		f := rootFinder{ctx: ctx, a: v.a, seen: map[digest.Digest]bool{}, roots: map[digest.Digest]digest.Digest{}}
		f.all(v.listed)
		if err := ctx.Err(); err != nil {
			return "", err
		}
		v.roots = f.roots
	}
	return v.roots[c.Digest], nil
}

// maxManifests is how many manifests below an index.json are read to find out whose configs are whose.
const maxManifests = 100_000

// rootFinder finds the configs below what an index.json lists. What is not there, or is no image, has none.
type rootFinder struct {
	ctx   context.Context
	a     *Archive
	seen  map[digest.Digest]bool
	roots map[digest.Digest]digest.Digest // what is listed, by the digests of configs
}

func (f *rootFinder) all(listed []image.Descriptor) {
	for _, d := range listed {
		m := f.read(d)
		if m == nil {
			continue
		}
		f.found(d, m)
		for _, child := range m.Manifests {
			if m := f.read(child); m != nil {
				f.found(d, m)
			}
		}
	}
}

func (f *rootFinder) found(root image.Descriptor, m *image.Manifest) {
	if m.Config != nil && f.roots[m.Config.Digest] == "" {
		f.roots[m.Config.Digest] = root.Digest
	}
}

// read reads a manifest for the first time.
func (f *rootFinder) read(d image.Descriptor) *image.Manifest {
	if f.seen[d.Digest] || len(f.seen) >= maxManifests || f.ctx.Err() != nil {
		return nil
	}
	f.seen[d.Digest] = true
	m, err := f.a.readManifest(f.ctx, d)
	if err != nil {
		return nil
	}
	return m
}

// readManifest reads a manifest that the archive has as a blob.
func (a *Archive) readManifest(ctx context.Context, d image.Descriptor) (*image.Manifest, error) {
	d, raw, err := a.all.Manifest(ctx, d.Digest.String())
	if err != nil {
		return nil, err
	}
	return image.ParseManifest(d.MediaType, raw)
}
