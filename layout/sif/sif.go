// Package sif makes an image of a file in the Singularity Image Format: one layer of its primary partition, with a script of what the
// definition file has under %environment and %runscript, as podman and skopeo make it of a sif:. Nothing is written to the file.
//
// The partition's squashfs is turned into a tar by sqfs2tar, of squashfs-tools-ng: the layer is the same each time, as long as that
// program is.
package sif

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/disk"
	"github.com/regfs/regfs/layout/internal/files"
	"github.com/regfs/regfs/layout/internal/single"
)

// Options say where the layer is made, and how large it may be.
type Options struct {
	// TempDir is the folder in which the layer is kept, in a file without a name, until the Source is closed; "" for the system's. While it
	// is made the squashfs is there, too.
	TempDir string
	// MaxSize is the largest layer that is made, in bytes; 0 for DefaultMaxSize.
	MaxSize int64
}

// DefaultMaxSize is the largest layer that is made unless said otherwise, in bytes: a small file can pretend to hold any amount.
const DefaultMaxSize = 64 << 30

// Open opens the file. ErrNotFound where there is none, ErrInvalid where it is no SIF or damaged, ErrUnsupported where it holds no
// file system that can be read here. The layer is made when the image is first asked for, which is ErrUnsupported without sqfs2tar,
// and ErrTooLarge beyond Options.MaxSize.
func Open(path string, o Options) (image.Source, error) {
	if o.MaxSize <= 0 {
		o.MaxSize = DefaultMaxSize
	}
	file, size, err := disk.Open(path)
	if err != nil {
		return nil, files.Failed("open SIF", "", path, err)
	}
	s := &sif{options: o, file: file}
	if s.contents, err = parse(file, size); err != nil {
		file.Close()
		return nil, files.Failed("open SIF", "", path, err)
	}
	return single.New("SIF "+path, s.image, s.close), nil
}

// sif is an open file.
type sif struct {
	contents
	options Options
	file    *os.File
	tar     *os.File // the layer, when it is made
}

// image makes the image.
func (s *sif) image(ctx context.Context) (*single.Image, error) {
	script, err := s.script()
	if err != nil {
		return nil, err
	}
	tar, err := s.convert(ctx, script)
	if err != nil {
		return nil, err
	}
	layer, err := describe(ctx, tar)
	if err != nil {
		tar.Close()
		return nil, err
	}
	s.tar = tar
	return single.NewImage(s.config(layer.Digest, script != nil), []single.Layer{layer})
}

// close lets go of the file, and of the layer.
func (s *sif) close() error {
	if s.tar != nil {
		s.tar.Close()
	}
	return s.file.Close()
}

func describe(ctx context.Context, tar *os.File) (single.Layer, error) {
	info, err := tar.Stat()
	if err != nil {
		return single.Layer{}, err
	}
	dgst, err := digest.Canonical.FromReader(disk.Whole(ctx, unclosed{tar}, info.Size()))
	return single.Layer{
		Descriptor: image.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: dgst, Size: info.Size()},
		Open:       func() (disk.Content, error) { return disk.Again(tar) },
	}, err
}

// unclosed is a file that somebody else closes.
type unclosed struct{ *os.File }

func (unclosed) Close() error { return nil }

// config is what podman and skopeo say of such an image.
func (s *sif) config(layer digest.Digest, hasScript bool) v1.Image {
	command := "bash"
	if hasScript {
		command = "/" + scriptName
	}
	return v1.Image{
		Created:  &s.modified,
		Platform: v1.Platform{OS: "linux", Architecture: s.architecture},
		Config:   v1.ImageConfig{Cmd: []string{command}},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer}},
		History: []v1.History{{
			Created:   &s.modified,
			CreatedBy: fmt.Sprintf("/bin/sh -c #(nop) ADD file:%s in /", layer.Encoded()),
			Comment:   "imported from SIF, uuid: " + s.id,
		}, {
			Created: &s.modified, CreatedBy: `/bin/sh -c #(nop) CMD ["bash"]`, EmptyLayer: true,
		}},
	}
}

// contents is what a SIF has that an image is made of.
type contents struct {
	id           string
	architecture string
	modified     time.Time
	partition    object  // the primary one, a squashfs
	definition   *object // nil for none
}
