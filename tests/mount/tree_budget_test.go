//go:build linux

package mount_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// TestTreeBudgets counts what looking into layers asks of a registry.
func TestTreeBudgets(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	pushLayers(t, proxy.Registry, "team/app:v1", registries.TarLayer(t, manyEntries(20, 20, "1")...), registries.TarLayer(t, treeEntries()...))
	m := mounted.New(t, mounted.Options{})
	image := m.At(proxy.Host, "team/app/tags/v1")
	run(t, "cat", image+"/manifest.json")
	blobs := registries.Get("/blobs/")
	for _, step := range []struct {
		name string
		run  []string
		most int
	}{
		{"the folder of the image with all sizes", []string{"ls", "-l", "--color=always", image}, 1}, // the config, for inspect.json's
		{"the tops of the trees", []string{"stat", image + "/rootfs", image + "/layers/00/tree"}, 0},
		{"the folder of a layer with all sizes", []string{"ls", "-l", image + "/layers/01"}, 0},
		{"a file of the upper layer, cold, and the lower one beside it", []string{"cat", image + "/rootfs/etc/os-release"}, 2},
		{"another one", []string{"cat", image + "/rootfs/etc/shadow"}, 0},
		{"a name that neither has", []string{"sh", "-c", "! test -e $0", image + "/rootfs/nothing"}, 1},
		{"all files", []string{"grep", "-rc", "version", image + "/rootfs/usr"}, 0},
		{"and all that there is to tell of them", []string{"ls", "-lRZ", image + "/rootfs", image + "/layers/00/tree"}, 0},
	} {
		proxy.Reset()
		run(t, step.run[0], step.run[1:]...)
		if n := proxy.Count(registries.Any); n > step.most || n != proxy.Count(blobs) {
			t.Errorf("%s: %d requests, more than %d: %v", step.name, n, step.most, proxy.Sent(registries.Any))
		}
	}
}

// TestTreeOfIndex: where a layer's index is known and its blob is not here, one file is one small range.
func TestTreeOfIndex(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	noise := make([]byte, 6<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	files := registries.Files{"a/noise": string(noise[:3<<20]), "etc/os-release": "ID=regfs\n", "z/noise": string(noise[3<<20:])}
	pushLayers(t, proxy.Registry, "team/app:v1", registries.Layer(t, files))
	cache := t.TempDir()
	m := mounted.New(t, mounted.Options{CacheDir: cache})
	image := "team/app/tags/v1"
	run(t, "ls", m.At(proxy.Host, image, "rootfs"))
	digest := strings.TrimSpace(read(t, m, proxy.Host, image, "layers/00/digest"))
	m.Unmount()
	forgetBlob(t, cache, digest)

	m = mounted.New(t, mounted.Options{CacheDir: cache})
	read(t, m, proxy.Host, image, "manifest.json")
	proxy.Reset()
	if got := read(t, m, proxy.Host, image, "rootfs/etc/os-release"); got != "ID=regfs\n" {
		t.Errorf("read %q", got)
	}
	sent := proxy.Sent(registries.Any)
	if len(sent) != 1 || !strings.HasSuffix(sent[0].Path, digest) || rangeLength(t, sent[0].Range) > 2<<20 {
		t.Errorf("sent %v", sent)
	}
	run(t, "ls", "-lR", m.At(proxy.Host, image, "rootfs"))
	m.Unmount()
	m = mounted.New(t, mounted.Options{CacheDir: cache}) // what was fetched stays
	if got := read(t, m, proxy.Host, image, "rootfs/etc/os-release"); got != "ID=regfs\n" {
		t.Errorf("read %q", got)
	}
	if sent := proxy.Sent(registries.Get("/blobs/")); len(sent) != 1 {
		t.Errorf("to list all and to read it again took %v", sent[1:])
	}
}

// forgetBlob removes a blob from a cache's folder, as eviction does.
func forgetBlob(t *testing.T, cache, digest string) {
	t.Helper()
	_, hex, _ := strings.Cut(digest, ":")
	gone := 0
	err := filepath.WalkDir(cache, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasPrefix(d.Name(), hex) && !strings.Contains(path, "layers") {
			gone++
			err = os.Remove(path)
		}
		return err
	})
	if err != nil || gone == 0 {
		t.Fatalf("the blob is not in the cache: %v", err)
	}
}

func rangeLength(t *testing.T, header string) int64 {
	t.Helper()
	var from, to int64
	if _, err := fmt.Sscanf(header, "bytes=%d-%d", &from, &to); err != nil {
		t.Errorf("the range %q: %v", header, err)
	}
	return to - from + 1
}
