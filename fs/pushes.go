package fs

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
)

// pushesName is the folder of .regfs/ that tells of what is being written: REGISTRY/REPOSITORY/TAG.json.
const pushesName = "pushes"

// Where a push has no tag: a repository's own layout, whose blobs have none either.
const layoutSiteName = "@" + layoutName

// pushes is a folder of it: path is the part of all sites' paths that it stands for.
type pushes struct {
	dir
	tree *Tree
	path string
}

func (t *Tree) pushes(path string) *pushes {
	return &pushes{dir{attr: Attr{Ino: t.ino(controlName, pushesName, path), Mode: ownDirMode, Volatile: true}}, t, path}
}

// sitePath is where a site is told of, below pushes/.
func sitePath(s stage.Status) string {
	tag := s.Tag
	if tag == "" {
		tag = layoutSiteName
	}
	return path.Join(s.Registry, s.Repository, tag+".json")
}

// all are the statuses of what is below the folder, by the rest of their paths.
func (p *pushes) all() map[string]stage.Status {
	found := map[string]stage.Status{}
	if p.tree.o.Stage == nil {
		return found
	}
	for _, s := range p.tree.o.Stage.Statuses() {
		if rest, ok := strings.CutPrefix(sitePath(s), p.path); ok {
			found[rest] = s
		}
	}
	return found
}

func (p *pushes) Lookup(_ context.Context, name string) (Node, error) {
	all := p.all()
	if s, ok := all[name]; ok {
		return p.status(name, s), nil
	}
	for rest := range all {
		if strings.HasPrefix(rest, name+"/") {
			return p.tree.pushes(p.path + name + "/"), nil
		}
	}
	return nil, fmt.Errorf("%s: %w", name, image.ErrNotFound)
}

func (p *pushes) List(context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		seen := map[string]bool{}
		var entries []Entry
		for rest, s := range p.all() {
			name, _, deeper := strings.Cut(rest, "/")
			switch {
			case seen[name]:
			case deeper:
				entries = append(entries, dirEntry(name, p.tree.pushes(p.path+name+"/").attr.Ino))
			default:
				entries = append(entries, fileEntry(name, p.status(name, s).ino))
			}
			seen[name] = true
		}
		slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// status is the file that tells of one site.
func (p *pushes) status(name string, s stage.Status) *made {
	site := s.Site()
	return &made{ino: p.tree.ino(controlName, pushesName, p.path, name), content: func(context.Context) ([]byte, error) {
		now, ok := p.tree.o.Stage.Status(site)
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, image.ErrNotFound)
		}
		raw, err := json.MarshalIndent(now, "", "  ")
		return append(raw, '\n'), err
	}}
}

// Unlink throws away what is staged for a site.
func (p *pushes) Unlink(_ context.Context, name string) error {
	s, ok := p.all()[name]
	if !ok {
		return fmt.Errorf("%s: %w", name, image.ErrNotFound)
	}
	return p.tree.o.Stage.Discard(s.Site())
}
