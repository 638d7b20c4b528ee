package copy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// schema1 is a manifest of Docker's first schema. Layers and their history stand top first, side by side.
type schema1 struct {
	Name          string           `json:"name"`
	Tag           string           `json:"tag"`
	Architecture  string           `json:"architecture"`
	FSLayers      []schema1Layer   `json:"fsLayers"`
	History       []schema1History `json:"history"`
	SchemaVersion int              `json:"schemaVersion"`

	// compat is History, read.
	compat []compat
}

type schema1Layer struct {
	BlobSum digest.Digest `json:"blobSum"`
}

type schema1History struct {
	V1Compatibility string `json:"v1Compatibility"`
}

// compat is what an entry of the history says; the top one says the image's config, too.
type compat struct {
	ID              string          `json:"id"`
	Parent          string          `json:"parent,omitempty"`
	Comment         string          `json:"comment,omitempty"`
	Created         time.Time       `json:"created"`
	ContainerConfig containerConfig `json:"container_config"`
	Author          string          `json:"author,omitempty"`
	ThrowAway       bool            `json:"throwaway,omitempty"`
}

type containerConfig struct{ Cmd []string }

// history is an entry of a config's.
type history struct {
	Created    time.Time `json:"created"`
	Author     string    `json:"author,omitempty"`
	CreatedBy  string    `json:"created_by,omitempty"`
	Comment    string    `json:"comment,omitempty"`
	EmptyLayer bool      `json:"empty_layer,omitempty"`
}

// schema1ID is what an entry of the history goes by.
var schema1ID = regexp.MustCompile(`^[a-f0-9]{64}$`)

// parseSchema1 reads a manifest that is to be converted. ErrInvalid for one that does not fit together.
func parseSchema1(raw []byte) (*schema1, error) {
	m := &schema1{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("schema 1 manifest: %v: %w", err, image.ErrInvalid)
	}
	if len(m.FSLayers) == 0 || len(m.FSLayers) != len(m.History) {
		return nil, fmt.Errorf("schema 1 manifest of %d layers and a history of %d: %w", len(m.FSLayers), len(m.History), image.ErrInvalid)
	}
	m.compat = make([]compat, len(m.History))
	for i, h := range m.History {
		if err := json.Unmarshal([]byte(h.V1Compatibility), &m.compat[i]); err != nil {
			return nil, fmt.Errorf("schema 1 manifest: v1Compatibility %d: %v: %w", i, err, image.ErrInvalid)
		}
	}
	return m, m.link()
}

// link makes sure that each entry's parent is the one below it. One that stands there twice in a row is taken once.
func (m *schema1) link() error {
	seen := map[string]bool{}
	parent := ""
	for i := len(m.compat) - 1; i >= 0; i-- {
		c := m.compat[i]
		switch {
		case !schema1ID.MatchString(c.ID):
			return fmt.Errorf("schema 1 manifest: %q is no ID: %w", c.ID, image.ErrInvalid)
		case parent != "" && c.ID == parent:
			m.FSLayers, m.compat = slices.Delete(m.FSLayers, i, i+1), slices.Delete(m.compat, i, i+1)
			m.History = slices.Delete(m.History, i, i+1)
			continue
		case seen[c.ID] || c.Parent != parent:
			return fmt.Errorf("schema 1 manifest: %s, whose parent is %q, stands on %q: %w", c.ID, c.Parent, parent, image.ErrInvalid)
		}
		seen[c.ID] = true
		parent = c.ID
	}
	return nil
}

// layers are those with something in them, the base first.
func (m *schema1) layers() []image.Descriptor {
	var layers []image.Descriptor
	for i, l := range slices.Backward(m.FSLayers) {
		if !m.compat[i].ThrowAway {
			layers = append(layers, image.Descriptor{MediaType: image.MediaTypeDockerLayerGzip, Digest: l.BlobSum, Size: -1})
		}
	}
	return layers
}

// config makes the config out of the history, as other clients make it, so that all get the same image ID.
func (m *schema1) config(diffIDs []digest.Digest) ([]byte, error) {
	config := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(m.History[0].V1Compatibility), &config); err != nil {
		return nil, fmt.Errorf("schema 1 manifest: v1Compatibility: %v: %w", err, image.ErrInvalid)
	}
	for _, name := range []string{"id", "parent", "parent_id", "layer_id", "throwaway", "Size"} {
		delete(config, name)
	}
	entries := []history{}
	for _, c := range slices.Backward(m.compat) {
		entries = append(entries, history{c.Created, c.Author, strings.Join(c.ContainerConfig.Cmd, " "), c.Comment, c.ThrowAway})
	}
	config["history"] = encode(entries)
	config["rootfs"] = encode(struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids,omitempty"`
	}{"layers", diffIDs})
	return encode(config), nil
}

// convertedConfig is the config that the image gets in the place of the one that it has.
func (p *plan) convertedConfig(results []result) ([]byte, error) {
	config := p.config
	if p.old != nil {
		diffIDs := []digest.Digest{}
		for _, got := range results {
			diffIDs = append(diffIDs, got.diffID)
		}
		var err error
		if config, err = p.old.config(diffIDs); err != nil || p.format == Docker {
			return config, err
		}
	}
	// As all do it: what the image-spec has no name for, such as a health check, is Docker's own and goes.
	var spec v1.Image
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, fmt.Errorf("config: %v: %w", err, image.ErrInvalid)
	}
	return encode(spec), nil
}

// emptyLayer is a layer without anything in it, which is what schema 1 has for steps that changed no file.
var emptyLayer = []byte{
	31, 139, 8, 0, 0, 9, 110, 136, 0, 255, 98, 24, 5, 163, 96, 20, 140, 88, 0, 8, 0, 0, 255, 255, 46, 175, 181, 239, 0, 4, 0, 0,
}

var emptyLayerDescriptor = image.Descriptor{
	MediaType: image.MediaTypeDockerLayerGzip, Digest: digest.FromBytes(emptyLayer), Size: int64(len(emptyLayer)),
}

// pushEmpty pushes the empty layer, if the image needs one.
func (r *run) pushEmpty(ctx context.Context, p *plan) error {
	entries, err := p.history()
	if err != nil || !slices.ContainsFunc(entries, func(h history) bool { return h.EmptyLayer }) {
		return err
	}
	return r.push(ctx, emptyLayerDescriptor, emptyLayerDescriptor, memory(emptyLayer))
}

func (p *plan) history() ([]history, error) {
	var config struct {
		History []history `json:"history"`
	}
	if err := json.Unmarshal(p.config, &config); err != nil {
		return nil, fmt.Errorf("config %s: %v: %w", p.Config.Digest, err, image.ErrInvalid)
	}
	return config.History, nil
}

// newSchema1 makes a schema 1 manifest, and signs it with a key made for that: registries take no other, and nobody asks whose it is.
func (r *run) newSchema1(p *plan, layers []image.Descriptor) (made, error) {
	makes := p.oldest
	if p.Config == nil {
		makes = p.relayered
	}
	m, err := makes(layers)
	if err != nil {
		return made{}, fmt.Errorf("convert %s to %s: %w", p.Digest, Schema1, err)
	}
	m.Name = r.Name
	if m.Tag = ""; len(r.Tags) > 0 {
		m.Tag = r.Tags[0]
	}
	return signSchema1(encode(m))
}

// relayered is a schema 1 manifest with other layers.
func (p *plan) relayered(layers []image.Descriptor) (*schema1, error) {
	m := &schema1{}
	if err := json.Unmarshal(p.raw, m); err != nil || len(m.FSLayers) != len(layers) {
		return nil, fmt.Errorf("its layers are in doubt: %w", image.ErrInvalid)
	}
	for i, l := range layers {
		m.FSLayers[len(layers)-1-i].BlobSum = l.Digest
	}
	return m, nil
}

// oldest makes a history of IDs, as Docker did it, out of the config's.
func (p *plan) oldest(layers []image.Descriptor) (*schema1, error) {
	entries, err := p.history()
	if err != nil {
		return nil, err
	}
	var config struct {
		Architecture string `json:"architecture"`
	}
	if err := json.Unmarshal(p.config, &config); err != nil || len(entries) == 0 {
		return nil, fmt.Errorf("its config has no history, which schema 1 is made of: %w", image.ErrUnsupported)
	}
	m := &schema1{Architecture: config.Architecture, SchemaVersion: 1}
	parent, id := "", ""
	for _, h := range entries {
		blob := emptyLayerDescriptor.Digest
		if !h.EmptyLayer && len(layers) == 0 {
			return nil, fmt.Errorf("its config's history is of more layers than there are: %w", image.ErrInvalid)
		}
		if !h.EmptyLayer {
			blob, layers = layers[0].Digest, layers[1:]
		}
		parent, id = id, v1ID(blob, id)
		m.FSLayers = append(m.FSLayers, schema1Layer{blob})
		m.History = append(m.History, schema1History{string(encode(compat{
			ID: id, Parent: parent, Comment: h.Comment, Created: h.Created, Author: h.Author, ThrowAway: h.EmptyLayer,
			ContainerConfig: containerConfig{[]string{h.CreatedBy}},
		}))})
	}
	if len(layers) > 0 {
		return nil, fmt.Errorf("its config's history lacks %d of the layers: %w", len(layers), image.ErrInvalid)
	}
	top := len(entries) - 1
	m.History[top].V1Compatibility, err = p.topEntry(m.FSLayers[top].BlobSum, parent, entries[top].EmptyLayer)
	slices.Reverse(m.FSLayers)
	slices.Reverse(m.History)
	return m, err
}

// v1ID is an ID for the history. Any would do that is there once; this is Docker's.
func v1ID(blob digest.Digest, others ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(append([]string{blob.Encoded()}, others...), " ")))
	return hex.EncodeToString(sum[:])
}

// topEntry is the top of the history, which is the config, too.
func (p *plan) topEntry(blob digest.Digest, parent string, throwAway bool) (string, error) {
	config := map[string]json.RawMessage{}
	if err := json.Unmarshal(p.config, &config); err != nil {
		return "", fmt.Errorf("config: %v: %w", err, image.ErrInvalid)
	}
	delete(config, "rootfs")
	delete(config, "history")
	config["id"] = encode(v1ID(blob, parent, string(p.config)))
	if parent != "" {
		config["parent"] = encode(parent)
	}
	if throwAway {
		config["throwaway"] = encode(true)
	}
	return string(encode(config)), nil
}
