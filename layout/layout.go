// Package layout shows an image as the files of an OCI image layout (image-spec, image-layout.md) or of a docker archive, and
// files as one tar. It lists and arranges; the bytes of blobs and manifests stay where they are until somebody reads them.
package layout

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// File is one file of an image laid out: bytes made here, or content of the repository.
type File struct {
	// Name is a relative slash path, such as "index.json" or "blobs/sha256/9c7c…".
	Name string
	// Data is the content where Blob is nil.
	Data []byte
	// Blob is the blob or manifest of the repository that is the content, byte for byte.
	Blob *image.Descriptor
}

// Size is how long the file is, in bytes.
func (f File) Size() int64 {
	if f.Blob != nil {
		return f.Blob.Size
	}
	return int64(len(f.Data))
}

// Root is an image, or an index of images, that a layout names.
type Root struct {
	image.Descriptor
	// Tag is the name it goes by, "" for none.
	Tag string
}

// Index is the index.json of a layout: a descriptor for each root, in the order of roots, named by the annotation
// org.opencontainers.image.ref.name where it has a tag. Annotations the root came with are not part of it.
func Index(roots []Root) []byte {
	index := v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: make([]image.Descriptor, 0, len(roots)),
	}
	for _, r := range roots {
		index.Manifests = append(index.Manifests, r.entry())
	}
	return marshal(index)
}

func (r Root) entry() image.Descriptor {
	d := image.Descriptor{
		MediaType: r.MediaType, Digest: r.Digest, Size: r.Size, Platform: r.Platform, ArtifactType: r.ArtifactType,
	}
	if r.Tag != "" {
		d.Annotations = map[string]string{v1.AnnotationRefName: r.Tag}
	}
	return d
}

// marshal is for documents of this package's making, which always have a JSON form.
func marshal(document any) []byte {
	b, err := json.Marshal(document)
	if err != nil {
		panic(err)
	}
	return b
}

// check refuses what no layout can name: a digest that is no file name, or content of unknown size.
func check(d image.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %v: %w", d.Digest, err, image.ErrInvalid)
	}
	if d.Size < 0 {
		return fmt.Errorf("%s: its size is not known: %w", d.Digest, image.ErrInvalid)
	}
	return nil
}

func blobName(dgst digest.Digest) string {
	return v1.ImageBlobsDir + "/" + dgst.Algorithm().String() + "/" + dgst.Encoded()
}
