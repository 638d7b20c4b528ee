package fs

import (
	"context"
	"strings"

	"github.com/regfs/regfs/image"
)

// platforms are the entries of an index, as os/arch, then variant and os.version where an entry has them. An entry for no
// real platform, as attestations have, is found in digests/ and referrers/; of two for the same, the first counts.
func (v *version) platforms(ctx context.Context) ([]child, error) {
	m, err := v.document(ctx, v.d)
	if err != nil {
		return nil, err
	}
	root := newPlatformNode("")
	for _, d := range m.Manifests {
		if p := d.Platform; p != nil && isName(p.OS) && isName(p.Architecture) && p.OS != "unknown" {
			root.add(d, p.OS, p.Architecture, p.Variant, p.OSVersion)
		}
	}
	return root.children(v, "platforms"), nil
}

// platformNode is a folder of platforms/: an image, more folders, or both, since linux/arm can stand beside linux/arm/v7.
type platformNode struct {
	name string
	d    *image.Descriptor
	sub  map[string]*platformNode
}

func (n *platformNode) add(d image.Descriptor, path ...string) {
	for _, name := range path {
		if isName(name) && !isImageFile(name) {
			n = n.child(name)
		}
	}
	if n.d == nil {
		n.d = &d
	}
}

// isName tells whether a file could go by this name.
func isName(name string) bool { return isLocal(name) && !strings.Contains(name, "/") }

func newPlatformNode(name string) *platformNode {
	return &platformNode{name: name, sub: map[string]*platformNode{}}
}

func (n *platformNode) child(name string) *platformNode {
	if n.sub[name] == nil {
		n.sub[name] = newPlatformNode(name)
	}
	return n.sub[name]
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
