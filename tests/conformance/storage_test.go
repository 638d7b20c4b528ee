//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package conformance_test

import (
	"os"
	"testing"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/storage"
	"github.com/regfs/regfs/tests/conformance"
)

// containersStorage is one repository of a store of its own.
func containersStorage(t *testing.T, driver string) (image.Sink, image.Source) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can unpack layers")
	}
	dir := t.TempDir()
	s, err := storage.Create(t.Context(), driver+"@"+dir+"/root+"+dir+"/run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	host, err := s.Host("registry.test")
	if err != nil {
		t.Fatal(err)
	}
	src, err := host.Source(t.Context(), repository)
	if err != nil {
		t.Fatal(err)
	}
	return sink(t, host), src
}

// TestStorage reads what was pushed. A store gives layers back as plain tars only, so they are pushed so.
func TestStorage(t *testing.T) {
	for _, driver := range []string{"vfs", "overlay"} {
		t.Run(driver, func(t *testing.T) {
			k, src := containersStorage(t, driver)
			defer k.Close()
			content := conformance.PlainImages("tag")
			conformance.Fill(t, k, content)
			conformance.SourceOf(t, content, func(*testing.T, conformance.Content) image.Source { return src })
		})
	}
}

func TestStorageSink(t *testing.T) {
	for _, driver := range []string{"vfs", "overlay"} {
		t.Run(driver, func(t *testing.T) {
			conformance.SinkOfImages(t, conformance.PlainImages("tag"), func(t *testing.T) (image.Sink, image.Source) {
				return containersStorage(t, driver)
			})
		})
	}
}
