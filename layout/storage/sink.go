//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
	"github.com/regfs/regfs/layout/plain"
)

// sink writes one repository.
//
// Blobs go to temporary files as they come. Layers of an image that was expected are unpacked in their order as soon as the config is
// there, each as soon as the one below it is in the store: where the store can do it aside, while it still comes. Nothing of a layer is
// in the store before all of it, and its tar, have the right digests.
type sink struct {
	store *Store
	at    image.Repository // zero: without a name

	ctx    context.Context // of the unpacking, until Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{}                // closed, and replaced, when the unpacking of any image has got further
	blobs   map[digest.Digest]*arrived   // what was pushed, and is not part of an image yet
	coming  map[digest.Digest]*unpacking // by the digest of their manifest
	indexes []expectedIndex
}

// arrived is a blob that was pushed, or is being pushed.
type arrived struct {
	spool *spool // nil: the store has the layer
	at    time.Time
}

// expectedIndex is an index that was refused, but is kept with the images that it names.
type expectedIndex struct {
	image.Descriptor
	raw       []byte
	manifests []image.Descriptor
}

// maxLayers is more than any driver could mount.
const maxLayers = 1000

// maxIndexes is how many of them are remembered.
const maxIndexes = 4

func newSink(s *Store, at image.Repository) *sink {
	k := &sink{
		store: s, at: at, changed: make(chan struct{}), blobs: map[digest.Digest]*arrived{}, coming: map[digest.Digest]*unpacking{},
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

// Expect implements image.Sink.
func (k *sink) Expect(ctx context.Context, d image.Descriptor, raw []byte) error {
	err := ctx.Err()
	if err == nil {
		err = k.expect(d, raw)
	}
	return k.failed("store", d.Digest.String(), err)
}

func (k *sink) failed(op, ref string, err error) error { return k.store.failed(op, at(k.at, ref), err) }

func (k *sink) expect(d image.Descriptor, raw []byte) error {
	m, err := parseManifest(d, raw)
	if err != nil {
		return err
	}
	if m.IsIndex() {
		k.remember(expectedIndex{d, raw, m.Manifests})
	}
	if err := holdable(m); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropOld(time.Now())
	u := k.image(d, m)
	if !u.running { // an earlier attempt's failure and layers may be gone
		u.err, u.next, u.parent = nil, 0, ""
	}
	k.advance(u)
	return nil
}

// image is what is known of a manifest's image, which comes now if it did not before. It needs the lock.
func (k *sink) image(d image.Descriptor, m *image.Manifest) *unpacking {
	u := k.coming[d.Digest]
	if u == nil {
		u = &unpacking{Descriptor: d, m: m}
		k.coming[d.Digest] = u
	}
	u.at = time.Now()
	return u
}

// parseManifest reads a manifest that must match d.
func parseManifest(d image.Descriptor, raw []byte) (*image.Manifest, error) {
	if err := acceptable(d); err != nil {
		return nil, err
	}
	// A signed schema 1 manifest has a digest of its own kind, and is refused for what it is.
	got, err := image.DigestManifest(digest.SHA256, d.MediaType, raw)
	if err != nil {
		return nil, err
	}
	if d.Size >= 0 && d.Size != int64(len(raw)) || got != d.Digest {
		return nil, fmt.Errorf("the manifest does not match %s: %w", d.Digest, image.ErrDigest)
	}
	return image.ParseManifest(d.MediaType, raw)
}

// acceptable tells what no store can hold.
func acceptable(d image.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	if image.IsManifest(d.MediaType) && d.Size > image.MaxManifest {
		return fmt.Errorf("a manifest of %d bytes, more than %d: %w", d.Size, image.MaxManifest, image.ErrTooLarge)
	}
	if d.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("a container storage knows no digests but sha256: %w", image.ErrUnsupported)
	}
	return nil
}

// configTypes are the configs of images.
var configTypes = []string{v1.MediaTypeImageConfig, image.MediaTypeDockerConfig}

// holdable tells what keeps a manifest's image from being in a store.
func holdable(m *image.Manifest) error {
	switch {
	case m.IsIndex():
		return fmt.Errorf("a container storage holds images of one platform each, and no index: choose a platform: %w", image.ErrUnsupported)
	case m.Config == nil:
		return fmt.Errorf("a Docker schema 1 image can't be stored as it is: %w", image.ErrUnsupported)
	case !slices.Contains(configTypes, m.Config.MediaType):
		return fmt.Errorf("a container storage holds images only, and this is an artifact with a config of type %s: %w",
			files.Clean(m.Config.MediaType), image.ErrUnsupported)
	case len(m.Layers) > maxLayers:
		return fmt.Errorf("an image of %d layers, and no store can have more than %d on top of each other: %w", len(m.Layers), maxLayers, image.ErrTooLarge)
	case m.Config.Size > maxConfig:
		return fmt.Errorf("a config of %d bytes, more than %d: %w", m.Config.Size, maxConfig, image.ErrTooLarge)
	}
	for _, d := range m.Children() {
		if err := acceptable(d); err != nil {
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
	}
	for _, layer := range m.Layers {
		if !plain.IsLayer(layer.MediaType) {
			return fmt.Errorf("a container storage unpacks layers, and %s is none that it could unpack: %w", files.Clean(layer.MediaType), image.ErrUnsupported)
		}
	}
	return nil
}

func (k *sink) remember(x expectedIndex) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.ContainsFunc(k.indexes, func(known expectedIndex) bool { return known.Digest == x.Digest }) {
		return
	}
	x.raw = bytes.Clone(x.raw)
	k.indexes = append(k.indexes, x)
	k.indexes = k.indexes[max(0, len(k.indexes)-maxIndexes):]
}

// Push implements image.Sink. A layer that the store has, in any image, is skipped. An image that is pushed and has no tag goes by its
// digest in the repository, as one that was pulled by digest.
func (k *sink) Push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	how, err := k.push(ctx, d, content)
	if err != nil {
		return "", k.failed("push", d.Digest.String(), err)
	}
	return how, nil
}

func (k *sink) push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := acceptable(d); err != nil {
		return "", err
	}
	if image.IsManifest(d.MediaType) {
		return k.pushManifest(ctx, d, content)
	}
	if has, err := k.reuse(ctx, d); has || err != nil {
		return image.Skipped, err
	}
	return k.receive(ctx, d, content)
}

func how(content image.Content) image.How {
	if content.Remote {
		return image.Streamed
	}
	return image.Uploaded
}

func (k *sink) pushManifest(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	raw, err := readContent(ctx, d, content)
	if err != nil {
		return "", err
	}
	d.Size = int64(len(raw))
	var names []string
	if k.at != (image.Repository{}) {
		names = []string{k.at.String() + "@" + d.Digest.String()}
	}
	if err := k.commit(ctx, d, raw, names); err != nil {
		return "", err
	}
	if content.Sent != nil {
		content.Sent(d.Size)
	}
	return how(content), nil
}

// readContent reads and verifies a manifest that is about to be stored.
func readContent(ctx context.Context, d image.Descriptor, content image.Content) ([]byte, error) {
	r, err := content.Open(ctx, 0)
	if err != nil {
		return nil, err
	}
	v, err := image.Verify(r, d)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	raw, err := io.ReadAll(io.LimitReader(v, image.MaxManifest+1))
	if err == nil && len(raw) > image.MaxManifest {
		err = fmt.Errorf("a manifest of more than %d bytes: %w", image.MaxManifest, image.ErrTooLarge)
	}
	return raw, err
}

// has tells whether the store has a layer, by the digest that it came with or, if the config of an image that was expected tells it,
// by that of its tar.
func (k *sink) has(ctx context.Context, dgst digest.Digest) (bool, error) {
	return ask(ctx, func() (bool, error) {
		layers, err := k.store.lib.LayersByCompressedDigest(dgst)
		if len(layers) > 0 && layers[0].UncompressedDigest != "" {
			return true, nil
		}
		for _, diffID := range k.diffIDs(dgst) {
			if layers, err = k.store.lib.LayersByUncompressedDigest(diffID); len(layers) > 0 {
				return true, nil
			}
		}
		if errors.Is(err, storage.ErrLayerUnknown) {
			err = nil
		}
		return false, err
	})
}

// diffIDs are what the configs of images that were expected say of a layer.
func (k *sink) diffIDs(dgst digest.Digest) []digest.Digest {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []digest.Digest
	for _, u := range k.coming {
		for i, layer := range u.m.Layers {
			if layer.Digest == dgst && u.config != nil {
				all = append(all, u.diffIDs[i])
			}
		}
	}
	return all
}

// receive has a blob arrive, or waits for who receives the same one.
func (k *sink) receive(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	for {
		sp, mine, err := k.claim(d.Digest)
		if err != nil {
			return "", err
		}
		if mine {
			defer sp.release()
			return how(content), k.write(ctx, d, content, sp)
		}
		err = sp.wait(ctx)
		sp.release()
		if err == nil || ctx.Err() != nil {
			return image.Skipped, err
		}
	}
}

// claim is the spool that a blob arrives in. It is held for the caller, and mine to write if it was made for that.
func (k *sink) claim(dgst digest.Digest) (sp *spool, mine bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b := k.blobs[dgst]; b != nil && b.spool != nil {
		b.spool.hold()
		return b.spool, false, nil
	}
	sp, err = k.store.newSpool()
	if err != nil {
		return nil, false, err
	}
	sp.hold()
	k.blobs[dgst] = &arrived{sp, time.Now()}
	k.advanceAll(dgst)
	return sp, true, nil
}

// write fills a spool. What fails is forgotten, and can be pushed again.
func (k *sink) write(ctx context.Context, d image.Descriptor, content image.Content, sp *spool) error {
	err := fill(ctx, d, content, sp)
	if err != nil {
		k.forget(d.Digest, sp)
	}
	sp.end(err)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.advanceAll(d.Digest)
	return err
}

func fill(ctx context.Context, d image.Descriptor, content image.Content, w io.Writer) error {
	r, err := content.Open(ctx, 0)
	if err != nil {
		return err
	}
	v, err := image.Verify(r, d)
	if err != nil {
		return err
	}
	defer v.Close()
	if content.Sent != nil {
		w = &counter{Writer: w, tell: content.Sent}
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, &reader{ctx, v}, make([]byte, spoolStep))
	return err
}

// arrive notes that a blob is here.
func (k *sink) arrive(dgst digest.Digest, b *arrived) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.blobs[dgst]; old == nil || old.spool == nil {
		k.blobs[dgst] = b
	}
	k.advanceAll(dgst)
}

// forget drops a blob, if it is still the one in that spool.
func (k *sink) forget(dgst digest.Digest, sp *spool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b := k.blobs[dgst]; b != nil && b.spool == sp {
		delete(k.blobs, dgst)
		if sp != nil {
			sp.release()
		}
	}
}
