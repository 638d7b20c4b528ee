package conformance_test

import (
	"path/filepath"
	"testing"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/dockerarchive"
	"github.com/regfs/regfs/layout/oci"
	"github.com/regfs/regfs/tests/conformance"
)

// openArchive opens an OCI archive for writing, too.
func openArchive(t *testing.T, file string) *oci.Layout {
	t.Helper()
	l, err := oci.CreateArchive(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestOCIArchive reads what was pushed.
func TestOCIArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "archive.tar")
	l := openArchive(t, file)
	conformance.Fill(t, l, conformance.NewContent())
	conformance.Source(t, func(t *testing.T, _ conformance.Content) image.Source {
		l, err := oci.OpenArchive(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		return l
	})
}

// TestOCIArchiveSink reads what is not in the archive yet, too, as only who writes it can.
func TestOCIArchiveSink(t *testing.T) {
	conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
		l := openArchive(t, filepath.Join(t.TempDir(), "archive.tar"))
		return l, l
	})
}

// TestSharedBlobs is a layout whose blobs are elsewhere.
func TestSharedBlobs(t *testing.T) {
	conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
		l, err := oci.Create(t.TempDir(), oci.SharedBlobs(t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		return l, l
	})
}

// dockerArchive opens one repository of a docker archive for writing, too.
func dockerArchive(t *testing.T, file string) interface {
	image.Sink
	image.Source
} {
	t.Helper()
	a, err := dockerarchive.Create(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	host, err := a.Host("docker.io")
	if err != nil {
		t.Fatal(err)
	}
	sink, err := host.Sink(t.Context(), "library/conformance")
	if err != nil {
		t.Fatal(err)
	}
	return sink.(interface {
		image.Sink
		image.Source
	})
}

func TestDockerArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "archive.tar")
	conformance.Fill(t, dockerArchive(t, file), conformance.NewContent())
	conformance.Source(t, func(t *testing.T, _ conformance.Content) image.Source { return dockerArchive(t, file) })
}

func TestDockerArchiveSink(t *testing.T) {
	conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
		both := dockerArchive(t, filepath.Join(t.TempDir(), "archive.tar"))
		return both, both
	})
}
