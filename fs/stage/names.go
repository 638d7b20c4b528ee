package stage

import (
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
	over    chan struct{} // closed when it has ended

	mu      sync.Mutex
	names   map[string]*name
	journal *os.File
	gone    bool
	last    time.Time // of the last change
	warned  bool      // since then

	wants   map[digest.Digest]bool // blobs that the last plan lacked; nil when it does not hold any more
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
	return &Staging{
		store: s, site: site, dir: dir, pushing: make(chan struct{}, 1), over: make(chan struct{}), names: map[string]*name{}, last: time.Now(),
		absent: map[thing]time.Time{}, noTag: map[string]time.Time{}, there: map[thing]bool{}, uploads: map[digest.Digest]*upload{},
	}
}

// ErrGone says that the staging ended while somebody was about to use it: begin a new one.
var ErrGone = fmt.Errorf("the staging has ended: %w", image.ErrNotFound)

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

// IsEmpty tells whether nothing is staged but the image folder itself.
func (l *Staging) IsEmpty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.hasBelow(Top)
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

// Rename moves a file or folder within the staging. hideFrom and replaceable say what is published at either end: a name to
// hide, and an entry that may be replaced though it is not staged.
func (l *Staging) Rename(from, to string, hideFrom, exclusive bool) error {
	l.mu.Lock()
	replaced, err := l.rename(from, to, hideFrom, exclusive)
	l.mu.Unlock()
	if err == nil && replaced != nil {
		replaced.unlinked()
	}
	return err
}

func (l *Staging) rename(from, to string, hideFrom, exclusive bool) (replaced *File, err error) {
	n, over := l.names[from], l.names[to]
	if over != nil && over.kind == Hidden {
		over = nil
	}
	switch {
	case l.gone:
		return nil, ErrGone
	case n == nil || n.kind == Hidden:
		return nil, fmt.Errorf("%s: %w", from, image.ErrNotFound)
	case from == to || over == n:
		return nil, nil
	case below(to, from):
		return nil, fmt.Errorf("%s into itself: %w", from, unix.EINVAL)
	case over == nil:
	case exclusive:
		return nil, fmt.Errorf("%s: %w", to, os.ErrExist)
	case n.kind == Folder && over.kind != Folder:
		return nil, fmt.Errorf("%s: %w", to, unix.ENOTDIR)
	case n.kind != Folder && over.kind == Folder:
		return nil, fmt.Errorf("%s: %w", to, unix.EISDIR)
	case over.kind == Folder && l.hasBelow(to):
		return nil, fmt.Errorf("%s: %w", to, unix.ENOTEMPTY)
	}
	if err := l.note(record{Path: from, To: to}); err != nil {
		return nil, err
	}
	l.move(from, to)
	l.wants = nil
	if hideFrom {
		err = l.set(from, &name{kind: Hidden})
	}
	l.changed()
	if over != nil {
		replaced = over.file
	}
	return replaced, err
}

func (l *Staging) hasBelow(folder string) bool {
	for at, n := range l.names {
		if below(at, folder) && n.kind != Hidden {
			return true
		}
	}
	return false
}

// move renames a path and all below it. What stood in the way, hidden names too, is forgotten. The lock is held.
func (l *Staging) move(from, to string) {
	for at := range l.names {
		if at == to || below(at, to) {
			delete(l.names, at)
		}
	}
	moved := map[string]*name{}
	for at, n := range l.names {
		if at == from || below(at, from) {
			moved[to+strings.TrimPrefix(at, from)] = n
			delete(l.names, at)
		}
	}
	for at, n := range moved {
		l.names[at] = n
		if n.file != nil {
			n.file.path = at
		}
	}
}

// Ended tells whether the staging is over.
func (l *Staging) Ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gone
}

// End throws the staging away, and returns when nothing is left of it.
func (l *Staging) End() {
	l.mu.Lock()
	ends := l.finish()
	l.mu.Unlock()
	ends()
}

// finish ends the staging: nothing is changed in it from now on. What it returns is to be called without the lock, and clears up. The
// lock is held.
func (l *Staging) finish() (clearUp func()) {
	if l.gone {
		return func() {}
	}
	l.gone = true
	last := l.status()
	var files []*File
	for _, n := range l.names {
		if n.file != nil {
			files = append(files, n.file)
		}
	}
	l.names = map[string]*name{}
	for _, u := range l.uploads {
		u.cancel()
	}
	return func() {
		for _, f := range files {
			f.unlinked()
		}
		l.erase()
		l.store.remove(l, last)
		close(l.over)
	}
}

// Over is closed when nothing is left of a staging that ended, so that another one can begin.
func (l *Staging) Over() <-chan struct{} { return l.over }

// erase removes the staging from the disk.
func (l *Staging) erase() {
	_ = l.close()
	if err := os.RemoveAll(l.dir); err != nil {
		l.store.o.Log.Warn("what was staged can't be removed", "folder", l.dir, "error", err)
	}
}

func (l *Staging) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.journal == nil {
		return nil
	}
	err := l.journal.Close()
	l.journal = nil
	return err
}

// rest looks at a staging that may have been left alone: one with nothing but hidden names is dropped, one that is not
// finished is told of, once.
func (l *Staging) rest(silence time.Duration) {
	l.mu.Lock()
	if l.gone || time.Since(l.last) < silence {
		l.mu.Unlock()
		return
	}
	hidden := len(l.names) > 0
	for _, n := range l.names {
		hidden = hidden && n.kind == Hidden
	}
	tell := !l.warned && !hidden
	l.warned = true
	ends := func() {}
	if hidden {
		ends = l.finish()
	}
	l.mu.Unlock()
	ends()
	if status := l.Status(); tell && (status.State == Writing || status.State == Broken) {
		l.store.o.Log.Warn("an image is not pushed yet and nobody writes to it", "image", l.site.String(), "why", status.reason())
	}
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
