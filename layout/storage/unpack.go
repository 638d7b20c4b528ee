//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// unpacking is an image on its way into the store. What can change does so under the sink's lock.
type unpacking struct {
	image.Descriptor // of the manifest
	m                *image.Manifest

	config  []byte // nil as long as it has not come
	diffIDs []digest.Digest
	created time.Time

	next    int       // how many layers are in the store
	parent  string    // the last of them
	running bool      // somebody unpacks
	at      time.Time // when it was expected last
	err     error     // why nobody does any more
}

// wake tells those who wait for an image. It needs the lock.
func (k *sink) wake() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// advanceAll goes on with all images that need a blob. It needs the lock.
func (k *sink) advanceAll(dgst digest.Digest) {
	for _, u := range k.coming {
		for _, d := range u.m.Children() {
			if d.Digest == dgst {
				k.advance(u)
				break
			}
		}
	}
}

// advance has somebody unpack an image, as far as that can be. It needs the lock.
func (k *sink) advance(u *unpacking) {
	if b := k.blobs[u.m.Config.Digest]; u.config == nil && u.err == nil && b != nil && b.whole() {
		u.err = u.readConfig(k.ctx, b.spool)
	}
	if !u.running && u.err == nil && k.ready(u) {
		u.running = true
		k.work.Go(func() { k.run(u) })
	}
}

// ready tells whether the next layer of an image can be unpacked. It needs the lock.
func (k *sink) ready(u *unpacking) bool {
	if k.ctx.Err() != nil || u.config == nil || u.done() {
		return false
	}
	b := k.blobs[u.needs().Digest]
	return b != nil && (b.spool == nil || b.whole() || k.store.follows && !interrupted(b.spool))
}

// whole tells that all of a blob is in its spool.
func (b *arrived) whole() bool {
	if b.spool == nil {
		return false
	}
	_, _, err := b.spool.state()
	return err == io.EOF
}

// ended tells that no more of a blob comes into its spool.
func (b *arrived) ended() bool {
	_, _, err := b.spool.state()
	return err != nil
}

func (u *unpacking) done() bool { return u.config != nil && u.next == len(u.m.Layers) }

// needs is what an image needs next. It must not be done.
func (u *unpacking) needs() image.Descriptor {
	if u.config == nil {
		return *u.m.Config
	}
	return u.m.Layers[u.next]
}

// run unpacks what it can of an image, in order.
func (k *sink) run(u *unpacking) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for u.err == nil && k.ready(u) {
		layer, diffID, parent := u.m.Layers[u.next], u.diffIDs[u.next], u.parent
		sp := k.blobs[layer.Digest].spool
		if sp != nil {
			sp.hold()
		}
		k.mu.Unlock()
		id, err := k.unpack(parent, layer, diffID, sp)
		k.mu.Lock()
		if err != nil {
			k.stop(u, sp, fmt.Errorf("layer %s: %w", layer.Digest, unpackingError(err)))
		} else {
			u.parent = id
			u.next++
			k.drop(layer.Digest, sp)
		}
		if sp != nil {
			sp.release()
		}
		if err != nil {
			break
		}
	}
	u.running = false
	k.wake()
}

// drop gives up the spool of a layer that the store has now. It needs the lock.
func (k *sink) drop(dgst digest.Digest, sp *spool) {
	if b := k.blobs[dgst]; sp != nil && b != nil && b.spool == sp {
		b.spool = nil
		sp.release()
	}
}

// stop notes why the next step of an image failed. Content that did not come, or that the store has lost meanwhile, can be pushed again.
func (k *sink) stop(u *unpacking, sp *spool, err error) {
	dgst := u.needs().Digest
	switch {
	case sp == nil && errors.Is(err, image.ErrNotFound):
		if b := k.blobs[dgst]; b != nil && b.spool == nil {
			delete(k.blobs, dgst)
		}
	case !interrupted(sp):
		u.err = err
	}
}

// interrupted tells that a step failed since its content did not come, which is told to who pushes it.
func interrupted(sp *spool) bool {
	if sp == nil {
		return false
	}
	_, _, err := sp.state()
	return err != nil && err != io.EOF
}

// readConfig learns from the config what the layers' tars should be. It needs the lock.
func (u *unpacking) readConfig(ctx context.Context, sp *spool) error {
	r := sp.reader(ctx)
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, u.m.Config.Size+1))
	if err != nil {
		return err
	}
	if int64(len(raw)) != u.m.Config.Size {
		return fmt.Errorf("config %s does not have %d bytes, as the manifest says: %w", u.m.Config.Digest, u.m.Config.Size, image.ErrDigest)
	}
	return u.parseConfig(raw)
}

func (u *unpacking) parseConfig(raw []byte) error {
	var config struct {
		Created json.RawMessage `json:"created"`
		RootFS  struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return fmt.Errorf("config %s: %v: %w", u.m.Config.Digest, err, image.ErrInvalid)
	}
	ids := config.RootFS.DiffIDs
	if len(ids) != len(u.m.Layers) {
		return fmt.Errorf("config %s has %d diff IDs for %d layers: %w", u.m.Config.Digest, len(ids), len(u.m.Layers), image.ErrInvalid)
	}
	for _, id := range ids {
		if err := id.Validate(); err != nil || id.Algorithm() != digest.SHA256 {
			return fmt.Errorf("config %s has the diff ID %s: %w", u.m.Config.Digest, files.Clean(id.String()), image.ErrInvalid)
		}
	}
	var created time.Time
	json.Unmarshal(config.Created, &created) // what is no time is none
	u.config, u.diffIDs, u.created = raw, ids, created
	return nil
}

// layerID is what a layer on top of another is called by all that write stores.
func layerID(parent string, diffID digest.Digest) string {
	if parent == "" {
		return diffID.Encoded()
	}
	return digest.FromString(parent + "+" + diffID.Encoded()).Encoded()
}

// unpack puts a layer on top of its parent, unless it is there, from its spool or, where that is nil, from another one with the
// same tar.
func (k *sink) unpack(parent string, d image.Descriptor, diffID digest.Digest, sp *spool) (id string, err error) {
	id = layerID(parent, diffID)
	if layer, err := k.store.lib.Layer(id); err == nil {
		return layer.ID, nil
	}
	options := storage.LayerOptions{OriginalDigest: d.Digest, OriginalSize: &d.Size, UncompressedDigest: diffID}
	var packed io.ReadCloser
	if sp == nil {
		packed, err = k.copyOut(d, diffID)
		if d.Digest != diffID {
			options.OriginalDigest, options.OriginalSize = diffID, nil // nobody has seen the layer as it is called
		}
	} else {
		packed = sized{sp.reader(k.ctx), sp, d.Size}
	}
	if err != nil {
		return "", err
	}
	return id, k.put(id, parent, &options, unpacked(packed, diffID))
}

func (k *sink) put(id, parent string, options *storage.LayerOptions, tar *tarReader) error {
	defer tar.Close()
	_, _, err := k.store.lib.PutLayer(id, parent, nil, "", false, options, tar)
	switch {
	case errors.Is(err, storage.ErrDuplicateID): // somebody else was faster
		return nil
	case tar.failure() != nil: // which the library may have put in other words
		return tar.failure()
	case err == nil && !tar.whole:
		return errors.Join(fmt.Errorf("not all of it was read: %w", image.ErrInvalid), k.store.lib.DeleteLayer(id))
	}
	return err
}

// copyOut reads the tar of a layer that the store has somewhere.
func (k *sink) copyOut(d image.Descriptor, diffID digest.Digest) (io.ReadCloser, error) {
	layers, err := k.store.lib.LayersByUncompressedDigest(diffID)
	if len(layers) > 0 {
		r, _, err := k.store.tar(k.ctx, layers[0].ID, diffID)
		return r, err
	}
	if others, _ := k.store.lib.LayersByCompressedDigest(d.Digest); len(others) > 0 {
		return nil, fmt.Errorf("its tar is %s, and not %s as the config says: %w", others[0].UncompressedDigest, diffID, image.ErrDigest)
	}
	if err == nil || errors.Is(err, storage.ErrLayerUnknown) {
		err = fmt.Errorf("it is in the store no more, push it again: %w", image.ErrNotFound)
	}
	return nil, err
}

// sized is a spool's content, of as many bytes as the manifest says.
type sized struct {
	io.ReadCloser
	spool *spool
	size  int64
}

func (r sized) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err == io.EOF {
		if got, _, _ := r.spool.state(); got != r.size {
			err = fmt.Errorf("it has %d bytes, and not %d as the manifest says: %w", got, r.size, image.ErrDigest)
		}
	}
	return n, err
}
