//go:build linux

package mount_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// realImage is an image that is made by the tools that people make images with.
type realImage struct {
	name string
	// make makes it in a folder that is there and empty.
	make func(ctx context.Context, dir string) (layouts, error)
	// quirks are where umoci is not to be believed.
	quirks []quirk
}

func realImages(t *testing.T) []realImage {
	t.Helper()
	for _, program := range []string{"crane", "debootstrap", "git", "pigz", "regctl", "setcap", "setfattr", "umoci", "zstd"} {
		registries.Program(t, program)
	}
	d := newDebians(t.Context(), t.TempDir())
	return []realImage{
		{"bookworm", d.bookwormImage, nil},
		{"trixie", d.trixieImage, nil},
		{"links", linksImage, []quirk{umociEmpty}},
		{"static", staticImage, []quirk{implied}},
		{"ten", tenImage, []quirk{implied}},
	}
}

// implied knows of folders that no layer describes. Others give them the time at which they make them, and regfs none.
func implied(_ string, want, got node) node {
	if want.mode&unix.S_IFMT == unix.S_IFDIR && got.mtime.Equal(time.Unix(0, 0)) && time.Since(want.mtime) < 10*time.Minute {
		want.mtime = got.mtime
	}
	return want
}

// top knows that the top folder of a tree is like all other folders of a mount, since to look at it must not fetch a layer.
func top(path string, want, got node) node {
	if path == "." {
		want.mode, want.mtime = unix.S_IFDIR|0o555, time.Unix(0, 0).UTC()
	}
	return want
}

// umociEmpty puts right that umoci 0.4.7 loses attributes without a value: the archive/tar of its Go takes them for removed.
func umociEmpty(path string, want, got node) node {
	if path == "attrs/empty" {
		want.xattrs = map[string]string{"user.empty": ""}
	}
	return want
}

// TestRootfsIsWhatUmociUnpacks compares all that the system tells of all files. What a layer's tree shows is compared with what GNU tar
// unpacks of the layer.
func TestRootfsIsWhatUmociUnpacks(t *testing.T) {
	needRoot(t)
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{Timeout: time.Minute})
	for _, real := range realImages(t) {
		t.Run(real.name, func(t *testing.T) {
			t.Parallel()
			made, err := real.make(t.Context(), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			image := imageIn(t, made.pushed, "v1")
			r.PushImage(t, "real/"+real.name+":v1", image)
			want := walk(t, unpacked(t, made.umoci))
			at := m.At(r.Host, "real", real.name, "tags/v1")
			sameTree(t, want, walk(t, filepath.Join(at, "rootfs")), append(real.quirks, top)...)
			if real.name != "bookworm" { // whose rootfs is its one layer: to read all of it once more would take half a minute
				sameLayers(t, made.pushed, image, at)
			}
		})
	}
}

// TestRootfsAfterEachLayer compares what there is after each of the ten layers, and not only after the last.
func TestRootfsAfterEachLayer(t *testing.T) {
	needRoot(t)
	registries.Program(t, "umoci")
	dir := t.TempDir()
	layers, err := tenTars(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	for n := 1; n <= len(layers); n++ {
		made, err := writeLayouts(t.Context(), filepath.Join(dir, fmt.Sprint("first", n)), layers[:n]...)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("ten/first", n)
		r.PushImage(t, name+":v1", imageIn(t, made.pushed, "v1"))
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			sameTree(t, walk(t, unpacked(t, made.umoci)), walk(t, m.At(r.Host, name, "tags/v1/rootfs")), implied, top)
		})
	}
}

// sameLayers compares the trees of all gzipped layers of an image in a mount, at, with what tar unpacks.
func sameLayers(t *testing.T, dir string, image v1.Image, at string) {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for i, layer := range manifest.Layers {
		if layer.MediaType != types.OCILayer {
			continue
		}
		to := t.TempDir()
		blob := filepath.Join(dir, "blobs", "sha256", layer.Digest.Hex)
		_, complaints, err := try(t, "tar", "-C", to, "--xattrs", "--xattrs-include=*", "--numeric-owner", "--delay-directory-restore", "-xpzf", blob)
		if err != nil && !onlyMissing(complaints) {
			t.Fatalf("%v\n%s", err, complaints)
		}
		sameTree(t, walk(t, to), walk(t, filepath.Join(at, "layers", fmt.Sprintf("%02d", i), "tree")), implied, top)
		compared++
	}
	if compared == 0 {
		t.Error("no layer was compared")
	}
}

// onlyMissing tells whether all that tar has to complain of are entries that lead nowhere in the layer alone: hard links to files of
// lower layers, and what is below a file or a link (umoci writes whiteouts there).
func onlyMissing(complaints string) bool {
	for line := range strings.Lines(complaints) {
		switch line = strings.TrimSpace(line); {
		case strings.Contains(line, ": Cannot hard link to "), strings.Contains(line, ".wh.") && strings.Contains(line, ": Cannot open: "):
		case strings.HasSuffix(line, "Exiting with failure status due to previous errors"):
		default:
			return false
		}
	}
	return true
}
