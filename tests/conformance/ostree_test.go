package conformance_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/ostree"
	"github.com/regfs/regfs/tests/conformance"
)

// ostreeHost opens or makes an OSTree repository, and one host of the images in it.
func ostreeHost(t *testing.T, path string) image.Host {
	t.Helper()
	if _, err := exec.LookPath("ostree"); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	r, err := ostree.Create(path, ostree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Syncing takes most of the time.
	if out, err := exec.Command("ostree", "config", "--repo="+path, "set", "core.fsync", "false").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	host, err := r.Host("quay.io")
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func ostreeSink(t *testing.T, path string) image.Sink {
	t.Helper()
	sink, err := ostreeHost(t, path).Sink(t.Context(), repository)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

func TestOSTree(t *testing.T) {
	path, content := t.TempDir(), conformance.Images("v1", false)
	conformance.Fill(t, ostreeSink(t, path), content)
	conformance.SourceOf(t, content, func(t *testing.T, _ conformance.Content) image.Source { return source(t, ostreeHost(t, path)) })
}

func TestOSTreeSink(t *testing.T) {
	content := conformance.Images("v1", false)
	conformance.SinkOfImages(t, content, func(t *testing.T) (image.Sink, image.Source) {
		path := t.TempDir()
		return ostreeSink(t, path), source(t, ostreeHost(t, path))
	})
}
