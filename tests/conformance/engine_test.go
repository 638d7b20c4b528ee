package conformance_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/engine"
	"github.com/regfs/regfs/tests/conformance"
	"github.com/regfs/regfs/tests/registries"
)

const dockerConfig = "application/vnd.docker.container.image.v1+json"

// TestEngine reads and writes a Docker engine, in a form that it can give back: layers uncompressed, and the manifest that is made of
// them. Each test of the suites has a repository, and no image in the engine, of its own.
func TestEngine(t *testing.T) {
	docker := registries.DockerEngine(t)
	content := engineContent(t)
	t.Run("Source", func(t *testing.T) {
		fill, _ := dockerEngine(t, docker, content)
		conformance.Fill(t, fill, content)
		conformance.SourceOf(t, content, func(t *testing.T, _ conformance.Content) image.Source {
			_, src := dockerEngine(t, docker, conformance.Content{})
			return src
		})
	})
	t.Run("Sink", func(t *testing.T) {
		conformance.SinkOfImages(t, content, func(t *testing.T) (image.Sink, image.Source) {
			return dockerEngine(t, docker, content)
		})
	})
}

// dockerEngine opens one repository of an engine twice, as two processes do. The image goes from the engine in the end.
func dockerEngine(t *testing.T, docker *registries.Engine, content conformance.Content) (image.Sink, image.Source) {
	t.Helper()
	writer, reader := openEngine(t, docker), openEngine(t, docker)
	for _, b := range content.Blobs {
		if b.MediaType == dockerConfig {
			t.Cleanup(func() { removeImage(t, writer, b.Digest) })
		}
	}
	return sink(t, engineHost(t, writer, "example.com")), source(t, engineHost(t, reader, "example.com"))
}

func openEngine(t *testing.T, docker *registries.Engine) *engine.Engine {
	t.Helper()
	e, err := engine.Open(engine.Options{Host: docker.Host, Timeout: timeout, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func engineHost(t *testing.T, e *engine.Engine, name string) image.Host {
	t.Helper()
	h, err := e.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// removeImage removes an image by its ID, if it is there.
func removeImage(t *testing.T, e *engine.Engine, id digest.Digest) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // which ends before what is cleaned up
	all, err := engineHost(t, e, "").Sink(ctx, "")
	if err == nil {
		err = all.Delete(ctx, "@"+id.Encoded())
	}
	if err != nil && !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}

// engineContent is an image in the form that an engine's are read in: layers without their gzip, and the manifest that skopeo makes.
func engineContent(t *testing.T) conformance.Content {
	t.Helper()
	c := conformance.Images("single", false)
	type descriptor struct {
		MediaType string        `json:"mediaType"`
		Size      int64         `json:"size"`
		Digest    digest.Digest `json:"digest"`
	}
	var m struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}
	m.SchemaVersion, m.MediaType = 2, image.MediaTypeDockerManifest
	for i, b := range c.Blobs {
		if b.MediaType == v1.MediaTypeImageConfig {
			b.MediaType = dockerConfig
			m.Config = descriptor{b.MediaType, b.Size, b.Digest}
		} else {
			b = entry("application/vnd.docker.image.rootfs.diff.tar.gzip", gunzip(t, b.Bytes))
			m.Layers = append(m.Layers, descriptor{b.MediaType, b.Size, b.Digest})
		}
		c.Blobs[i] = b
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	c.Manifests = []conformance.Entry{entry(m.MediaType, raw)}
	c.Image = c.Manifests[0].Descriptor
	c.Tags["single"] = c.Image
	return c
}

func entry(mediaType string, raw []byte) conformance.Entry {
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	return conformance.Entry{Descriptor: d, Bytes: raw}
}

func gunzip(t *testing.T, raw []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}
