//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"

	"github.com/regfs/regfs/image"
)

// Tag implements image.Sink. The image that had the tag stays, without it. In the repository without a name an image is stored under
// none, with the tag "".
func (k *sink) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	return k.failed("tag", tag, k.tag(ctx, d, raw, tag))
}

func (k *sink) tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	nameless := k.at == image.Repository{}
	if nameless && tag != "" || !nameless && !image.ValidTag(tag) {
		return fmt.Errorf("no image can have that name: %w", image.ErrInvalid)
	}
	if nameless {
		return k.commit(ctx, d, raw, nil)
	}
	return k.commit(ctx, d, raw, []string{k.at.String() + ":" + tag})
}

// commit makes an image of what was pushed, and gives it names.
func (k *sink) commit(ctx context.Context, d image.Descriptor, raw []byte, names []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m, err := parseManifest(d, raw)
	if err == nil {
		err = holdable(m)
	}
	if err != nil {
		return err
	}
	w := writing{Descriptor: d, raw: raw, m: m, indexes: k.indexesOf(d.Digest), names: names}
	there, err := ask(ctx, func() (bool, error) { return k.store.there(ctx, w) })
	if err != nil {
		return err
	}
	k.mu.Lock()
	u := k.image(d, m)
	k.mu.Unlock()
	if there {
		k.finish(u)
		return nil
	}
	if err := k.settle(ctx, u); err != nil {
		return err
	}
	w.config, w.created, w.top = u.config, u.created, u.parent
	if _, err := ask(ctx, func() (any, error) { return nil, k.store.create(ctx, w) }); err != nil {
		return err
	}
	k.finish(u)
	return nil
}

// indexesOf are the indexes that were expected and name a manifest.
func (k *sink) indexesOf(manifest digest.Digest) []expectedIndex {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(k.indexes), func(x expectedIndex) bool {
		return !slices.ContainsFunc(x.manifests, func(d image.Descriptor) bool { return d.Digest == manifest })
	})
}

// settle waits until all layers of an image are in the store.
func (k *sink) settle(ctx context.Context, u *unpacking) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	reused := map[digest.Digest]bool{}
	for {
		if err := u.err; err != nil {
			u.err = nil // the next one may have better luck
			return err
		}
		if u.done() {
			return nil
		}
		if k.advance(u); !u.running {
			d := u.needs()
			k.mu.Unlock()
			has, err := k.reuse(ctx, d)
			k.mu.Lock()
			if err != nil {
				return err
			}
			if reused[d.Digest] || !has {
				return k.missing(u)
			}
			reused[d.Digest] = true
			continue
		}
		changed := k.changed
		k.mu.Unlock()
		err := waitFor(ctx, changed)
		k.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// reuse has a layer or a config come from the store, if it has it: what is seen there need not be pushed.
func (k *sink) reuse(ctx context.Context, d image.Descriptor) (bool, error) {
	has, err := k.has(ctx, d.Digest)
	if has || err != nil {
		if has {
			k.arrive(d.Digest, &arrived{at: time.Now()})
		}
		return has, err
	}
	b, err := (&source{k.store, k.at}).config(ctx, d)
	if err != nil {
		return false, nil // what can't be read is pushed
	}
	_, err = k.receive(ctx, d, image.Content{Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.bytes[min(off, int64(len(b.bytes))):])), nil
	}})
	return err == nil, err
}

func waitFor(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return late(ctx.Err())
	}
}

func (k *sink) missing(u *unpacking) error {
	if err := k.ctx.Err(); err != nil {
		return err // it was closed
	}
	return fmt.Errorf("%s, which it needs, was not pushed: %w", u.needs().Digest, image.ErrNotFound)
}

// finish forgets an image that is in the store, with all that no other one needs.
func (k *sink) finish(u *unpacking) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.coming, u.Digest)
	needed := k.needed()
	for _, d := range u.m.Children() {
		if !needed[d.Digest] {
			k.remove(d.Digest)
		}
	}
}

// needed are the blobs of images that are coming. It needs the lock.
func (k *sink) needed() map[digest.Digest]bool {
	needed := map[digest.Digest]bool{}
	for _, u := range k.coming {
		for _, d := range u.m.Children() {
			needed[d.Digest] = true
		}
	}
	return needed
}

// remove gives up a blob. It needs the lock.
func (k *sink) remove(dgst digest.Digest) {
	if b := k.blobs[dgst]; b != nil && b.spool != nil {
		b.spool.release()
	}
	delete(k.blobs, dgst)
}

// oldAge is how long what was pushed waits for an image that it belongs to.
const oldAge = time.Hour

// dropOld gives up what nobody seems to go on with: a sink may live as long as a mount. It needs the lock.
func (k *sink) dropOld(now time.Time) {
	maps.DeleteFunc(k.coming, func(_ digest.Digest, u *unpacking) bool { return !u.running && now.Sub(u.at) > oldAge })
	needed := k.needed()
	for dgst, b := range k.blobs {
		if !needed[dgst] && now.Sub(b.at) > oldAge && (b.spool == nil || b.ended()) {
			k.remove(dgst)
		}
	}
}

// Close implements image.Sink. What was pushed, and made no image, is gone; layers that are unpacked stay until the next image that has
// them, or until they are pruned.
func (k *sink) Close() error {
	k.mu.Lock()
	k.cancel()
	k.mu.Unlock()
	done := make(chan struct{})
	go func() {
		k.work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience): // a lock that another process holds
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for dgst := range k.blobs {
		k.remove(dgst)
	}
	return nil
}

// writing is an image as it is stored.
type writing struct {
	image.Descriptor
	raw     []byte
	m       *image.Manifest
	indexes []expectedIndex
	config  []byte
	created time.Time
	top     string // its last layer
	names   []string
}

// id is the image's: containers/image goes by the config, too.
func (w *writing) id() string { return w.m.Config.Digest.Encoded() }

// data is what is kept with the image. The manifest that goes without a digest comes last: with it, all is there.
func (w *writing) data() []storage.ImageBigDataOption {
	var data []storage.ImageBigDataOption
	if w.config != nil {
		data = append(data, storage.ImageBigDataOption{Key: w.m.Config.Digest.String(), Data: w.config, Digest: w.m.Config.Digest})
	}
	for _, x := range w.indexes {
		data = append(data, storage.ImageBigDataOption{Key: manifestKey(x.Digest), Data: x.raw, Digest: x.Digest})
	}
	return append(data,
		storage.ImageBigDataOption{Key: manifestKey(w.Digest), Data: w.raw, Digest: w.Digest},
		storage.ImageBigDataOption{Key: storage.ImageDigestBigDataKey, Data: w.raw, Digest: w.Digest})
}

// there names an image that the store has, and tells whether it does.
func (s *Store) there(ctx context.Context, w writing) (bool, error) {
	img, err := s.lib.Image(w.id())
	if err != nil || img.ID != w.id() || img.BigDataDigests[manifestKey(w.Digest)] != w.Digest {
		return false, nil
	}
	return true, s.update(ctx, w, img)
}

// create stores an image whose layers are there.
func (s *Store) create(ctx context.Context, w writing) error {
	img, err := s.lib.CreateImage(w.id(), nil, w.top, "", &storage.ImageOptions{CreationDate: w.created, BigData: w.data(), Metadata: "{}"})
	if errors.Is(err, storage.ErrDuplicateID) {
		return s.replace(ctx, w)
	}
	if err != nil {
		return unpackingError(err)
	}
	return s.setNames(ctx, img.ID, w.names)
}

// replace completes an image of that ID, which somebody may have been killed over, or which had another manifest.
func (s *Store) replace(ctx context.Context, w writing) error {
	img, err := s.lib.Image(w.id())
	if err == nil && img.TopLayer != w.top {
		err = fmt.Errorf("an image with the ID %s is there with other layers, remove it first: %w", img.ID, image.ErrRefused)
	}
	if err != nil {
		return err
	}
	return s.update(ctx, w, img)
}

// update sets what an image does not have yet, and then its names.
func (s *Store) update(ctx context.Context, w writing, img *storage.Image) error {
	for _, item := range w.data() {
		if img.BigDataDigests[item.Key] == item.Digest {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.lib.SetImageBigData(img.ID, item.Key, item.Data, func([]byte) (digest.Digest, error) { return item.Digest, nil }); err != nil {
			return err
		}
	}
	return s.setNames(ctx, img.ID, w.names)
}

// setNames gives names to an image, and takes them from those that had them, in one step.
func (s *Store) setNames(ctx context.Context, id string, names []string) error {
	if err := ctx.Err(); err != nil || len(names) == 0 {
		return err
	}
	return s.lib.AddNames(id, names)
}

// Delete implements image.Sink as podman rmi does. A tag goes, and with the last of an image's names the image, and its layers that no
// other one has. A digest, or "@" and an ID, is an image with all its names in this repository. ErrRefused, before anything changed, for
// an image that a container uses.
func (k *sink) Delete(ctx context.Context, ref string) error {
	return k.failed("delete", ref, k.delete(ctx, ref))
}

func (k *sink) delete(ctx context.Context, ref string) error {
	if ref == "" {
		return fmt.Errorf("no image is named: %w", image.ErrNotFound)
	}
	img, err := (&source{k.store, k.at}).find(ctx, ref)
	if err != nil {
		return err
	}
	gone := func(text string) bool { return text == k.at.String()+":"+ref }
	if ref[0] == '@' || digest.Digest(ref).Validate() == nil {
		gone = func(text string) bool {
			n, ok := parseName(text)
			return k.at == image.Repository{} || ok && n.Repository == k.at
		}
	}
	_, err = ask(ctx, func() (any, error) { return nil, k.store.unname(img, gone) })
	return err
}

// unname takes names from an image, and the image with the last of them.
func (s *Store) unname(img *storage.Image, gone func(string) bool) error {
	var names []string
	for _, name := range img.Names {
		if gone(name) {
			names = append(names, name)
		}
	}
	if len(names) < len(img.Names) {
		return s.lib.RemoveNames(img.ID, names)
	}
	_, err := s.lib.DeleteImage(img.ID, true)
	return err
}
