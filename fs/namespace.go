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
}

func newNamespace(t *Tree, h image.Host, registry, name string) *namespace {
	return &namespace{dir{attr: Attr{Ino: t.ino(registry, name), Dir: true}}, t, h, registry, name}
}

func (n *namespace) Lookup(ctx context.Context, name string) (Node, error) {
	if isReserved(name) {
		return n.special(ctx, name)
	}
	component, ok := unescape(name)
	path := strings.TrimPrefix(n.name+"/"+component, "/")
	if !ok || !image.ValidRepository(path) {
		return nil, fmt.Errorf("repository %s/%s: %w", n.name, name, image.ErrNotFound)
	}
	return newNamespace(n.tree, n.host, n.registry, path), nil
}

// special finds a folder of the repository itself.
func (n *namespace) special(ctx context.Context, name string) (Node, error) {
	if n.name == "" {
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
	return newRepositoryLayout(r), nil
}

func (n *namespace) repository(ctx context.Context) (*repository, error) {
	name := n.name
	if n.registry == "docker.io" && !strings.Contains(name, "/") {
		name = "library/" + name
	}
	src, err := n.host.Source(ctx, name)
	if err != nil {
		return nil, err
	}
	return &repository{tree: n.tree, src: src, path: n.registry + "/" + n.name, name: n.registry + "/" + name}, nil
}

// List shows the repositories below, and the folders of the one that stands here if there is one.
func (n *namespace) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		exists, err := n.exists(ctx)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		if exists && !n.listSpecial(yield) {
			return
		}
		found, more := n.listBelow(ctx, yield)
		if more && !exists && !found && n.name != "" {
			yield(Entry{}, fmt.Errorf("repository %s/%s: %w", n.registry, n.name, image.ErrNotFound))
		}
	}
}

// exists asks whether there is a repository of this very name.
func (n *namespace) exists(ctx context.Context) (bool, error) {
	if n.name == "" {
		return false, nil
	}
	r, err := n.repository(ctx)
	if err != nil {
		return false, err
	}
	for _, err := range r.src.Tags(ctx, "") {
		if errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrUnavailable) {
			return false, nil
		}
		return err == nil, err
	}
	return true, nil
}

func (n *namespace) listSpecial(yield func(Entry, error) bool) bool {
	path := n.registry + "/" + n.name
	for _, name := range []string{blobsName, digestsName, layoutName, tagsName} {
		if !yield(Entry{name, n.tree.ino(path + "/" + name), true}, nil) {
			return false
		}
	}
	return true
}

// listBelow shows the next components of the repositories that stand below. A registry without a catalog shows none, and
// any path still works when named. It tells whether there were any, and whether to go on.
func (n *namespace) listBelow(ctx context.Context, yield func(Entry, error) bool) (found, more bool) {
	prefix := ""
	if n.name != "" {
		prefix = n.name + "/"
	}
	seen := map[uint64]bool{}
	for name, err := range n.host.Repositories(ctx, prefix) {
		if errors.Is(err, image.ErrUnsupported) || errors.Is(err, image.ErrDenied) {
			return found, true
		}
		if err != nil {
			yield(Entry{}, err)
			return found, false
		}
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok && name > prefix {
			break // names come in order: none that follows stands below
		}
		component, _, _ := strings.Cut(rest, "/")
		ino := n.tree.ino(n.registry, prefix+component)
		if !ok || seen[ino] {
			continue
		}
		seen[ino], found = true, true
		if !yield(Entry{escape(component), ino, true}, nil) {
			return found, false
		}
	}
	return found, true
}
