//go:build linux

package mount_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// packing is how a layer's tar becomes its blob: the shell command that reads the one and writes the other.
type packing struct{ mediaType, command string }

var (
	plain   = packing{ispec.MediaTypeImageLayer, "cat"}
	gzipped = packing{ispec.MediaTypeImageLayerGzip, "gzip -1"}
	best    = packing{ispec.MediaTypeImageLayerGzip, "gzip -9"}
	pigz    = packing{ispec.MediaTypeImageLayerGzip, "pigz -p 4 -b 128"}
	// members are many gzip streams, one after the other, as estargz has them.
	members = packing{ispec.MediaTypeImageLayerGzip, "split -b 700000 --filter='gzip -1'"}
	zstd    = packing{ispec.MediaTypeImageLayerZstd, "zstd -q"}
	long    = packing{ispec.MediaTypeImageLayerZstd, "zstd -q -19 --long=27"}
	frames  = packing{ispec.MediaTypeImageLayerZstd, "split -b 700000 --filter='zstd -q'"}
)

// packed is a tar and how it is to be packed.
type packed struct {
	tar string
	packing
	// twin is another tar of the same files, for umoci; "" if that can read this one.
	twin string
}

// layouts are an image twice, under the tag v1: as it is pushed, and with layers that umoci can read.
type layouts struct{ pushed, umoci string }

// writeLayouts makes an image in two folders of dir. umoci 0.4.7 unpacks plain and gzipped layers only.
func writeLayouts(ctx context.Context, dir string, layers ...packed) (layouts, error) {
	made := layouts{filepath.Join(dir, "layout"), filepath.Join(dir, "twin")}
	if err := writeLayout(ctx, made.pushed, layers...); err != nil {
		return made, err
	}
	var twins []packed
	for _, l := range layers {
		twins = append(twins, packed{tar: cmp.Or(l.twin, l.tar), packing: plain})
	}
	return made, writeLayout(ctx, made.umoci, twins...)
}

// writeLayout makes the OCI layout of an image of layers, under the tag v1.
func writeLayout(ctx context.Context, dir string, layers ...packed) error {
	w := &layoutWriter{blobs: filepath.Join(dir, "blobs", "sha256")}
	w.err = os.MkdirAll(w.blobs, 0o755)
	config := ispec.Image{Platform: ispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ispec.RootFS{Type: "layers"}}
	manifest := ispec.Manifest{MediaType: ispec.MediaTypeImageManifest}
	manifest.SchemaVersion = 2
	for _, l := range layers {
		manifest.Layers = append(manifest.Layers, w.pack(ctx, l))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, w.digest(l.tar))
	}
	manifest.Config = w.document(ispec.MediaTypeImageConfig, config)
	image := w.document(ispec.MediaTypeImageManifest, manifest)
	image.Annotations = map[string]string{ispec.AnnotationRefName: "v1"}
	index := ispec.Index{MediaType: ispec.MediaTypeImageIndex, Manifests: []ispec.Descriptor{image}}
	index.SchemaVersion = 2
	w.file(filepath.Join(dir, "index.json"), index)
	w.file(filepath.Join(dir, "oci-layout"), ispec.ImageLayout{Version: ispec.ImageLayoutVersion})
	return w.err
}

// layoutWriter writes blobs until the first error.
type layoutWriter struct {
	blobs string
	err   error
}

func (w *layoutWriter) pack(ctx context.Context, l packed) ispec.Descriptor {
	to := filepath.Join(w.blobs, "new")
	w.do(func() error { return shell(ctx, l.command+` < "$1" > "$2"`, l.tar, to) })
	return w.keep(l.mediaType, to)
}

func (w *layoutWriter) document(mediaType string, content any) ispec.Descriptor {
	to := filepath.Join(w.blobs, "new")
	w.file(to, content)
	return w.keep(mediaType, to)
}

// keep gives a file the name of a blob.
func (w *layoutWriter) keep(mediaType, path string) ispec.Descriptor {
	d := ispec.Descriptor{MediaType: mediaType, Digest: w.digest(path)}
	w.do(func() error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		d.Size = info.Size()
		return os.Rename(path, filepath.Join(w.blobs, d.Digest.Encoded()))
	})
	return d
}

func (w *layoutWriter) digest(path string) (d digest.Digest) {
	w.do(func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		d, err = digest.SHA256.FromReader(f)
		return err
	})
	return d
}

func (w *layoutWriter) file(path string, content any) {
	w.do(func() error {
		raw, err := json.Marshal(content)
		if err != nil {
			return err
		}
		return os.WriteFile(path, raw, 0o644)
	})
}

func (w *layoutWriter) do(fn func() error) {
	if w.err == nil {
		w.err = fn()
	}
}

// shell runs a script that has to succeed at every step, with arguments from $1 on.
func shell(ctx context.Context, script string, args ...string) error {
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "GZIP=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %.500s\n%s", err, script, out)
	}
	return nil
}

// imageIn is the image that a layout has under a tag, its blobs as they are.
func imageIn(t *testing.T, dir, tag string) v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Manifests {
		if d.Annotations[ispec.AnnotationRefName] == tag {
			image, err := index.Image(d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return image
		}
	}
	t.Fatalf("%s has no tag %s", dir, tag)
	return nil
}

// unpacked is the root file system that umoci makes of a layout's tag v1: what `umoci unpack` makes, without the list of
// checksums that it writes beside it.
func unpacked(t *testing.T, dir string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "rootfs")
	run(t, "umoci", "raw", "unpack", "--image", dir+":v1", root)
	return root
}
