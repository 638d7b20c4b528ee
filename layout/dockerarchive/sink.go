package dockerarchive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
	"github.com/regfs/regfs/layout/oci"
)

// Expect implements image.Sink: an archive holds everything, though docker can load images only.
func (r *repository) Expect(ctx context.Context, d image.Descriptor, raw []byte) error {
	return r.layout.Expect(ctx, d, raw)
}

// Push implements image.Sink.
func (r *repository) Push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	return r.layout.Push(ctx, d, content)
}

// Tag implements image.Sink. All that index.json can list can have a tag; manifest.json lists what docker can load of it.
func (r *repository) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if r.host == "" && tag != "" {
		return r.a.failed("tag", tag, fmt.Errorf("a tag needs the name of a repository: %w", image.ErrInvalid))
	}
	return r.layout.Tag(ctx, d, raw, tag)
}

// Delete implements image.Sink. A manifest that had to be made is nothing that could be deleted: ErrUnsupported.
func (r *repository) Delete(ctx context.Context, ref string) error {
	err := r.layout.Delete(ctx, ref)
	if !errors.Is(err, image.ErrNotFound) {
		return err
	}
	if dgst := digest.Digest(ref); dgst.Validate() == nil {
		if _, _, found := r.manifest(ctx, ref); found == nil {
			return r.a.failed("delete", ref, fmt.Errorf("it is an image of %s, delete its tags: %w", manifestFile, image.ErrUnsupported))
		}
		return err
	}
	if err := r.untag(ctx, fullName{r.host, r.name, ref}); err != nil {
		return r.a.failed("delete", r.named(ref), err)
	}
	return nil
}

// untag takes a name out of manifest.json.
func (r *repository) untag(ctx context.Context, name fullName) error {
	found := false
	err := r.a.files.Edit(ctx, func() (files.Change, error) {
		items, err := r.a.readItems(ctx)
		for _, it := range items {
			before := len(it.RepoTags)
			it.forget(map[fullName]bool{name: true})
			found = found || len(it.RepoTags) < before
		}
		if err != nil || !found {
			return files.Change{}, err
		}
		return put(files.Change{}, items)
	})
	if err == nil && !found {
		err = fmt.Errorf("no image has that name: %w", image.ErrNotFound)
	}
	return err
}

// forget takes names off an image.
func (it *item) forget(names map[fullName]bool) {
	it.RepoTags = slices.DeleteFunc(it.RepoTags, func(tag string) bool {
		n, ok := parseName(tag)
		return ok && names[n]
	})
}

func put(c files.Change, items []*item) (files.Change, error) {
	if items == nil {
		items = []*item{}
	}
	raw, err := json.Marshal(items)
	if err == nil && len(raw) > maxManifest {
		err = fmt.Errorf("%s would have %d bytes, more than %d: %w", manifestFile, len(raw), maxManifest, image.ErrTooLarge)
	}
	c.Put = append(c.Put, files.Content{Name: manifestFile, Data: raw})
	c.Remove = append(c.Remove, namesFile) // it would name what was there before
	return c, err
}

// keeper is the files of an archive whose manifest.json says what its index.json does.
type keeper struct{ a *Archive }

var _ files.Files = (*keeper)(nil)

func (k *keeper) Open(ctx context.Context, name string) (files.File, int64, error) {
	return k.a.files.Open(ctx, name)
}

func (k *keeper) Write(ctx context.Context, name string, size int64, fn func(io.Writer) error) error {
	return k.a.files.Write(ctx, name, size, fn)
}

// Close leaves the archive open: it is the Archive's.
func (k *keeper) Close() error { return nil }

// Edit implements files.Files.
func (k *keeper) Edit(ctx context.Context, fn func() (files.Change, error)) error {
	return k.a.files.Edit(ctx, func() (files.Change, error) {
		c, err := fn()
		if err != nil || c.Empty() {
			return c, err
		}
		return k.follow(ctx, c)
	})
}

// follow adds the manifest.json that belongs to a new index.json.
func (k *keeper) follow(ctx context.Context, c files.Change) (files.Change, error) {
	before, err := k.a.readIndex(ctx)
	if err != nil {
		return c, err
	}
	after := before
	if i := slices.IndexFunc(c.Put, func(p files.Content) bool { return p.Name == v1.ImageIndexFile }); i >= 0 {
		if after, err = oci.Entries(c.Put[i].Data); err != nil {
			return c, err
		}
	}
	items, err := k.a.readItems(ctx)
	if err != nil {
		return c, err
	}
	var f follower
	f.a, f.ctx, f.removed = k.a, ctx, c.Remove
	return put(c, f.items(items, before, after))
}

// follower makes a manifest.json of an index.json, and of what the one before had beside that.
type follower struct {
	a       *Archive
	ctx     context.Context
	removed []string
}

// items keeps what docker's older form, or somebody else, wrote to manifest.json alone, in its place.
func (f *follower) items(old []*item, before, after []image.Descriptor) []*item {
	ours := names(before, after)
	was, now := f.listed(before), f.listed(after)
	var kept []*item
	for _, it := range old {
		it.forget(ours)
		if same := it.among(now); same != nil {
			same.RepoTags = append(same.RepoTags, it.RepoTags...)
		} else if len(it.RepoTags) > 0 || it.among(was) == nil {
			kept = append(kept, it)
		}
	}
	return append(kept, now...)
}

// names are those that an index.json gives, before or after it has changed: it decides about them.
func names(before, after []image.Descriptor) map[fullName]bool {
	all := map[fullName]bool{}
	for _, d := range slices.Concat(before, after) {
		if n, ok := parseName(d.Annotations[oci.AnnotationFullName]); ok {
			all[n] = true
		}
	}
	return all
}

// among is the item that is the same image, or nil.
func (it *item) among(items []*item) *item {
	config := path.Clean(it.Config)
	i := slices.IndexFunc(items, func(other *item) bool { return other.Config == config })
	if i < 0 {
		return nil
	}
	return items[i]
}

// listed are the images of an index.json that docker can load, each once, with all its names.
func (f *follower) listed(index []image.Descriptor) []*item {
	var all []*item
	have := map[string]*item{}
	for _, d := range index {
		it := f.loadable(d)
		if it == nil {
			continue
		}
		if have[it.Config] == nil {
			have[it.Config] = it
			all = append(all, it)
		}
		if n, ok := parseName(d.Annotations[oci.AnnotationFullName]); ok {
			have[it.Config].RepoTags = append(have[it.Config].RepoTags, n.String())
		}
	}
	return all
}

// loadable is what docker can load of what an index.json lists: the image, or that of an index for this machine, if all of it is
// there; nil if not.
func (f *follower) loadable(d image.Descriptor) *item {
	m, err := f.a.readManifest(f.ctx, d)
	if err != nil {
		return nil
	}
	if m.IsIndex() {
		here, ok := image.Select(m.Manifests, image.Platform{OS: "linux", Architecture: runtime.GOARCH})
		if !ok {
			return nil
		}
		if m, err = f.a.readManifest(f.ctx, here); err != nil {
			return nil
		}
	}
	if m.Config == nil || m.Config.MediaType != v1.MediaTypeImageConfig && m.Config.MediaType != mediaTypeConf {
		return nil
	}
	return f.item(m)
}

func (f *follower) item(m *image.Manifest) *item {
	it := &item{Config: blobPath(m.Config.Digest), Layers: []string{}}
	for _, l := range m.Layers {
		it.Layers = append(it.Layers, blobPath(l.Digest))
	}
	for _, name := range append([]string{it.Config}, it.Layers...) {
		if !f.there(name) {
			return nil
		}
	}
	v := &view{a: f.a, configs: map[string]*config{}}
	if _, err := v.image(f.ctx, it); err != nil {
		return nil
	}
	return it
}

// there tells whether the archive will have a blob.
func (f *follower) there(name string) bool {
	file, _, err := f.a.files.Open(f.ctx, name)
	if err != nil || slices.Contains(f.removed, name) {
		return false
	}
	return file.Close() == nil
}

func blobPath(dgst digest.Digest) string {
	return path.Join(v1.ImageBlobsDir, dgst.Algorithm().String(), dgst.Encoded())
}
