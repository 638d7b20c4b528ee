// Package conformance holds what every image.Source promises, as tests. Run them over a new one with Source.
package conformance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// ReferrerType is the artifact type of Content.Referrer.
const ReferrerType = "application/vnd.example.sbom"

// Content is what the repository under test holds: nothing less, and nothing more than a place adds of its own accord.
type Content struct {
	// Index is a multi-platform image of Platforms, Image one for a single platform, Artifact files with titles, and
	// Referrer names Image as its subject. Only Referrer has no tag.
	Index, Image, Artifact, Referrer image.Descriptor
	Platforms                        []image.Descriptor
	// Tags are all tags, by name. A place of one image has but the tag "".
	Tags map[string]image.Descriptor
	// Manifests and Blobs are all content, children before parents.
	Manifests, Blobs []Entry
	// Corrupt has a digest that its bytes do not match. A place that can't hold such a thing leaves it out.
	Corrupt Entry
	// Missing is a blob, and MissingManifest a manifest, that the repository does not have.
	Missing, MissingManifest image.Descriptor
}

// Entry is content and what describes it.
type Entry struct {
	image.Descriptor
	Bytes []byte
}

// largeBlob is more than the buffers between a place and its reader hold, in bytes.
const largeBlob = 8 << 20

// NewContent makes the content, the same each time.
func NewContent() Content {
	c := Content{Tags: map[string]image.Descriptor{}}
	amd64, arm64 := c.image("amd64", 1000, largeBlob), c.image("arm64", 1, 2000)
	amd64.Platform = &image.Platform{OS: "linux", Architecture: "amd64"}
	arm64.Platform = &image.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	c.Platforms = []image.Descriptor{amd64, arm64}
	c.Index = c.manifest(v1.MediaTypeImageIndex, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: c.Platforms,
	})
	c.Image = c.image("riscv64", 3000)
	c.Artifact = c.artifact("application/vnd.example.files", nil, "readme.txt", "data.bin")
	c.Referrer = c.artifact(ReferrerType, &c.Image, "sbom.json")
	c.Tags = map[string]image.Descriptor{"multi": c.Index, "single": c.Image, "artifact": c.Artifact, "V1.0_a-b": c.Image}
	c.Corrupt = Entry{describe(v1.MediaTypeImageLayerGzip, random("true", 5000)), random("false", 5000)}
	c.Missing = describe(v1.MediaTypeImageLayerGzip, random("missing", 5000))
	c.MissingManifest = describe(v1.MediaTypeImageManifest, []byte(`{"missing":true}`))
	return c
}

// Images makes the content of a place that holds images only: Image, of layers that are gzipped tars, under tag ("" for no tag) and,
// if lists, an Index of two such images under the tag "multi".
func Images(tag string, lists bool) Content {
	return images(tag, lists, largeBlob, v1.MediaTypeImageLayerGzip, zipped)
}

// PlainImages is Images, without an Index, for a place that keeps layers as plain tars only, which takes its time to make them.
func PlainImages(tag string) Content {
	return images(tag, false, largeBlob/8, v1.MediaTypeImageLayer, func(plain []byte) []byte { return plain })
}

func images(tag string, lists bool, large int, layers string, pack func([]byte) []byte) Content {
	c := Content{Tags: map[string]image.Descriptor{}}
	realImage := func(architecture string, files ...int) image.Descriptor {
		return c.realImage(layers, pack, architecture, files...)
	}
	if lists {
		amd64, arm64 := realImage("amd64", 1000, 5000), realImage("arm64", 1, 2000)
		amd64.Platform = &image.Platform{OS: "linux", Architecture: "amd64"}
		arm64.Platform = &image.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
		c.Platforms = []image.Descriptor{amd64, arm64}
		c.Index = c.manifest(v1.MediaTypeImageIndex, v1.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: c.Platforms,
		})
		c.Tags["multi"] = c.Index
	}
	c.Image = realImage(runtime.GOARCH, 3000, large)
	if tag != "" {
		c.Tags[tag] = c.Image
	}
	c.Missing = describe(v1.MediaTypeImageLayerGzip, random("missing", 5000))
	c.MissingManifest = describe(v1.MediaTypeImageManifest, []byte(`{"missing":true}`))
	return c
}

// realImage is an image whose layers are packed tars of one file each, of so many bytes.
func (c *Content) realImage(layers string, pack func([]byte) []byte, architecture string, files ...int) image.Descriptor {
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: architecture}, RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for i, size := range files {
		plain := layer(fmt.Sprintf("%s-%d", architecture, i), size)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
		config.History = append(config.History, v1.History{CreatedBy: "a test"})
		m.Layers = append(m.Layers, c.blob(layers, pack(plain)))
	}
	raw, _ := json.Marshal(config)
	m.Config = c.blob(v1.MediaTypeImageConfig, raw)
	return c.manifest(v1.MediaTypeImageManifest, m)
}

// Layers are the names of the files that the layers of an image of Images have, one each.
func (c *Content) Layers(d image.Descriptor) []string {
	var m v1.Manifest
	i := slices.IndexFunc(c.Manifests, func(e Entry) bool { return e.Digest == d.Digest })
	if err := json.Unmarshal(c.Manifests[i].Bytes, &m); err != nil {
		panic(err)
	}
	var config v1.Image
	i = slices.IndexFunc(c.Blobs, func(e Entry) bool { return e.Digest == m.Config.Digest })
	if err := json.Unmarshal(c.Blobs[i].Bytes, &config); err != nil {
		panic(err)
	}
	var names []string
	for i := range m.Layers {
		names = append(names, fmt.Sprintf("%s-%d", config.Architecture, i))
	}
	return names
}

// layer is a tar of one file that does not compress.
func layer(name string, size int) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(size), ModTime: time.Unix(1, 0)}); err != nil {
		panic(err)
	}
	w.Write(random(name, size))
	w.Close()
	return b.Bytes()
}

func zipped(plain []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.HuffmanOnly) // since it is fast, and nothing gets smaller
	w.Write(plain)
	w.Close()
	return b.Bytes()
}

// TagNames are the names of all tags, sorted. "", which stands for the only image, is none.
func (c *Content) TagNames() []string {
	var names []string
	for name := range c.Tags {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *Content) image(architecture string, layers ...int) image.Descriptor {
	config, _ := json.Marshal(v1.Image{Platform: v1.Platform{OS: "linux", Architecture: architecture}})
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: c.blob(v1.MediaTypeImageConfig, config),
	}
	for _, size := range layers {
		m.Layers = append(m.Layers, c.blob(v1.MediaTypeImageLayerGzip, random(architecture, size)))
	}
	return c.manifest(v1.MediaTypeImageManifest, m)
}

func (c *Content) artifact(artifactType string, subject *image.Descriptor, titles ...string) image.Descriptor {
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: artifactType,
		// A config of that type says it once more, for registries that go by it.
		Config: c.blob(artifactType, []byte("{}")), Subject: subject,
	}
	for _, title := range titles {
		layer := c.blob("application/octet-stream", random(title, 100))
		layer.Annotations = map[string]string{v1.AnnotationTitle: title}
		m.Layers = append(m.Layers, layer)
	}
	return c.manifest(v1.MediaTypeImageManifest, m)
}

func (c *Content) blob(mediaType string, content []byte) image.Descriptor {
	d := describe(mediaType, content)
	if !slices.ContainsFunc(c.Blobs, func(e Entry) bool { return e.Digest == d.Digest }) {
		c.Blobs = append(c.Blobs, Entry{d, content})
	}
	return d
}

func (c *Content) manifest(mediaType string, m any) image.Descriptor {
	// Indented, so that whoever parses and writes it again is found out.
	raw, err := json.MarshalIndent(m, "", "   ")
	if err != nil {
		panic(err)
	}
	d := describe(mediaType, raw)
	c.Manifests = append(c.Manifests, Entry{d, raw})
	return d
}

func describe(mediaType string, content []byte) image.Descriptor {
	return image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// random is content that differs with its seed.
func random(seed string, n int) []byte {
	var key [32]byte
	copy(key[:], seed)
	content := make([]byte, n)
	rand.NewChaCha8(key).Read(content)
	return content
}
