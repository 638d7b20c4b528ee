package fs

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// inspection is what "skopeo inspect --no-tags" prints, field by field.
type inspection struct {
	Name          string `json:",omitempty"`
	Tag           string `json:",omitempty"`
	Digest        string
	RepoTags      []string
	Created       *time.Time
	DockerVersion string
	Labels        map[string]string
	Architecture  string
	Os            string
	Layers        []string
	LayersData    []layerData `json:",omitempty"`
	Env           []string
}

type layerData struct {
	MIMEType    string
	Digest      string
	Size        int64
	Annotations map[string]string
}

// imageConfig is what regfs reads of a config, the OCI one and Docker's alike.
type imageConfig struct {
	v1.Image
	DockerVersion string `json:"docker_version"`
	tag           string // what a schema 1 manifest says its tag is
}

// isImage tells whether it is an image that a container can be made of, and not another kind of artifact.
func isImage(m *image.Manifest) bool {
	if image.IsSchema1(m.MediaType) {
		return true
	}
	if m.Config == nil { // an index in an index
		return false
	}
	return m.Config.MediaType == v1.MediaTypeImageConfig || m.Config.MediaType == image.MediaTypeDockerConfig
}

func (v *version) inspect(ctx context.Context) ([]byte, error) {
	_, m, err := v.image(ctx)
	if err != nil {
		return nil, err
	}
	c, err := v.parsedConfig(ctx, m)
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(v.inspection(m, c), "", "    ")
	return append(b, '\n'), err
}

func (v *version) inspection(m *image.Manifest, c *imageConfig) inspection {
	out := inspection{
		Name: v.repo.name, Tag: c.tag, Digest: v.d.Digest.String(), RepoTags: []string{}, Created: c.Created,
		DockerVersion: c.DockerVersion, Labels: c.Config.Labels, Architecture: c.Architecture, Os: c.OS, Env: c.Config.Env,
	}
	for _, d := range m.Layers {
		out.Layers = append(out.Layers, d.Digest.String())
		out.LayersData = append(out.LayersData, layerData{d.MediaType, d.Digest.String(), d.Size, d.Annotations})
	}
	return out
}

// parsedConfig is the image's config. That of a schema 1 image is in its manifest, with its newest layer.
func (v *version) parsedConfig(ctx context.Context, m *image.Manifest) (*imageConfig, error) {
	if image.IsSchema1(m.MediaType) {
		return v.schema1Config(ctx)
	}
	raw, err := v.config(ctx, m)
	if err != nil {
		return nil, err
	}
	var c imageConfig
	return &c, v.unmarshal(raw, &c)
}

// unmarshal reads JSON of this image, whatever it turns out to be.
func (v *version) unmarshal(raw []byte, into any) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("config of %s: %v: %w", v.d.Digest, err, image.ErrInvalid)
	}
	return nil
}

// schema1 is what a schema 1 manifest says beside its layers: the configs of all of them, the newest first.
type schema1 struct {
	Tag     string `json:"tag"`
	History []struct {
		V1Compatibility string `json:"v1Compatibility"`
	} `json:"history"`
}

func (v *version) schema1(ctx context.Context) (*schema1, error) {
	d, _, err := v.image(ctx)
	if err != nil {
		return nil, err
	}
	_, raw, err := v.repo.src.Manifest(ctx, d.Digest.String())
	if err != nil {
		return nil, err
	}
	var s schema1
	return &s, v.unmarshal(raw, &s)
}

func (v *version) schema1Config(ctx context.Context) (*imageConfig, error) {
	s, err := v.schema1(ctx)
	if err != nil {
		return nil, err
	}
	c := imageConfig{tag: s.Tag}
	if len(s.History) == 0 {
		return &c, nil
	}
	return &c, v.unmarshal([]byte(s.History[0].V1Compatibility), &c)
}

// history is the command that made each layer, base first, as far as the image tells.
func (v *version) history(ctx context.Context, m *image.Manifest) ([]string, error) {
	if image.IsSchema1(m.MediaType) {
		return v.schema1Commands(ctx)
	}
	if !isImage(m) {
		return nil, nil
	}
	c, err := v.parsedConfig(ctx, m)
	if err != nil {
		return nil, err
	}
	var commands []string
	for _, h := range c.History {
		if !h.EmptyLayer {
			commands = append(commands, h.CreatedBy)
		}
	}
	return commands, nil
}

func (v *version) schema1Commands(ctx context.Context) ([]string, error) {
	s, err := v.schema1(ctx)
	if err != nil {
		return nil, err
	}
	var commands []string
	for _, h := range slices.Backward(s.History) {
		var layer struct {
			ContainerConfig struct{ Cmd []string } `json:"container_config"`
		}
		if err := v.unmarshal([]byte(h.V1Compatibility), &layer); err != nil {
			return nil, err
		}
		commands = append(commands, strings.Join(layer.ContainerConfig.Cmd, " "))
	}
	return commands, nil
}
