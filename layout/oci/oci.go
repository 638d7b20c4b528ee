// Package oci is an OCI image layout on disk (image-spec, image-layout.md) as a place to read images from and to write them to.
//
// Nothing but what is inside the folder is ever read or written: a symlink that leads out of it is refused. Several processes
// may write one layout at the same time: index.json changes under a lock (flock(2)) on the folder, and every file gets its name
// when it is whole, so that a process that is killed leaves the layout as it was, and at most a file ".regfs-…" in it, which the
// next Create removes a day later.
package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// Layout is the folder. It is safe for concurrent use.
type Layout struct {
	dir  string
	root *os.Root
}

var (
	_ image.Source = (*Layout)(nil)
	_ image.Sink   = (*Layout)(nil)
)

// maxMarker is the longest oci-layout file that is read, in bytes.
const maxMarker = 4 << 10

// staleAge is how long a file on its way has lain untouched when whoever wrote it must be gone.
const staleAge = 24 * time.Hour

// Open opens a layout that is there. ErrNotFound where there is no such folder, ErrInvalid where it is no layout.
func Open(dir string) (*Layout, error) {
	l, err := open(dir)
	if err == nil {
		err = l.check()
	}
	return l.opened(err)
}

// Create opens a layout, and makes it where there is an empty folder, or none. A folder with anything else in it is refused.
func Create(dir string) (*Layout, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create %s: %w", dir, translate(err))
	}
	l, err := open(dir)
	if err == nil {
		err = l.locked(context.Background(), l.fill)
	}
	if err == nil {
		err = l.check()
	}
	return l.opened(err)
}

func open(dir string) (*Layout, error) {
	root, err := os.OpenRoot(dir)
	return &Layout{dir, root}, err
}

// opened is l, or the reason why it is of no use.
func (l *Layout) opened(err error) (*Layout, error) {
	if err == nil {
		return l, nil
	}
	if l.root != nil {
		l.root.Close()
	}
	return nil, fmt.Errorf("open image layout %s: %w", l.dir, translate(err))
}

// Close closes the folder. What is being read stays readable.
func (l *Layout) Close() error { return l.root.Close() }

// check tells what keeps the folder from being a layout.
func (l *Layout) check() error {
	raw, err := l.readFile(v1.ImageLayoutFile, maxMarker)
	if errors.Is(err, fs.ErrNotExist) {
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
	_, err = l.index()
	return err
}

// fill makes an empty folder a layout. oci-layout comes first: with it, the folder is known for one that was to be a layout,
// should the rest not come to be.
func (l *Layout) fill() error {
	isLayout, err := l.inspect()
	if err != nil {
		return err
	}
	if !isLayout {
		if err := l.replace(v1.ImageLayoutFile, marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})); err != nil {
			return err
		}
	}
	if err := l.root.MkdirAll(v1.ImageBlobsDir+"/sha256", 0o755); err != nil {
		return err
	}
	if _, err := l.root.Lstat(v1.ImageIndexFile); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return l.replace(v1.ImageIndexFile, []byte(emptyIndex))
}

// inspect tells a layout from an empty folder, and removes what others left behind. Any other folder is an error.
func (l *Layout) inspect() (isLayout bool, err error) {
	entries, err := fs.ReadDir(l.root.FS(), ".")
	var foreign string
	for _, e := range entries {
		switch name := e.Name(); {
		case name == v1.ImageLayoutFile:
			isLayout = true
		case strings.HasPrefix(name, tempPrefix):
			l.removeStale(e)
		default:
			foreign = name
		}
	}
	if err == nil && !isLayout && foreign != "" {
		err = fmt.Errorf("no image layout, and not empty: it has %q and no %s: %w", foreign, v1.ImageLayoutFile, image.ErrInvalid)
	}
	return isLayout, err
}

func (l *Layout) removeStale(e fs.DirEntry) {
	info, err := e.Info()
	if err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > staleAge {
		l.root.Remove(e.Name()) // it is in nobody's way if it stays
	}
}

// marshal is for documents of this package's making, which always have a JSON form.
func marshal(document any) []byte {
	b, err := json.Marshal(document)
	if err != nil {
		panic(err)
	}
	return b
}
