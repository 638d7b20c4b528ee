package fs

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layer"
)

// Options is what a Tree is made of.
type Options struct {
	Places
	// Hosts are the names of the registries to list, those known from use, in any order. Any other can be named.
	Hosts func() []string
	// Blobs opens content for random reads.
	Blobs image.Blobs
	// Layers opens layers as trees of files.
	Layers *layer.Layers
	// Whiteouts is how layers/NN/tree shows what a layer removes.
	Whiteouts layer.Whiteouts
	// Platform is the one whose image stands for a multi-platform image.
	Platform image.Platform
	// TagTTL is how long a process may leave a tag's folder alone before it may see another version there. It is at least
	// five seconds, whatever is said here, or a copy could mix two versions.
	TagTTL time.Duration
	// Stage is where what is written stays until it is pushed; nil for a tree that can only be read.
	Stage *stage.Store
	// AllowDelete lets tags and manifests be deleted.
	AllowDelete bool
	// Control are files of .regfs/, by name, each made anew at every open.
	Control map[string]func() []byte
}

// Tree is the whole namespace. It is safe for concurrent use.
type Tree struct {
	o     Options
	seed  maphash.Seed
	pins  *pins
	docs  *memo[string, *image.Manifest]
	lists *memo[string, []child]
	known *memo[string, *names]
	log   *errorLog
	flaws *memo[string, struct{}]

	writers  *writers
	intents  *intents
	refusals *refusals
	fresh    *fresh

	mu    sync.Mutex
	hosts map[string]image.Host
}

// How much may be remembered in memory, in bytes, roughly: parsed manifests, folders' children, names of tags, what was reported
// of layers. What is forgotten is made again, from the cache.
const (
	docsMemory  = 16 << 20
	listsMemory = 16 << 20
	knownMemory = 16 << 20
	flawsMemory = 1 << 20
)

// New makes the tree. It sends nothing and reads nothing.
func New(o Options) *Tree {
	return &Tree{
		o:     o,
		seed:  maphash.MakeSeed(),
		pins:  newPins(max(o.TagTTL, 5*time.Second), time.Now),
		docs:  newMemo[string, *image.Manifest](docsMemory),
		lists: newMemo[string, []child](listsMemory),
		known: newMemo[string, *names](knownMemory),
		log:   &errorLog{},
		flaws: newMemo[string, struct{}](flawsMemory),

		writers: newWriters(), intents: newIntents(), refusals: newRefusals(), fresh: newFresh(),
		hosts: map[string]image.Host{},
	}
}

// Root is the folder that gets mounted.
func (t *Tree) Root() Node {
	return &root{dir{attr: Attr{Ino: 1, Mode: dirMode}}, t}
}

// ino makes an inode number of what a node is. The hash is seeded, or names chosen to collide could make one file show another.
func (t *Tree) ino(parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	for _, p := range parts {
		h.WriteString(strconv.Itoa(len(p)) + ":")
		h.WriteString(p)
	}
	return usable(h.Sum64())
}

// inoOf makes an inode number of the number of something and a number it has in there.
func (t *Tree) inoOf(in, number uint64) uint64 {
	return usable(maphash.Comparable(t.seed, [2]uint64{in, number}))
}

// usable leaves out the first numbers, which are the kernel's and the root's, and the last, which is go-fuse's.
func usable(ino uint64) uint64 { return min(max(ino, 1<<10), 1<<64-2) }

// host opens each registry once.
func (t *Tree) host(name string) (image.Host, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h, ok := t.hosts[name]; ok {
		return h, nil
	}
	h, err := t.o.Host(name)
	if err == nil {
		t.hosts[name] = h
	}
	return h, err
}

// Close closes all registries that were opened, and all places. Nothing of the tree is to be used after that.
func (t *Tree) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all error
	for _, h := range t.hosts {
		all = errors.Join(all, h.Close())
	}
	return errors.Join(all, t.o.Places.Close())
}

// root is the mount's top: .regfs and the registries.
type root struct {
	dir
	tree *Tree
}

func (r *root) Lookup(ctx context.Context, name string) (Node, error) {
	if name == controlName {
		return r.tree.control(), nil
	}
	top := r.tree.o.Places.Top
	if top != nil && !strings.HasPrefix(name, "@") {
		return newPlace(r.tree, "", *top).Lookup(ctx, name)
	}
	if named, ok := strings.CutPrefix(name, "@"); ok {
		return r.named(named)
	}
	if !image.ValidHost(name) || isClutter(name) {
		return nil, fmt.Errorf("registry %q: %w", name, image.ErrNotFound)
	}
	h, err := r.tree.host(name)
	if err != nil {
		return nil, err
	}
	return newNamespace(r.tree, h, name, ""), nil
}

func (r *root) named(name string) (Node, error) {
	p, ok := r.tree.o.Named[name]
	if !ok {
		return nil, fmt.Errorf("place @%s: %w", name, image.ErrNotFound)
	}
	return newPlace(r.tree, "@"+name, p), nil
}

func (r *root) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if !yield(dirEntry(controlName, r.tree.ino(controlName)), nil) {
			return
		}
		for _, name := range r.names() {
			if !yield(dirEntry(name, r.tree.ino(name, "")), nil) {
				return
			}
		}
		if top := r.tree.o.Places.Top; top != nil {
			newPlace(r.tree, "", *top).List(ctx)(yield)
		}
	}
}

// names are those of the places, and of the registries if they are here.
func (r *root) names() (names []string) {
	if r.tree.o.Places.Top == nil {
		names = r.tree.o.Hosts()
	}
	for name := range r.tree.o.Named {
		names = append(names, "@"+name)
	}
	slices.Sort(names)
	return names
}

// isClutter knows the names that desktops and other systems look for in every folder, and that could be registries by their form.
func isClutter(name string) bool {
	return slices.Contains([]string{"autorun.inf", "Autorun.inf", "AutoRun.inf", "desktop.ini", "Desktop.ini", "Thumbs.db", "thumbs.db",
		"folder.jpg", "Folder.jpg"}, name)
}
