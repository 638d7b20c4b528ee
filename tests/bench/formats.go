package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/stargz-snapshotter/estargz"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.podman.io/storage/pkg/chunked/compressor"

	"github.com/regfs/regfs/tests/registries"
)

// format is a form of layers that bring a table of what is in them, written by the library that came up with it.
type format struct {
	name      string
	mediaType types.MediaType
	// write writes the layer, and returns the annotations that vouch for its table.
	write func(ctx context.Context, to io.Writer, tar *os.File) (map[string]string, error)
}

var formats = []format{
	{"estargz", types.OCILayer, writeStargz},
	{"zstd-chunked", types.OCILayerZStd, writeChunked},
}

func writeStargz(ctx context.Context, to io.Writer, tar *os.File) (map[string]string, error) {
	info, err := tar.Stat()
	if err != nil {
		return nil, err
	}
	blob, err := estargz.Build(io.NewSectionReader(tar, 0, info.Size()), estargz.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	_, err = io.Copy(to, blob)
	return map[string]string{estargz.TOCJSONDigestAnnotation: blob.TOCDigest().String()}, err
}

func writeChunked(_ context.Context, to io.Writer, tar *os.File) (map[string]string, error) {
	annotations := map[string]string{}
	w, err := compressor.ZstdCompressor(to, annotations, nil)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(w, tar)
	return annotations, errors.Join(err, w.Close())
}

// repository is where the image in this format is at the registry.
func (f format) repository() string { return "bench/" + f.name }

// pushFormat pushes the image with its layers in a format, and returns the size of these in bytes. It is made if it is not there.
func (b *bench) pushFormat(f format) (size int64) {
	path := filepath.Join(b.data, f.name)
	if _, err := os.Stat(path); err != nil {
		writeLayout(b.t, path, b.convert(f))
	}
	img := openImage(b.t, path)
	b.registry.PushImage(b.t, f.repository()+":v1", img)
	m, err := img.Manifest()
	if err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
	for _, l := range m.Layers {
		size += l.Size
	}
	return size
}

// convert makes the image with its layers in a format.
func (b *bench) convert(f format) v1.Image {
	img := registries.BuildImage(b.t, registries.Platforms[0], f.name)
	layers, err := openImage(b.t, filepath.Join(b.data, imageFolder)).Layers()
	for i, from := range layers {
		b.t.Logf("making layer %d of %d as %s", i+1, len(layers), f.name)
		var to mutate.Addendum
		if err == nil {
			to, err = f.layer(b.t.Context(), from, filepath.Join(b.t.TempDir(), "layer"))
		}
		if err == nil {
			img, err = mutate.Append(img, to)
		}
	}
	if err != nil {
		b.t.Fatalf("%s: %v", f.name, err)
	}
	return img
}

// layer writes a layer in the format to a file.
func (f format) layer(ctx context.Context, from v1.Layer, path string) (to mutate.Addendum, err error) {
	tar, err := uncompressed(from, path+".tar")
	if err != nil {
		return to, err
	}
	defer tar.Close()
	file, err := os.Create(path)
	if err != nil {
		return to, err
	}
	defer file.Close()
	to = mutate.Addendum{MediaType: f.mediaType}
	if to.Annotations, err = f.write(ctx, file, tar); err != nil {
		return to, err
	}
	to.Layer, err = tarball.LayerFromFile(path, tarball.WithMediaType(f.mediaType))
	return to, err
}

// uncompressed writes a layer's tar to a file, and opens it at its start.
func uncompressed(from v1.Layer, path string) (*os.File, error) {
	tar, err := from.Uncompressed()
	if err != nil {
		return nil, err
	}
	defer tar.Close()
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(file, tar); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	return file, err
}
