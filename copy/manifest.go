package copy

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// unchanged are results as if the layers stayed as they are.
func (p *plan) unchanged() []result {
	results := make([]result, len(p.layers))
	for i, l := range p.layers {
		l.Size = max(l.Size, 0)
		results[i] = result{Descriptor: l.Descriptor}
	}
	return results
}

// newConfig tells whether the image gets another config than it has: it has none, or Docker's, which says more than OCI's does.
func (p *plan) newConfig() bool {
	return p.own() != p.format && (p.own() != OCI || p.format == Schema1)
}

// finished is the manifest with the layers as they became, and the config if that is another one.
func (r *run) finished(p *plan, results []result) (m made, config []byte, err error) {
	layers, same := p.descriptors(results)
	switch {
	case same && p.own() == p.format:
		return p.made, nil, nil
	case p.format == Schema1:
		raw, err := r.newSchema1(p, layers)
		return raw, nil, err
	case p.newConfig():
		if config, err = p.convertedConfig(results); err != nil {
			return m, nil, fmt.Errorf("convert %s to %s: %w", p.Digest, p.format, err)
		}
	}
	d := image.Descriptor{MediaType: configTypes[p.format], Digest: digest.FromBytes(config), Size: int64(len(config))}
	if config == nil {
		d.Digest, d.Size = p.Config.Digest, p.Config.Size
	}
	switch {
	case p.own() == p.format:
		raw, err := p.editManifest(layers)
		return newMade(p.Manifest.MediaType, raw), nil, err
	case p.format == Docker:
		return newMade(image.MediaTypeDockerManifest, newDockerManifest(d, layers)), config, nil
	}
	return newMade(v1.MediaTypeImageManifest, newManifest(d, layers)), config, nil
}

// descriptors are the layers as the manifest names them. What came of a layer is what it says; what it became less by that, it
// says no more.
func (p *plan) descriptors(results []result) (layers []image.Descriptor, same bool) {
	same = true
	for i, l := range p.layers {
		d, got := l.Descriptor, results[i]
		d.MediaType = l.mediaType
		if got.Digest != d.Digest {
			d.Digest, d.Data = got.Digest, nil
			d.Annotations = with(lasting(d.Annotations, l.work), got.Annotations)
			if got.MediaType != "" {
				d.MediaType = recompressed(d.MediaType, got.MediaType)
			}
		}
		same = same && d.Digest == l.Digest && d.MediaType == l.MediaType
		d.Size = got.Size
		layers = append(layers, d)
	}
	return layers, same
}

// recompressed is a media type with the compression that another one has.
func recompressed(mediaType, like string) string {
	t, _ := image.ParseLayerType(mediaType)
	other, _ := image.ParseLayerType(like)
	t.Compression = other.Compression
	return t.String()
}

// Annotations that tell of the bytes of a layer, and not of what is in it.
const (
	annotationChunked = "io.github.containers.zstd-chunked.manifest-checksum"
	ofEncryption      = "org.opencontainers.image.enc."
)

// lasting are the annotations that are true of a layer when its bytes are others.
func lasting(annotations map[string]string, w work) map[string]string {
	annotations = maps.Clone(annotations)
	maps.DeleteFunc(annotations, func(name, _ string) bool {
		if strings.HasPrefix(name, ofEncryption) {
			return w.decrypt
		}
		return strings.HasPrefix(name, "io.github.containers.zstd-chunked.") || name == "containerd.io/snapshot/stargz/toc.digest" ||
			name == "io.containers.estargz.uncompressed-size"
	})
	return annotations
}

// with is annotations and more of them, in a map of its own. None are nil.
func with(annotations, more map[string]string) map[string]string {
	if len(annotations)+len(more) == 0 {
		return nil
	}
	all := map[string]string{}
	maps.Copy(all, annotations)
	maps.Copy(all, more)
	return all
}

// editManifest changes layers in their places.
func (p *plan) editManifest(layers []image.Descriptor) ([]byte, error) {
	doc, err := parseObject(p.raw)
	if err != nil {
		return nil, err
	}
	var raws []json.RawMessage
	if err := json.Unmarshal(doc.get("layers"), &raws); err != nil || len(raws) != len(layers) {
		return nil, fmt.Errorf("%s: its layers are in doubt: %w", p.Digest, image.ErrInvalid)
	}
	for i := range raws {
		if raws[i], err = editDescriptor(raws[i], p.layers[i].Descriptor, layers[i]); err != nil {
			return nil, err
		}
	}
	doc.set("layers", raws)
	return doc.bytes(), nil
}

func newManifest(config image.Descriptor, layers []image.Descriptor) []byte {
	return encode(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: layers,
	})
}

// dockerDescriptor is a descriptor of Docker's, which has no annotations.
type dockerDescriptor struct {
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Digest    digest.Digest `json:"digest"`
	URLs      []string      `json:"urls,omitempty"`
}

func newDockerDescriptor(d image.Descriptor) dockerDescriptor {
	return dockerDescriptor{d.MediaType, d.Size, d.Digest, d.URLs}
}

func newDockerManifest(config image.Descriptor, layers []image.Descriptor) []byte {
	m := struct {
		SchemaVersion int                `json:"schemaVersion"`
		MediaType     string             `json:"mediaType"`
		Config        dockerDescriptor   `json:"config"`
		Layers        []dockerDescriptor `json:"layers"`
	}{2, image.MediaTypeDockerManifest, newDockerDescriptor(config), []dockerDescriptor{}}
	for _, l := range layers {
		m.Layers = append(m.Layers, newDockerDescriptor(l))
	}
	return encode(m)
}
