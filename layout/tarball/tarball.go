// Package tarball makes an image of tar archives, each of which is a layer as it is, compressed or not: skopeo's tarball:. There is
// no manifest in them: config and manifest are those that skopeo makes. Nothing is written.
package tarball

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/disk"
	"github.com/regfs/regfs/layout/internal/files"
	"github.com/regfs/regfs/layout/internal/single"
)

// Options say where what has no file comes from, and where it goes.
type Options struct {
	// Stdin is what "-" stands for; nil for os.Stdin. It is read to its end when the image is first asked for.
	Stdin io.Reader
	// TempDir is the folder in which that is kept meanwhile, without a name; "" for the system's.
	TempDir string
}

// Open opens the archives, which have ":" between them, base first. "-" is what comes by the standard input. It reads nothing yet but
// makes sure that they are there: ErrNotFound where one is not, ErrInvalid where it is no file. The archives are read once, when the
// image is first asked for; what is no tar, or cut short, is ErrInvalid then, and what is compressed as no layer can be ErrUnsupported.
func Open(paths string, o Options) (image.Source, error) {
	if o.Stdin == nil {
		o.Stdin = os.Stdin
	}
	t := &tarball{paths: strings.Split(paths, ":"), input: newSpool(o.Stdin, o.TempDir)}
	for _, path := range t.paths {
		if path == "-" {
			continue
		}
		file, _, err := disk.Open(path)
		if path == "" {
			err = fmt.Errorf("there is nothing between two colons, or beside one: %w", image.ErrNotFound)
		}
		if err != nil {
			return nil, files.Failed("open tarball", "", paths, err)
		}
		file.Close()
	}
	return single.New("tarball "+paths, t.image, t.input.close), nil
}

type tarball struct {
	paths []string
	input *spool
}

// image makes the image by reading all archives.
func (t *tarball) image(ctx context.Context) (*single.Image, error) {
	config := v1.Image{
		Created: &time.Time{}, Platform: v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}, History: []v1.History{},
	}
	var layers []single.Layer
	for _, path := range t.paths {
		l, err := t.layer(ctx, path)
		if err != nil && len(t.paths) > 1 {
			err = fmt.Errorf("%s: %w", path, err)
		}
		if err != nil {
			return nil, err
		}
		layers = append(layers, l.Layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		config.History = append(config.History, v1.History{
			Created: &l.time, CreatedBy: fmt.Sprintf("/bin/sh -c #(nop) ADD file:%s in /", l.diffID.Encoded()), Comment: "imported from tarball",
		})
		if config.Created.Before(l.time) {
			config.Created = &l.time
		}
	}
	return single.NewImage(config, layers)
}

// layer is a layer with what the config says of it.
type layer struct {
	single.Layer
	diffID digest.Digest
	time   time.Time
}

func (t *tarball) layer(ctx context.Context, path string) (layer, error) {
	open := func() (*os.File, error) {
		file, _, err := disk.Open(path)
		return file, err
	}
	if path == "-" {
		if err := t.input.wait(ctx); err != nil {
			return layer{}, err
		}
		open = t.input.open
	}
	file, err := open()
	if err != nil {
		return layer{}, err
	}
	defer file.Close()
	l, err := scan(ctx, file)
	l.Open = func() (disk.Content, error) { return open() }
	return l, err
}

// scan reads an archive for what is to be said of it.
func scan(ctx context.Context, file *os.File) (layer, error) {
	info, err := file.Stat()
	if err != nil {
		return layer{}, err
	}
	r := disk.Whole(ctx, unclosed{file}, info.Size())
	d, diffID, err := readArchive(r)
	if errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, image.ErrInvalid) {
		err = fmt.Errorf("it was cut short: %w", image.ErrInvalid)
	}
	return layer{Layer: single.Layer{Descriptor: d}, diffID: diffID, time: info.ModTime().UTC()}, err
}

// unclosed is a file that somebody else closes.
type unclosed struct{ *os.File }

func (unclosed) Close() error { return nil }
