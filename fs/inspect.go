package fs

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// inspection is what "skopeo inspect --no-tags" prints, field by field.
type inspection struct {
	Name          string `json:",omitempty"`
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
}

// hasInspect tells whether there is an image to inspect, and not another kind of artifact.
func hasInspect(m *image.Manifest) bool {
	if image.IsSchema1(m.MediaType) {
		return true
	}
	return m.Config.MediaType == v1.MediaTypeImageConfig || m.Config.MediaType == "application/vnd.docker.container.image.v1+json"
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
		Name: v.repo.name, Digest: v.d.Digest.String(), RepoTags: []string{}, Created: c.Created,
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
	raw, err := v.rawConfig(ctx, m)
	if err != nil {
		return nil, err
	}
	var c imageConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("config of %s is not JSON: %v: %w", v.d.Digest, err, image.ErrInvalid)
	}
	return &c, nil
}

func (v *version) rawConfig(ctx context.Context, m *image.Manifest) ([]byte, error) {
	if !image.IsSchema1(m.MediaType) {
		return v.config(ctx, m)
	}
	history, err := v.schema1History(ctx)
	if err != nil || len(history) == 0 {
		return []byte("{}"), err
	}
	return []byte(history[0]), nil
}

// schema1History are the configs of a schema 1 image's layers, the newest first.
func (v *version) schema1History(ctx context.Context) ([]string, error) {
	d, _, err := v.image(ctx)
	if err != nil {
		return nil, err
	}
	_, raw, err := v.repo.src.Manifest(ctx, d.Digest.String())
	if err != nil {
		return nil, err
	}
	var doc struct {
		History []struct {
			V1Compatibility string `json:"v1Compatibility"`
		} `json:"history"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("manifest %s is not JSON: %v: %w", d.Digest, err, image.ErrInvalid)
	}
	var all []string
	for _, h := range doc.History {
		all = append(all, h.V1Compatibility)
	}
	return all, nil
}

// history is the command that made each layer, base first, as far as the image tells.
func (v *version) history(ctx context.Context, m *image.Manifest) ([]string, error) {
	if image.IsSchema1(m.MediaType) {
		return v.schema1Commands(ctx)
	}
	if !hasInspect(m) {
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
	configs, err := v.schema1History(ctx)
	if err != nil {
		return nil, err
	}
	commands := make([]string, len(configs))
	for i, c := range configs {
		var layer struct {
			ContainerConfig struct{ Cmd []string } `json:"container_config"`
		}
		if err := json.Unmarshal([]byte(c), &layer); err != nil {
			return nil, fmt.Errorf("history of %s is not JSON: %v: %w", v.d.Digest, err, image.ErrInvalid)
		}
		commands[len(configs)-1-i] = strings.Join(layer.ContainerConfig.Cmd, " ")
	}
	return commands, nil
}
