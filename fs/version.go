package fs

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/regfs/regfs/image"
)

const digestName = "digest"

// maxConfig is the longest image config that is read to be understood, in bytes. Its file can be of any size.
const maxConfig = 8 << 20

// version is one image, or one multi-platform image, that will not change: what an image folder shows.
type version struct {
	repo *repository
	d    image.Descriptor
	// tag is the name it was found by, or "".
	tag string
	// key is its folder's path and its digest, which all inodes below are made of.
	key string
}

func newVersion(r *repository, d image.Descriptor, tag, path string) *version {
	return &version{r, d, tag, path + "\x00" + d.Digest.String()}
}

// imageFolder is the folder of a version.
type imageFolder struct {
	*folder
	v *version
}

func (v *version) folder() *imageFolder {
	return &imageFolder{v.repo.tree.folder(v.key, anyOf(ownNames, v.ownFiles), anyOf(imageNames, v.imageFiles)), v}
}

func (f *imageFolder) XattrNames(context.Context) ([]string, error) { return xattrNames(f.v.d), nil }

// Xattr of an image knows the annotations of its manifest or index, and of the descriptor it was found by.
func (f *imageFolder) Xattr(ctx context.Context, name string) (string, error) {
	if value, err := xattr(f.v.d, name); err == nil || !strings.HasPrefix(name, xattrAnnotation) {
		return value, err
	}
	m, err := f.v.document(ctx, f.v.d)
	if err != nil {
		return "", err
	}
	return xattr(image.Descriptor{Annotations: m.Annotations}, name)
}

// document reads a manifest or index of the repository, parsed.
func (v *version) document(ctx context.Context, d image.Descriptor) (*image.Manifest, error) {
	key := v.repo.path + "@" + d.Digest.String()
	return v.repo.tree.docs.get(ctx, key, func(ctx context.Context) (*image.Manifest, int, error) {
		_, raw, err := v.repo.src.Manifest(ctx, d.Digest.String())
		if err != nil {
			return nil, 0, err
		}
		m, err := image.ParseManifest(d.MediaType, raw)
		return m, 4 * len(raw), err
	})
}

// image is the manifest of the mount's platform.
func (v *version) image(ctx context.Context) (image.Descriptor, *image.Manifest, error) {
	m, err := v.document(ctx, v.d)
	if err != nil || !m.IsIndex() {
		return v.d, m, err
	}
	d, ok := image.Select(m.Manifests, v.repo.tree.o.Platform)
	if !ok {
		p := v.repo.tree.o.Platform
		return d, nil, fmt.Errorf("%s has no image for %s/%s: %w", v.d.Digest, p.OS, p.Architecture, image.ErrNotFound)
	}
	m, err = v.document(ctx, d)
	return d, m, err
}

// text is a fixed file of a few bytes at a path in the version's folder, and made one whose content is worked out; content is what
// a descriptor names, and dir a folder.
func (v *version) text(name, content string) child {
	f := v.repo.tree.text(v.key+"/"+name, content)
	return child{name: name, ino: f.ino, node: func(context.Context) (Node, error) { return f, nil }}
}

func (v *version) content(name string, d image.Descriptor) child {
	c := v.repo.content(d)
	return child{name: name, ino: c.ino, node: func(context.Context) (Node, error) { return c, nil }}
}

func (v *version) made(name string, content func(context.Context) ([]byte, error)) child {
	f := &made{ino: v.repo.tree.ino(v.key + "/" + name), steady: true, content: content}
	return child{name: name, ino: f.ino, node: func(context.Context) (Node, error) { return f, nil }}
}

func (v *version) dir(name string, parts ...part) child {
	f := v.repo.tree.folder(v.key+"/"+name, parts...)
	return child{name: name, ino: f.attr.Ino, dir: true, node: func(context.Context) (Node, error) { return f, nil }}
}

// All names that an image folder can have.
var (
	ownNames   = []string{digestName, "referrers", "index.json", "platforms", layoutName, "archive.oci.tar", "archive.docker.tar"}
	imageNames = []string{"manifest.json", "config.json", "inspect.json", "layers", rootfsName, "files"}
)

// isImageFile tells whether an image folder could have a file of this name.
func isImageFile(name string) bool {
	return slices.Contains(ownNames, name) || slices.Contains(imageNames, name)
}

// ownFiles are those that the descriptor alone tells to be there.
func (v *version) ownFiles(context.Context) ([]child, error) {
	all := []child{v.text(digestName, v.d.Digest.String()+"\n"), v.referrers()}
	if image.IsIndex(v.d.MediaType) {
		all = append(all, v.content("index.json", v.d), v.dir("platforms", part{isFileName, whole(v.platforms)}))
	}
	if image.IsSchema1(v.d.MediaType) { // no layout can hold it
		return all, nil
	}
	return append(all, v.layout(), v.archive("archive.oci.tar", v.ociFiles), v.archive("archive.docker.tar", v.dockerFiles)), nil
}

// imageFiles are those of the mount's platform. There are none if the image is not made for it.
func (v *version) imageFiles(ctx context.Context) ([]child, error) {
	d, m, err := v.image(ctx)
	if err != nil {
		return nil, err
	}
	all := []child{v.content("manifest.json", d), v.dir("layers", part{isNumber, whole(v.layers)})}
	if m.Config != nil {
		all = append(all, v.content("config.json", *m.Config))
	}
	if isImage(m) {
		all = append(all, v.made("inspect.json", v.inspect))
	}
	if hasRootfs(m) {
		all = append(all, v.rootfs(d, m))
	}
	if len(titled(m)) > 0 {
		all = append(all, v.dir("files", part{func(string) bool { return true }, v.repo.tree.nested(v.key+"/files", "", v.titledFiles)}))
	}
	return all, nil
}

// config reads the image's config, whole and verified.
func (v *version) config(ctx context.Context, m *image.Manifest) ([]byte, error) {
	if m.Config == nil || m.Config.Size > maxConfig {
		return nil, fmt.Errorf("%s: a config of more than %d bytes, or none: %w", v.d.Digest, maxConfig, image.ErrInvalid)
	}
	r, err := v.repo.src.Fetch(ctx, *m.Config)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// titledFiles are the files that an artifact's blobs are named as.
func (v *version) titledFiles(ctx context.Context) ([]leaf, bool, error) {
	_, m, err := v.image(ctx)
	if err != nil {
		return nil, false, err
	}
	var files []leaf
	for name, d := range titled(m) {
		c := v.content(name, d)
		files = append(files, leaf{name, c.ino, c.node})
	}
	return sorted(files), true, nil
}
