package fs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/regfs/regfs/image"
)

// The folders of a repository. A component of a repository's name that is one of them is written with an @ before it.
const (
	tagsName    = "tags"
	digestsName = "digests"
	blobsName   = "blobs"
	layoutName  = "oci-layout"
)

func isReserved(name string) bool {
	return name == tagsName || name == digestsName || name == blobsName || name == layoutName
}

// escape writes a component of a repository's name as the name of a folder; unescape reads it back.
func escape(component string) string {
	if isReserved(component) {
		return "@" + component
	}
	return component
}

func unescape(name string) (component string, ok bool) {
	component, escaped := strings.CutPrefix(name, "@")
	return component, escaped == isReserved(component) && image.ValidComponent(component)
}

// namespace is a registry, a repository, or what stands before the last slash of repositories: the kernel can't tell whether
// a lookup passes through or asks, so all of them exist and no lookup here sends a request.
type namespace struct {
	dir
	tree *Tree
	host image.Host
	// registry is the host's name, name the path below it: "" for the registry itself.
	registry, name string
	kind           kind
	imagesOnly     bool
}

// kind is what stands in a namespace.
type kind int

const (
	repositories kind = iota // of one registry
	hosts                    // of several: names begin with a registry's
	single                   // one repository, at the top
)

func newNamespace(t *Tree, h image.Host, registry, name string) *namespace {
	return &namespace{dir{attr: Attr{Ino: t.ino(registry, name), Mode: dirMode}}, t, h, registry, name, repositories, false}
}

// newPlace is the folder of a place that is no registry.
func newPlace(t *Tree, name string, p Named) *namespace {
	n := newNamespace(t, p.Host, name, "")
	n.imagesOnly = p.ImagesOnly
	if n.kind = hosts; p.Single {
		n.kind = single
	}
	return n
}

func (n *namespace) Lookup(ctx context.Context, name string) (Node, error) {
	if isReserved(name) {
		return n.special(ctx, name)
	}
	path, ok := n.below(name)
	if !ok {
		return nil, fmt.Errorf("repository %s/%s: %w", n.name, name, image.ErrNotFound)
	}
	below := newNamespace(n.tree, n.host, n.registry, path)
	below.kind, below.imagesOnly = n.kind, n.imagesOnly
	return below, nil
}

// below is the path of what has a name in this folder, if a repository's name can begin that way.
func (n *namespace) below(name string) (path string, ok bool) {
	if n.kind == hosts && n.name == "" {
		return name, image.ValidHost(name) && !isClutter(name)
	}
	component, ok := unescape(name)
	path = strings.TrimPrefix(n.name+"/"+component, "/")
	_, repository := n.split(path)
	return path, ok && n.kind != single && image.ValidRepository(repository)
}

// split takes the registry off a name that begins with one.
func (n *namespace) split(name string) (registry, repository string) {
	if n.kind != hosts {
		return n.registry, name
	}
	registry, repository, _ = strings.Cut(name, "/")
	return registry, repository
}

// holds tells whether a repository can stand at this very folder.
func (n *namespace) holds() bool {
	_, repository := n.split(n.name)
	return n.kind == single || repository != ""
}

// special finds a folder of the repository itself.
func (n *namespace) special(ctx context.Context, name string) (Node, error) {
	if !n.holds() {
		return nil, fmt.Errorf("%s of the registry %s itself: %w", name, n.registry, image.ErrNotFound)
	}
	r, err := n.repository(ctx)
	if err != nil {
		return nil, err
	}
	switch name {
	case tagsName:
		return newTags(r), nil
	case digestsName:
		return newDigests(r), nil
	case blobsName:
		return newBlobs(r, r.path+"/"+blobsName, nil), nil
	}
	return newRepositorySite(r).folder("."), nil
}

// path is where the folder stands below the mount.
func (n *namespace) path() string {
	if n.name == "" {
		return n.registry
	}
	parts := strings.Split(n.name, "/")
	for i, p := range parts {
		parts[i] = escape(p)
	}
	return n.registry + "/" + strings.Join(parts, "/")
}

func (n *namespace) repository(ctx context.Context) (*repository, error) {
	registry, name := n.split(n.name)
	if registry == "docker.io" && !strings.Contains(name, "/") {
		name = "library/" + name
	}
	full := image.Repository{Host: registry, Name: name}
	if n.kind == hosts {
		name = full.String()
	}
	src, err := n.host.Source(ctx, name)
	if err != nil {
		return nil, err
	}
	at := image.Repository{Host: n.registry, Name: name}
	r := &repository{tree: n.tree, host: n.host, src: src, at: at, path: n.path(), name: full.String(), imagesOnly: n.imagesOnly}
	if n.kind == single {
		r.name = ""
	}
	return r, nil
}

// List shows the repositories below, and the folders of the one that stands here if there is one.
func (n *namespace) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		l := &namespaceList{namespace: n, yield: yield, seen: map[uint64]bool{}, exists: n.kind == single}
		if !l.exists && !l.deeper(ctx) {
			return
		}
		if !l.exists && len(l.seen) == 0 && n.holds() {
			if err := l.ask(ctx); err != nil {
				yield(Entry{}, err)
				return
			}
		}
		if l.exists {
			l.special()
		}
	}
}

// namespaceList is a listing under way.
type namespaceList struct {
	*namespace
	yield  func(Entry, error) bool
	seen   map[uint64]bool
	exists bool // there is a repository of this very name
}

// deeper shows the next components of the repositories that stand below. Not all registries sort their catalog, so it goes to
// the end of it. A registry without a catalog shows none, and any path still works when named. It tells whether to go on.
func (l *namespaceList) deeper(ctx context.Context) bool {
	first := true
	for name, err := range l.host.Repositories(ctx, l.name[:max(0, len(l.name)-1)]) {
		if first && (errors.Is(err, image.ErrUnsupported) || errors.Is(err, image.ErrDenied)) {
			return true
		}
		if err != nil {
			l.yield(Entry{}, err)
			return false
		}
		first = false
		if !l.show(name) {
			return false
		}
	}
	return true
}

// show shows a repository's next component, once.
func (l *namespaceList) show(name string) bool {
	l.exists = l.exists || name == l.name
	rest, ok := name, true
	if l.name != "" {
		rest, ok = strings.CutPrefix(name, l.name+"/")
	}
	component, _, _ := strings.Cut(rest, "/")
	ino := l.tree.ino(l.registry, strings.TrimPrefix(l.name+"/"+component, "/"))
	if !ok || l.seen[ino] {
		return true
	}
	l.seen[ino] = true
	return l.yield(dirEntry(escape(component), ino), nil)
}

// ask asks for the repository itself, which a catalog may leave out.
func (l *namespaceList) ask(ctx context.Context) error {
	r, err := l.repository(ctx)
	if err != nil {
		return err
	}
	for _, err := range r.src.Tags(ctx, "") {
		if err != nil {
			return err
		}
		break
	}
	l.exists = true
	return nil
}

// special shows the folders of the repository.
func (l *namespaceList) special() {
	path := l.path()
	for _, name := range []string{blobsName, digestsName, layoutName, tagsName} {
		if !l.yield(dirEntry(name, l.tree.ino(path+"/"+name)), nil) {
			return
		}
	}
}
