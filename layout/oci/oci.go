// Package oci is an OCI image layout (image-spec, image-layout.md), in a folder or in a tar, as a place to read images from and to
// write them to.
//
// Nothing but what is inside the folder, or the tar, is ever read or written: a symlink that leads out of it is refused. Several
// processes may write one layout at the same time: index.json changes under a lock (flock(2)) on the folder, that which the tar is
// in, and every file gets its name when it is whole, so that a process that is killed leaves the layout as it was, and at most a file
// ".regfs-…" in the folder, which a later Create removes: a minute later in a layout, at once beside an archive.
package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// Layout is the layout. It is safe for concurrent use.
type Layout struct {
	where string // the folder or the archive, for errors
	files files.Files
	// repository is the full name of the images it shows, "" for all images, whatever they are called.
	repository string
	// tar tells that all that is written is lost unless an Edit follows, and that index.json may come with the first image.
	tar bool
	// shared tells that other layouts may have the same blobs.
	shared bool

	// unkept tells that a manifest was pushed since the last Edit.
	unkept *atomic.Bool
}

var (
	_ image.Source = (*Layout)(nil)
	_ image.Sink   = (*Layout)(nil)
)

// maxMarker is the longest oci-layout file that is read, in bytes.
const maxMarker = 4 << 10

// Option says how a folder is a layout.
type Option func(*options)

type options struct{ shared string }

// SharedBlobs has the blobs in a folder of their own, as <folder>/<algorithm>/<hex>, which several layouts may use: skopeo's
// --src-shared-blob-dir and --dest-shared-blob-dir. Nothing is ever deleted there.
func SharedBlobs(folder string) Option { return func(o *options) { o.shared = folder } }

func collect(o []Option) options {
	var all options
	for _, set := range o {
		set(&all)
	}
	return all
}

// Open opens a layout that is there. ErrNotFound where there is no such folder, ErrInvalid where it is no layout.
func Open(dir string, o ...Option) (*Layout, error) {
	l, _, err := open(dir, collect(o))
	if err == nil {
		err = l.check(context.Background())
	}
	return l.opened(err)
}

// Create opens a layout, and makes it where there is an empty folder, or none. A folder with anything else in it is refused.
func Create(dir string, o ...Option) (*Layout, error) {
	all := collect(o)
	for _, folder := range []string{dir, all.shared} {
		if folder == "" {
			continue
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, fmt.Errorf("create %s: %w", folder, files.Translate(folder, err))
		}
	}
	ctx := context.Background()
	l, f, err := open(dir, all)
	if err == nil {
		err = f.locked(ctx, func() error { return f.fill(ctx) })
	}
	if err == nil {
		err = l.check(ctx)
	}
	return l.opened(err)
}

func open(dir string, o options) (*Layout, *folder, error) {
	l := newLayout(nil, dir)
	l.shared = o.shared != ""
	f, err := openFolder(dir, o)
	if err == nil {
		l.files = f
	}
	return l, f, err
}

// OpenArchive opens a layout in a tar, which is read where it lies; a compressed one is unpacked to $TMPDIR or /var/tmp first.
// ErrNotFound where there is no such file, ErrInvalid where it is no tar, is cut short, or has no layout in it.
func OpenArchive(ctx context.Context, file string) (*Layout, error) {
	l, err := openArchive(ctx, file, false)
	if err == nil {
		err = l.check(ctx)
	}
	return l.opened(err)
}

// CreateArchive opens a layout in a tar for writing, too. The tar is made with the first image, and anew with each further one: beside
// the old one, in whose place it goes when it is whole. What has no name by then can be read from this Layout only, and is kept
// if its Close finds a manifest among it. ErrUnsupported for an archive that is compressed.
func CreateArchive(ctx context.Context, file string) (*Layout, error) {
	l, err := openArchive(ctx, file, true)
	if err == nil {
		err = l.checkOrNew(ctx)
	}
	return l.opened(err)
}

func openArchive(ctx context.Context, file string, writable bool) (*Layout, error) {
	l := newLayout(nil, file)
	l.tar = writable
	a, err := files.Open(ctx, file, writable)
	if err == nil {
		l.files = a
	}
	return l, err
}

// Over is a layout in files of an archive that is more than a layout. where is what errors call it.
func Over(f files.Files, where string) *Layout {
	l := newLayout(f, where)
	l.tar = true
	return l
}

func newLayout(f files.Files, where string) *Layout {
	return &Layout{where: where, files: f, unkept: new(atomic.Bool)}
}

// Repository is the layout as one repository: of the images that have a full name, as docker and containerd write them to index.json
// (io.containerd.image.name), those of this name, with tags for names, beside all that has no name.
func (l *Layout) Repository(name string) *Layout {
	r := *l
	r.repository = name
	return &r
}

// opened is l, or the reason why it is of no use.
func (l *Layout) opened(err error) (*Layout, error) {
	if err == nil {
		return l, nil
	}
	if l.files != nil {
		l.files.Close()
	}
	return nil, fmt.Errorf("open image layout %s: %w", l.where, files.Translate(l.where, err))
}

// closeTime is how long Close waits for who else writes to an archive.
const closeTime = time.Minute

// Close closes the layout. What is being read stays readable. A manifest that was pushed to an archive is kept, without a name.
func (l *Layout) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := l.keep(ctx)
	return errors.Join(err, l.files.Close())
}

// keep writes an archive that a manifest was pushed to.
func (l *Layout) keep(ctx context.Context) error {
	if !l.tar || !l.unkept.Load() {
		return nil
	}
	if err := l.edit(ctx, "", func(*index) bool { return true }); err != nil {
		return l.failed("write", "", err)
	}
	return nil
}

// blobPath is where content of a digest lies, which must be valid.
func blobPath(dgst digest.Digest) string {
	return path.Join(v1.ImageBlobsDir, dgst.Algorithm().String(), dgst.Encoded())
}

// failed wraps an error with the operation and its object, once.
func (l *Layout) failed(op, object string, err error) error {
	if object != "" {
		op += " " + files.Clean(object)
	}
	return fmt.Errorf("%s in %s: %w", op, l.where, files.Translate(l.where, err))
}

// check tells what keeps files from being a layout.
func (l *Layout) check(ctx context.Context) error {
	raw, err := files.Read(ctx, l.files, v1.ImageLayoutFile, maxMarker)
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, image.ErrInvalid) {
		return fmt.Errorf("no image layout: it has no %s: %w", v1.ImageLayoutFile, image.ErrInvalid)
	}
	if err != nil {
		return err
	}
	var marker v1.ImageLayout
	if err := json.Unmarshal(raw, &marker); err != nil {
		return fmt.Errorf("%s: %v: %w", v1.ImageLayoutFile, err, image.ErrInvalid)
	}
	if !strings.HasPrefix(marker.Version, "1.") {
		return fmt.Errorf("an image layout of version %q, not 1: %w", marker.Version, image.ErrInvalid)
	}
	_, err = l.index(ctx)
	return err
}

// checkOrNew is check of an archive that may have nothing in it yet.
func (l *Layout) checkOrNew(ctx context.Context) error {
	a, ok := l.files.(*files.Archive)
	if ok && a.None() {
		return nil
	}
	return l.check(ctx)
}

// marker is the file that tells a layout.
func marker() []byte { return marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion}) }

// marshal is for documents of this package's making, which always have a JSON form.
func marshal(document any) []byte {
	b, err := json.Marshal(document)
	if err != nil {
		panic(err)
	}
	return b
}
