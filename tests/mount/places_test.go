//go:build linux

package mount_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/fs"
	"github.com/regfs/regfs/layout/oci"
	"github.com/regfs/regfs/tests/conformance"
	"github.com/regfs/regfs/tests/mounted"
)

// mountable is a kind of place to mount.
type mountable struct {
	// open opens the place at a path that is there.
	open func(t *testing.T, path string) fs.Named
	// skopeo is what skopeo calls an image of it.
	skopeo func(path, tag string) string
	// folder is where the image of a tag stands in the place.
	folder func(tag string) string
	// writable places take what is written into a mount, under the tags.
	writable bool
	tags     []string
	// converts tells that the place keeps images in another form.
	converts bool
}

func tagFolder(tag string) string { return "tags/" + tag }

// mountables are all places there are but registries.
var mountables = map[string]mountable{
	"oci": {
		open: func(t *testing.T, path string) fs.Named {
			l, err := oci.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return fs.Named{Host: fs.Alone(l, l, true), Single: true}
		},
		skopeo: func(path, tag string) string { return "oci:" + path + ":" + tag },
		folder: tagFolder, writable: true, tags: []string{"w1", "w2", "w3"},
	},
}

// sample is an image of real layers in a layout.
func sampleLayout(t *testing.T) (dir string, content conformance.Content) {
	t.Helper()
	dir = t.TempDir()
	l, err := oci.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	content = conformance.Images("v1", false)
	conformance.Fill(t, l, content)
	return dir, content
}

// rawDigest is the digest of what skopeo finds under a name.
func rawDigest(t *testing.T, name string) string {
	t.Helper()
	return digest.FromString(run(t, "skopeo", "inspect", "--raw", name)).String()
}

// TestPlacesAreBrowsed looks at an image that skopeo put into each place.
func TestPlacesAreBrowsed(t *testing.T) {
	layout, content := sampleLayout(t)
	for kind, p := range mountables {
		t.Run(kind, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "place")
			run(t, "skopeo", "--insecure-policy", "copy", "oci:"+layout+":v1", p.skopeo(path, "v1"))
			m := mounted.New(t, mounted.Options{Named: map[string]fs.Named{"place": p.open(t, path)}})
			at := m.At("@place", p.folder("v1"))
			if got := strings.TrimSpace(run(t, "cat", at+"/digest")); !p.converts && got != rawDigest(t, p.skopeo(path, "v1")) {
				t.Errorf("the digest is %s, and of what skopeo reads %s", got, rawDigest(t, p.skopeo(path, "v1")))
			}
			for i, name := range []string{"0", "1"} {
				name = content.Layers(content.Image)[i]
				for _, tree := range []string{"rootfs", "layers/0" + string(rune('0'+i)) + "/tree"} {
					if _, err := os.ReadFile(filepath.Join(at, tree, name)); err != nil {
						t.Errorf("%v", err)
					}
				}
			}
			out := filepath.Join(t.TempDir(), "out")
			run(t, "cp", "-r", at+"/oci-layout", out)
			run(t, "skopeo", "--insecure-policy", "copy", "oci:"+out, "dir:"+t.TempDir())
			run(t, "skopeo", "inspect", "oci-archive:"+at+"/archive.oci.tar")
			run(t, "ls", "-lR", m.At("@place"))
		})
	}
}

// TestPlacesAreWritten writes into each place that can be written to, as different programs do.
func TestPlacesAreWritten(t *testing.T) {
	layout, content := sampleLayout(t)
	for kind, p := range mountables {
		if !p.writable {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "place")
			run(t, "skopeo", "--insecure-policy", "copy", "oci:"+layout+":v1", p.skopeo(path, "v1"))
			m := mounted.New(t, mounted.Options{Named: map[string]fs.Named{"place": p.open(t, path)}})
			for i, write := range []func(to string){
				func(to string) { run(t, "cp", "-r", layout, filepath.Join(to, "oci-layout")) },
				func(to string) { run(t, "rsync", "-a", layout+"/", filepath.Join(to, "oci-layout")+"/") },
				func(to string) {
					run(t, "skopeo", "--insecure-policy", "copy", "oci:"+layout+":v1", "oci:"+filepath.Join(to, "oci-layout")+":v1")
				},
			} {
				tag := p.tags[min(i, len(p.tags)-1)]
				to := m.At("@place", p.folder(tag))
				run(t, "mkdir", "-p", to)
				write(to)
				if got := rawDigest(t, p.skopeo(path, tag)); got != content.Image.Digest.String() && !p.converts {
					t.Errorf("writer %d: %s is there, want %s\n%s", i, got, content.Image.Digest, m.Log())
				}
				run(t, "skopeo", "--insecure-policy", "copy", p.skopeo(path, tag), "dir:"+t.TempDir())
				if got := strings.TrimSpace(run(t, "cat", to+"/digest")); got == "" {
					t.Errorf("writer %d: the tag has no digest", i)
				}
			}
		})
	}
}
