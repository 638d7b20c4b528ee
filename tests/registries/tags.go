package registries

import (
	"fmt"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ManyTags writes the storage of a registry whose repository has one image under n tags, t00000 and on, and returns the
// folder, for Config.Storage: pushing them one by one would take minutes.
func ManyTags(t TB, repository string, n int) string {
	t.Helper()
	dir := t.TempDir()
	img := Image(t, Platforms[0], "1")
	root := filepath.Join(dir, "docker", "registry", "v2")
	s := storage{t, root, filepath.Join(root, "repositories", repository)}
	digest := s.image(img)
	for i := range n {
		s.link(filepath.Join("_manifests", "tags", fmt.Sprintf("t%05d", i), "current"), digest)
	}
	return dir
}

// storage writes the layout that docker-registry and distribution keep content in.
type storage struct {
	t                TB
	root, repository string
}

func (s storage) image(img v1.Image) v1.Hash {
	s.t.Helper()
	raw, err := img.RawManifest()
	if err != nil {
		s.t.Fatalf("image: %v", err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		s.t.Fatalf("image: %v", err)
	}
	layers, err := img.Layers()
	if err != nil {
		s.t.Fatalf("image: %v", err)
	}
	s.layer(config)
	for _, layer := range layers {
		s.layer(compressed(s.t, layer))
	}
	digest := s.blob(raw)
	s.link(filepath.Join("_manifests", "revisions", digest.Algorithm, digest.Hex), digest)
	return digest
}

func (s storage) layer(content []byte) {
	s.t.Helper()
	digest := s.blob(content)
	s.link(filepath.Join("_layers", digest.Algorithm, digest.Hex), digest)
}

func (s storage) blob(content []byte) v1.Hash {
	s.t.Helper()
	digest := describe(s.t, "", content).Digest
	writeFile(s.t, filepath.Join(s.root, "blobs", digest.Algorithm, digest.Hex[:2], digest.Hex, "data"), content)
	return digest
}

func (s storage) link(dir string, digest v1.Hash) {
	s.t.Helper()
	writeFile(s.t, filepath.Join(s.repository, dir, "link"), []byte(digest.String()))
}
