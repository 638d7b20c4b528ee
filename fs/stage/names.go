package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// Kind is what a name in a staging stands for.
type Kind string

// The kinds. Hidden is a name of the published image that was removed here.
const (
	Folder  Kind = "folder"
	Regular Kind = "file"
	Hidden  Kind = "hidden"
)

// Entry is a name in a staging.
type Entry struct {
	Name string
	Kind Kind
	File *File // of a Regular
	// Made is when a Folder was made.
	Made time.Time
}

// Top is the path of the image folder, which oci-layout/ is in, and "." that of oci-layout/ itself. Files of the image folder
// itself have a slash before their names.
const Top = ""

// Staging is what is being written for one site: the folder oci-layout/, which is the path ".", and all below it. Paths are
// clean slash paths. It is safe for concurrent use.
//
// A published image may stand below: whoever asks here knows of it, and says what names it has.
type Staging struct {
	store *Store
	site  Site
	dir   string

	// pushing is held by who plans and pushes.
	pushing chan struct{}
	over    chan struct{}   // closed when it has ended
	life    context.Context // ends when that begins
	die     context.CancelFunc

	sinkMu   sync.Mutex
	opened   image.Sink // nil before anything was pushed
	sinkOver bool       // and none is opened any more

	mu      sync.Mutex
	names   map[string]*name
	journal *os.File
	gone    bool
	last    time.Time // of the last change
	warned  bool      // since then

	wants   map[digest.Digest]bool // blobs that the last plan lacked; nil when it does not hold any more
	stuck   map[digest.Digest]bool // what an image that can't be pushed is made of: who writes none of it tries nothing; nil for none
	absent  map[thing]time.Time
	noTag   map[string]time.Time
	there   map[thing]bool
	uploads map[digest.Digest]*upload
	report  report
	// lastIndex is the index.json that was pushed, and lastVersion what it was then.
	lastIndex   *File
	lastVersion uint64
}

// thing is what a repository can have: a blob or a manifest, which are two things though they go by the same digest.
type thing struct {
	digest     digest.Digest
	isManifest bool
}

func thingOf(d image.Descriptor) thing { return thing{d.Digest, image.IsManifest(d.MediaType)} }

// name is what a path stands for.
type name struct {
	kind Kind
	over bool // a Folder in the place of a published one that was removed: nothing of that shows in it
	file *File
	made time.Time
}

func newStaging(s *Store, site Site, dir string) *Staging {
	life, die := context.WithCancel(context.Background())
	return &Staging{
		store: s, site: site, dir: dir, pushing: make(chan struct{}, 1), over: make(chan struct{}), life: life, die: die, names: map[string]*name{}, last: time.Now(),
		absent: map[thing]time.Time{}, noTag: map[string]time.Time{}, there: map[thing]bool{}, uploads: map[digest.Digest]*upload{},
	}
}

// Lookup finds a path.
func (l *Staging) Lookup(at string) (Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.names[at]
	if n == nil {
		return Entry{}, false
	}
	return n.entry(at), true
}

func (n *name) entry(at string) Entry { return Entry{path.Base(at), n.kind, n.file, n.made} }

// List is all that is right below a path, hidden names too, sorted.
func (l *Staging) List(folder string) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Entry
	for at, n := range l.names {
		if at != "." && at != Top && path.Dir(at) == folder {
			all = append(all, n.entry(at))
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// maxNames is how many names one staging may have.
const maxNames = 200_000

// set makes a path stand for something. The lock is held.
func (l *Staging) set(at string, n *name) error {
	if l.gone {
		return ErrGone
	}
	if len(l.names) >= maxNames {
		return fmt.Errorf("%s has more than %d names staged: %w", l.site, maxNames, unix.ENOSPC)
	}
	if err := l.note(record{Path: at, Kind: n.kind, Over: n.over, File: n.file.record()}); err != nil {
		return err
	}
	l.names[at] = n
	l.changed()
	return nil
}

// drop makes a path stand for nothing here, or for a hidden name. The lock is held.
func (l *Staging) drop(at string, hide bool) error {
	if hide {
		return l.set(at, &name{kind: Hidden})
	}
	if err := l.note(record{Path: at}); err != nil {
		return err
	}
	delete(l.names, at)
	delete(l.report.bad, at)
	l.wants = nil
	if at == v1.ImageIndexFile {
		l.stuck = nil
	}
	l.changed()
	return nil
}

// changed: whatever was thought of the staging has to be thought anew. The lock is held.
func (l *Staging) changed() {
	l.last, l.warned = time.Now(), false
}

// Mkdir makes a folder.
func (l *Staging) Mkdir(at string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.names[at]; n != nil && n.kind != Hidden {
		return fmt.Errorf("%s: %w", at, os.ErrExist)
	}
	return l.set(at, &name{kind: Folder, over: l.names[at] != nil, made: time.Now()})
}

// Create makes an empty file.
func (l *Staging) Create(at string, mode uint32) (*File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.names[at]; n != nil && n.kind != Hidden {
		return nil, fmt.Errorf("%s: %w", at, os.ErrExist)
	}
	f := newFile(l, at, l.store.id(), mode)
	return f, l.set(at, &name{kind: Regular, file: f})
}

// Replace makes an empty file, also in the place of one.
func (l *Staging) Replace(at string, mode uint32) (*File, error) {
	l.mu.Lock()
	old := l.names[at]
	if old != nil && old.kind == Folder {
		l.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", at, unix.EISDIR)
	}
	f := newFile(l, at, l.store.id(), mode)
	err := l.set(at, &name{kind: Regular, file: f})
	l.wants = nil
	l.mu.Unlock()
	if err == nil && old != nil && old.file != nil {
		old.file.unlinked()
	}
	return f, err
}

// Adopt makes a file of what is published at a path, without moving a byte. A file that is there already is that.
func (l *Staging) Adopt(at string, ref Reference) (*File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.names[at]; n != nil && n.kind == Regular {
		return n.file, nil
	}
	f := newFile(l, at, l.store.id(), 0o644)
	f.ref, f.size = &ref, ref.N
	return f, l.set(at, &name{kind: Regular, file: f})
}

// Unlink removes a file. With hide, a published one of that name does not show either.
func (l *Staging) Unlink(at string, hide bool) error {
	l.mu.Lock()
	n := l.names[at]
	if n != nil && n.kind == Folder {
		l.mu.Unlock()
		return fmt.Errorf("%s: %w", at, unix.EISDIR)
	}
	err := l.drop(at, hide)
	l.mu.Unlock()
	if err == nil && n != nil && n.file != nil {
		n.file.unlinked()
	}
	l.tidy()
	return err
}

// Rmdir removes a folder in which nothing is staged.
func (l *Staging) Rmdir(at string, hide bool) error {
	err := l.rmdir(at, hide)
	l.tidy()
	return err
}

func (l *Staging) rmdir(at string, hide bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for other, n := range l.names {
		if below(other, at) && n.kind != Hidden {
			return fmt.Errorf("%s: %w", at, unix.ENOTEMPTY)
		}
	}
	for other := range l.names {
		if below(other, at) {
			if err := l.drop(other, false); err != nil {
				return err
			}
		}
	}
	return l.drop(at, hide)
}

// below tells whether a path lies in a folder.
func below(at, folder string) bool {
	switch {
	case at == folder || at == Top:
		return false
	case folder == Top:
		return true
	case folder == ".":
		return !strings.HasPrefix(at, "/")
	}
	return strings.HasPrefix(at, folder+"/")
}

// blobDigest is the digest that a path names, if it is a blob's.
func blobDigest(at string) (digest.Digest, bool) {
	alg, hex, ok := strings.Cut(strings.TrimPrefix(at, v1.ImageBlobsDir+"/"), "/")
	if !ok || !strings.HasPrefix(at, v1.ImageBlobsDir+"/") {
		return "", false
	}
	dgst := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
	return dgst, dgst.Validate() == nil
}

// blobPath is where a blob is staged.
func blobPath(dgst digest.Digest) string {
	return path.Join(v1.ImageBlobsDir, dgst.Algorithm().String(), dgst.Encoded())
}

// isMissing tells a verdict from a failure to ask.
func isMissing(err error) bool {
	return errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrUnavailable)
}
