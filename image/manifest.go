package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifest is the longest manifest or index regfs reads, in bytes: the size that the distribution-spec tells registries
// to accept at the least, and the one they enforce.
const MaxManifest = 4 << 20

// Media types of manifests and indexes, beside those of the image-spec.
const (
	MediaTypeDockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList          = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	MediaTypeDockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// ManifestTypes are the media types of all that Manifest can read, the ones to ask a registry for.
var ManifestTypes = []string{
	v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, MediaTypeDockerManifest, MediaTypeDockerList,
	MediaTypeDockerSchema1Signed, MediaTypeDockerSchema1,
}

// IsManifest tells whether content of this media type is a manifest or an index, and so lives with the manifests of a
// repository and not with its blobs.
func IsManifest(mediaType string) bool { return slices.Contains(ManifestTypes, mediaType) }

// IsIndex tells whether content of this media type is a list of manifests.
func IsIndex(mediaType string) bool {
	return mediaType == v1.MediaTypeImageIndex || mediaType == MediaTypeDockerList
}

// IsSchema1 tells whether content of this media type is a manifest of Docker's first schema, signed or not.
func IsSchema1(mediaType string) bool {
	return mediaType == MediaTypeDockerSchema1 || mediaType == MediaTypeDockerSchema1Signed
}

// Manifest is what regfs understands of a manifest or an index. The bytes it was parsed from stay the truth.
type Manifest struct {
	MediaType    string
	ArtifactType string
	// Config is nil in an index and in a schema 1 manifest.
	Config *Descriptor
	// Layers stand in the order they are applied in: the base first.
	Layers []Descriptor
	// Manifests are the entries of an index.
	Manifests   []Descriptor
	Subject     *Descriptor
	Annotations map[string]string
}

// IsIndex tells whether m is a list of manifests.
func (m *Manifest) IsIndex() bool { return IsIndex(m.MediaType) }

// Children are the descriptors of all that m needs: config and layers, or the entries of an index. A subject is none.
func (m *Manifest) Children() []Descriptor {
	if m.Config == nil {
		return append(slices.Clip(m.Manifests), m.Layers...)
	}
	return append([]Descriptor{*m.Config}, m.Layers...)
}

// document is the union of all manifests' JSON.
type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *Descriptor       `json:"config"`
	Layers        descriptors       `json:"layers"`
	Manifests     descriptors       `json:"manifests"`
	Subject       *Descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
	FSLayers      []fsLayer         `json:"fsLayers"`
}

// descriptors are read one by one, and the first impossible one ends it: a million empty ones would take fifty times the memory
// of the manifest that holds them.
type descriptors []Descriptor

func (l *descriptors) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	*l = descriptors{}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if start, err := dec.Token(); err != nil || start != json.Delim('[') {
		return fmt.Errorf("descriptors that are no list: %w", ErrInvalid)
	}
	for dec.More() {
		var d Descriptor
		if err := dec.Decode(&d); err != nil {
			return err
		}
		if err := checkDescriptor(d); err != nil {
			return err
		}
		*l = append(*l, d)
	}
	return nil
}

// ParseManifest reads a manifest or an index. The media type is what the place that served it said, or "": the document's own
// word goes first, as the image-spec wants it. What is not JSON, could be both manifest and index, or names content by
// impossible digests or sizes is ErrInvalid.
func ParseManifest(mediaType string, raw []byte) (*Manifest, error) {
	if len(raw) > MaxManifest {
		return nil, fmt.Errorf("manifest of %d bytes, more than %d: %w", len(raw), MaxManifest, ErrInvalid)
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("manifest: %v: %w", err, ErrInvalid)
	}
	m := &Manifest{
		MediaType: doc.mediaType(mediaType), ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
		Config: doc.Config, Layers: doc.Layers, Manifests: doc.Manifests, Subject: doc.Subject,
	}
	if IsSchema1(m.MediaType) {
		layers, err := doc.schema1Layers()
		if err != nil {
			return nil, err
		}
		m.Config, m.Manifests, m.Layers = nil, nil, layers
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// mediaType is what the document is: by its own word, else by the server's, else by its shape.
func (doc *document) mediaType(served string) string {
	if t, _, err := mime.ParseMediaType(served); err == nil {
		served = t
	}
	switch {
	case doc.MediaType != "":
		return doc.MediaType
	case IsManifest(served) && (IsSchema1(served) || doc.SchemaVersion != 1):
		return served
	case doc.SchemaVersion == 1:
		return MediaTypeDockerSchema1
	case doc.Manifests != nil:
		return v1.MediaTypeImageIndex
	}
	return v1.MediaTypeImageManifest
}

func (m *Manifest) check() error {
	if !IsManifest(m.MediaType) {
		return fmt.Errorf("%q is no manifest's media type: %w", m.MediaType, ErrInvalid)
	}
	// The image-spec forbids documents that read differently as a manifest and as an index (CVE-2021-41190).
	if m.IsIndex() && (m.Config != nil || m.Layers != nil) || !m.IsIndex() && m.Manifests != nil {
		return fmt.Errorf("manifest and index in one document: %w", ErrInvalid)
	}
	if !m.IsIndex() && m.Config == nil && !IsSchema1(m.MediaType) {
		return fmt.Errorf("manifest without a config: %w", ErrInvalid)
	}
	for _, d := range []*Descriptor{m.Config, m.Subject} {
		if d == nil {
			continue
		}
		if err := checkDescriptor(*d); err != nil {
			return err
		}
	}
	return nil
}

func checkDescriptor(d Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %v: %w", d.Digest, err, ErrInvalid)
	}
	if d.Size < 0 {
		return fmt.Errorf("%s has the size %d: %w", d.Digest, d.Size, ErrInvalid)
	}
	return nil
}
