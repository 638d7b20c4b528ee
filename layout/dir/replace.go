package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/disk"
)

// replace makes raw, which d describes, the folder's image. It runs under the lock. Until the renaming in its middle the old image
// is all there; after it the new one is.
func (x *Dir) replace(ctx context.Context, d image.Descriptor, raw []byte) error {
	if err := x.settle(); err != nil {
		return err
	}
	old := x.had(ctx)
	keep, err := x.prepare(ctx, d, raw)
	if err != nil {
		return err
	}
	if err := x.become(d, raw, versionOf(d, keep)); err != nil {
		return err
	}
	if err := x.collect(keep, old); err != nil {
		return fmt.Errorf("the image is written, but not all of what was there before could be removed: %w", err)
	}
	return x.folder.Sync()
}

// prepare puts the manifest where one below an index lies, and tells what else the image has. What was not there is not left there.
func (x *Dir) prepare(ctx context.Context, d image.Descriptor, raw []byte) (map[digest.Digest]bool, error) {
	name := instanceFile(d.Digest)
	before, err := x.folder.Has(name)
	if err == nil {
		err = x.folder.Replace(name, raw)
	}
	if err != nil {
		return nil, err
	}
	keep, err := x.needed(ctx, d)
	if err != nil && !before {
		err = errors.Join(err, x.folder.Remove(name))
	}
	return keep, err
}

// had is all that the image which is there now has, as far as it can be read.
func (x *Dir) had(ctx context.Context) map[digest.Digest]bool {
	all := map[digest.Digest]bool{}
	root, _, err := x.root(ctx, digest.Canonical)
	if err != nil {
		return all
	}
	// What is not found to be the old image's, for whatever reason, goes when it is old.
	_ = image.Walk(ctx, unwrapped{x}, root, func(d image.Descriptor, _ *image.Manifest, _ error) error {
		all[d.Digest] = true
		return nil
	})
	return all
}

// needed is all that the image has, without itself. That a blob is not there is an error. A manifest may be missing: an index can be
// copied without all that it lists.
func (x *Dir) needed(ctx context.Context, root image.Descriptor) (map[digest.Digest]bool, error) {
	all := map[digest.Digest]bool{}
	err := image.Walk(ctx, unwrapped{x}, root, func(d image.Descriptor, _ *image.Manifest, err error) error {
		all[d.Digest] = true
		if image.IsManifest(d.MediaType) {
			if errors.Is(err, image.ErrNotFound) {
				return nil
			}
			return err
		}
		has, err := x.folder.Has(blobFile(d.Digest))
		if err == nil && !has && len(d.URLs) == 0 {
			err = fmt.Errorf("%s is not there, which the image needs; if it was, another writer removed it: copy again: %w",
				d.Digest, image.ErrRefused)
		}
		return err
	})
	delete(all, root.Digest)
	return all, err
}

// unwrapped is a Dir whose errors are yet to be wrapped.
type unwrapped struct{ *Dir }

func (x unwrapped) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	return x.manifest(ctx, ref)
}

// versionOf is the version that a folder with an image is of.
func versionOf(root image.Descriptor, all map[digest.Digest]bool) version {
	v := version1_1
	if root.Digest.Algorithm() != digest.Canonical {
		v = version1_2
	}
	for dgst := range all {
		if dgst.Algorithm() != digest.Canonical {
			v = version1_2
		}
	}
	return v
}

// become makes manifest.json what raw is, which is on the disk under the name of an instance with all that it needs.
func (x *Dir) become(d image.Descriptor, raw []byte, want version) error {
	is, err := x.version()
	if err == nil && is != want && is != version1_2 {
		err = x.folder.Replace(versionFile, []byte(want.String()))
	}
	if err == nil {
		err = x.folder.Sync()
	}
	if err == nil {
		err = x.rename(d, raw)
	}
	if err == nil && is == version1_2 && want == version1_1 {
		err = x.folder.Replace(versionFile, []byte(want.String()))
	}
	return err
}

// rename gives the image's file its name, unless the same is there: then its signatures are its own.
func (x *Dir) rename(d image.Descriptor, raw []byte) error {
	if there, err := x.folder.ReadFile(manifestFile, image.MaxManifest); err == nil && bytes.Equal(there, raw) {
		return x.folder.Remove(instanceFile(d.Digest))
	}
	return x.replaceSigned(raw, func() error {
		if err := x.folder.Rename(instanceFile(d.Digest), manifestFile); err != nil {
			return err
		}
		return x.folder.Sync()
	})
}

// collect removes what the old image had and the new one does not need, and what nobody made an image of for a long time. What is
// younger may be of an image that another process writes. Files that have no digest in their name are not this package's.
func (x *Dir) collect(keep, old map[digest.Digest]bool) error {
	return x.folder.Each(func(e fs.DirEntry) error {
		dgst, ok := digestOf(e.Name())
		if ok && !keep[dgst] && (old[dgst] || disk.Stale(e)) {
			return x.folder.Remove(e.Name())
		}
		return nil
	})
}
