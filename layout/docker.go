package layout

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// dockerManifest is an entry of a docker archive's manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Docker lists the files of a docker archive, the form of docker save, of the one image manifest d. The config and the
// layers are the repository's bytes, layers compressed as they are there; a layer the image has twice appears once. The name
// is what a load will tag it with, "quay.io/podman/stable:latest", or "" for nothing.
//
// ErrUnsupported for what that form can't hold: indexes, Docker schema 1 images, artifacts, and images with a foreign layer
// (one with URLs) that the repository does not have. Other errors are the source's, and ErrInvalid for content that can't be.
func Docker(ctx context.Context, src image.Source, d image.Descriptor, name string) ([]File, error) {
	m, err := imageManifest(ctx, src, d)
	if err != nil {
		return nil, err
	}
	entry := dockerManifest{Config: m.Config.Digest.Encoded() + ".json"}
	if name != "" {
		entry.RepoTags = []string{name}
	}
	files := []File{{Name: entry.Config, Blob: m.Config}}
	have := map[string]bool{}
	for _, layer := range m.Layers {
		if err := dockerLayer(ctx, src, layer); err != nil {
			return nil, err
		}
		file := File{Name: layer.Digest.Encoded() + ".tar", Blob: &layer}
		entry.Layers = append(entry.Layers, file.Name)
		if !have[file.Name] {
			files = append(files, file)
		}
		have[file.Name] = true
	}
	// The manifest stands first, so that a reader of the stream knows what is coming.
	return append([]File{{Name: "manifest.json", Data: marshal([]dockerManifest{entry})}}, files...), nil
}

// imageManifest reads the manifest d, of an image.
func imageManifest(ctx context.Context, src image.Source, d image.Descriptor) (*image.Manifest, error) {
	_, raw, err := src.Manifest(ctx, d.Digest.String())
	if err != nil {
		return nil, err
	}
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	switch {
	case m.Config == nil:
		return nil, fmt.Errorf("%s is a %s, which no docker archive can hold: %w", d.Digest, m.MediaType, image.ErrUnsupported)
	case m.Config.MediaType != v1.MediaTypeImageConfig && m.Config.MediaType != image.MediaTypeDockerConfig:
		return nil, fmt.Errorf("%s is no image, its config is a %s: %w", d.Digest, m.Config.MediaType, image.ErrUnsupported)
	}
	return m, check(*m.Config)
}

// dockerLayer checks that layer can be part of an archive.
func dockerLayer(ctx context.Context, src image.Source, layer image.Descriptor) error {
	if len(layer.URLs) == 0 {
		return check(layer)
	}
	_, err := src.Stat(ctx, layer.Digest)
	if errors.Is(err, image.ErrNotFound) {
		return fmt.Errorf("%s is a foreign layer that the repository does not have: %w", layer.Digest, image.ErrUnsupported)
	}
	if err != nil {
		return err
	}
	return check(layer)
}
