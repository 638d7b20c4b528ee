package fs

import (
	"context"
	"fmt"
	"io"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout"
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

func (f *imageFolder) XattrNames() []string { return xattrNames(f.v.d) }

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

// file and folder children of a version.
func (v *version) text(name, content string) child {
	f := v.repo.tree.text(v.key+"/"+name, content)
	return child{name: name, ino: f.ino, node: func(context.Context) (Node, error) { return f, nil }}
}

func (v *version) content(name string, d image.Descriptor) child {
	c := v.repo.content(d)
	return child{name: name, ino: c.ino, node: func(context.Context) (Node, error) { return c, nil }}
}

func (v *version) made(name string, content func(context.Context) ([]byte, error)) child {
	f := &made{ino: v.repo.tree.ino(v.key + "/" + name), fixed: true, content: content}
	return child{name: name, ino: f.ino, node: func(context.Context) (Node, error) { return f, nil }}
}

func (v *version) dir(name string, parts ...part) child {
	f := v.repo.tree.folder(v.key+"/"+name, parts...)
	return child{name: name, ino: f.attr.Ino, dir: true, node: func(context.Context) (Node, error) { return f, nil }}
}

// All names that an image folder can have.
var (
	ownNames   = []string{digestName, "referrers", "index.json", "platforms", layoutName, "archive.oci.tar", "archive.docker.tar"}
	imageNames = []string{"manifest.json", "config.json", "inspect.json", "layers", "files"}
)

// ownFiles are those that the descriptor alone tells to be there.
func (v *version) ownFiles(context.Context) ([]child, error) {
	all := []child{v.text(digestName, v.d.Digest.String()+"\n"), v.referrers()}
	if image.IsIndex(v.d.MediaType) {
		all = append(all, v.content("index.json", v.d), v.dir("platforms", part{isFileName, v.platforms}))
	}
	if image.IsSchema1(v.d.MediaType) { // no layout can hold it
		return all, nil
	}
	return append(all, v.layout(), v.archive("archive.oci.tar", v.ociFiles), v.archive("archive.docker.tar", v.dockerFiles)), nil
}

// imageFiles are those of the mount's platform. There are none if the image is not made for it.
func (v *version) imageFiles(ctx context.Context) ([]child, error) {
	d, m, err := v.image(ctx)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := []child{v.content("manifest.json", d), v.dir("layers", part{isNumber, v.layers})}
	if m.Config != nil {
		all = append(all, v.content("config.json", *m.Config))
	}
	if hasInspect(m) {
		all = append(all, v.made("inspect.json", v.inspect))
	}
	if files := v.titledFiles(m); len(files) > 0 {
		all = append(all, v.dir("files", free(func() []child { return v.repo.tree.nested(v.key+"/files", "", files) })))
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

// platforms are the entries of an index, as os/arch, then variant and os.version where an entry has them. An entry for no
// real platform, as attestations have, is found in digests/ and referrers/; of two for the same, the first counts.
func (v *version) platforms(ctx context.Context) ([]child, error) {
	m, err := v.document(ctx, v.d)
	if err != nil {
		return nil, err
	}
	root := &platformNode{}
	for _, d := range m.Manifests {
		if p := d.Platform; p != nil && isLocal(p.OS) && isLocal(p.Architecture) && p.OS != "unknown" {
			root.add(d, p.OS, p.Architecture, p.Variant, p.OSVersion)
		}
	}
	return root.children(v, "platforms"), nil
}

// platformNode is a folder of platforms/: an image, more folders, or both, since linux/arm can stand beside linux/arm/v7.
type platformNode struct {
	name string
	d    *image.Descriptor
	sub  []*platformNode
}

func (n *platformNode) add(d image.Descriptor, path ...string) {
	for _, name := range path {
		if isLocal(name) && !strings.Contains(name, "/") {
			n = n.child(name)
		}
	}
	if n.d == nil {
		n.d = &d
	}
}

func (n *platformNode) child(name string) *platformNode {
	for _, s := range n.sub {
		if s.name == name {
			return s
		}
	}
	s := &platformNode{name: name}
	n.sub = append(n.sub, s)
	return s
}

func (n *platformNode) children(v *version, path string) []child {
	var all []child
	for _, s := range n.sub {
		all = append(all, s.entry(v, path+"/"+s.name))
	}
	return all
}

func (n *platformNode) entry(v *version, path string) child {
	below := free(func() []child { return n.children(v, path) })
	if n.d == nil {
		c := v.dir(path, below)
		c.name = n.name
		return c
	}
	image := newVersion(v.repo, *n.d, v.tag, v.key+"/"+path).folder()
	image.parts = append(image.parts, below)
	return child{name: n.name, ino: image.attr.Ino, dir: true, node: func(context.Context) (Node, error) { return image, nil }}
}

// isNumber and isFileName tell names that can't be there without a request: .git and its like are looked up everywhere.
func isNumber(name string) bool { return strings.Trim(name, "0123456789") == "" }

func isFileName(name string) bool { return !strings.HasPrefix(name, ".") }

// layers are numbered from the base up, with as many digits as the last one needs and at least two.
func (v *version) layers(ctx context.Context) ([]child, error) {
	_, m, err := v.image(ctx)
	if err != nil {
		return nil, err
	}
	width := max(2, len(fmt.Sprint(len(m.Layers)-1)))
	all := make([]child, len(m.Layers))
	for i, d := range m.Layers {
		all[i] = v.layer(fmt.Sprintf("%0*d", width, i), i, d)
	}
	return all, nil
}

func (v *version) layer(name string, i int, d image.Descriptor) child {
	path := "layers/" + name
	own := func(context.Context) ([]child, error) {
		blob, dgst := v.blob(d), v.text(path+"/digest", d.Digest.String()+"\n")
		dgst.name = digestName
		return []child{blob, dgst}, nil
	}
	told := func(ctx context.Context) ([]child, error) { return v.createdBy(ctx, path, i) }
	c := v.dir(path, anyOf([]string{"blob", digestName}, own), anyOf([]string{"created_by"}, told))
	c.name = name
	return c
}

// blob is a layer's blob. A schema 1 manifest does not tell its size: then the registry must.
func (v *version) blob(d image.Descriptor) child {
	c := v.content("blob", d)
	if d.Size < 0 {
		c.node = func(ctx context.Context) (Node, error) {
			found, err := v.repo.src.Stat(ctx, d.Digest)
			if err != nil {
				return nil, err
			}
			sized := d
			sized.Size = found.Size
			return v.repo.content(sized), nil
		}
	}
	return c
}

// createdBy is what the image's history says of a layer.
func (v *version) createdBy(ctx context.Context, path string, i int) ([]child, error) {
	_, m, err := v.image(ctx)
	if err != nil {
		return nil, err
	}
	history, err := v.history(ctx, m)
	if err != nil || i >= len(history) {
		return nil, err
	}
	c := v.text(path+"/created_by", history[i]+"\n")
	c.name = "created_by"
	return []child{c}, nil
}

// titledFiles are the files that an artifact's blobs are named as.
func (v *version) titledFiles(m *image.Manifest) []leaf {
	var files []leaf
	for name, d := range titled(m) {
		c := v.content(name, d)
		files = append(files, leaf{name, c.ino, c.node})
	}
	return sorted(files)
}

// layout is the image as an OCI image layout.
func (v *version) layout() child {
	names := []string{v1.ImageLayoutFile, v1.ImageIndexFile, v1.ImageBlobsDir}
	return v.dir(layoutName, anyOf(names, func(ctx context.Context) ([]child, error) {
		files, err := v.ociFiles(ctx)
		if err != nil {
			return nil, err
		}
		return v.repo.tree.nested(v.key+"/"+layoutName, "", v.leaves(layoutName, files)), nil
	}))
}

func (v *version) leaves(path string, files []layout.File) []leaf {
	all := make([]leaf, len(files))
	for i, f := range files {
		var c child
		if f.Blob != nil {
			c = v.content(f.Name, *f.Blob)
		} else {
			c = v.text(path+"/"+f.Name, string(f.Data))
		}
		all[i] = leaf{f.Name, c.ino, c.node}
	}
	return sorted(all)
}

func (v *version) ociFiles(ctx context.Context) ([]layout.File, error) {
	return layout.OCI(ctx, v.repo.src, []layout.Root{{Descriptor: v.d, Tag: v.tag}})
}

// dockerFiles are those of the mount's platform: a docker archive holds one image under a name.
func (v *version) dockerFiles(ctx context.Context) ([]layout.File, error) {
	d, _, err := v.image(ctx)
	if err != nil {
		return nil, err
	}
	name := ""
	if v.tag != "" {
		name = v.repo.name + ":" + v.tag
	}
	return layout.Docker(ctx, v.repo.src, d, name)
}

// archive is files as one tar. It is not listed, or diff -r and du would read everything once more.
func (v *version) archive(name string, files func(context.Context) ([]layout.File, error)) child {
	ino := v.repo.tree.ino(v.key + "/" + name)
	return child{name: name, ino: ino, hidden: true, node: func(ctx context.Context) (Node, error) {
		all, err := files(ctx)
		if err != nil {
			return nil, err
		}
		t, err := layout.NewTar(all)
		return &archive{repo: v.repo, ino: ino, tar: t}, err
	}}
}

// archive is a tar made of an image as it is read.
type archive struct {
	file
	repo *repository
	ino  uint64
	tar  *layout.Tar
}

func (a *archive) Attr(context.Context) (Attr, error) {
	return Attr{Ino: a.ino, Size: a.tar.Size(), Fixed: true}, nil
}

func (a *archive) Open(ctx context.Context) (image.Blob, error) {
	release := a.repo.tree.pins.hold(callerOf(ctx), a.repo.path)
	return &held{a.tar.Open(a.repo.src, a.repo.tree.o.Blobs), release}, nil
}
