//go:build linux

package mount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// TestLeftoverFolders: oras leaves the folder of its temporary files, empty, whatever it writes last. It goes with the staging when
// nobody writes any more, from the disk too, and what was pushed is said to be pushed.
func TestLeftoverFolders(t *testing.T) {
	const blobs = `mkdir -p oci-layout/blobs/sha256 oci-layout/ingest && for f in "$1"/blobs/sha256/*; do
		cp "$f" oci-layout/ingest/x && chmod 0444 oci-layout/ingest/x && mv oci-layout/ingest/x oci-layout/blobs/sha256/${f##*/} || exit 1; done`
	const index = `mkdir -p oci-layout && cp "$1/index.json" "$1/oci-layout" oci-layout/`
	r := registries.Docker(t, registries.Config{})
	staged := t.TempDir()
	m := mounted.New(t, mounted.Options{StageDir: staged, Silence: 500 * time.Millisecond})
	old, img := newPushed(t, "old", 1<<10), newPushed(t, "leaves a folder", 2<<20)
	for name, script := range map[string]string{
		"index-last": blobs + " && " + index, "index-first": index + " && " + blobs, "index-twice": index + " && " + blobs + " && " + index,
	} {
		for _, over := range []bool{false, true} {
			repository := fmt.Sprintf("leaves/%s-over-%v", name, over)
			t.Run(filepath.Base(repository), func(t *testing.T) {
				folder := m.At(r.Host, repository, "tags/v1")
				if over {
					old.mustPush(t, folder, m.Log)
				} else {
					run(t, "mkdir", folder)
				}
				writer{"cp", script}.writeIn(t, folder, img.dir, "")
				img.pulls(t, r.Host+"/"+repository+":v1")
				wantNothingStaged(t, m, r, repository)
				wantState(t, m, r.Host, repository, "v1", stage.Pushed)
			})
		}
	}
	if left, err := filepath.Glob(staged + "/*"); err != nil || !cmp.Equal(left, []string{staged + "/lock"}) {
		t.Errorf("the staging folder still has %v, %v", left, err)
	}
}

// TestReplaceIndexes: a multi-platform image in the place of another one, which shares a layer with it, is under the tag byte for byte.
// Debian's skopeo writes an index anew, and is given what it wrote.
func TestReplaceIndexes(t *testing.T) {
	registries.Program(t, "skopeo")
	local := map[string]string{}
	for _, version := range []string{"1", "2"} {
		local[version] = layoutOf(t, registries.Index(t, version))
	}
	all := map[string]string{
		"cp": `cp -r "$1/." oci-layout`, "rsync": writers["rsync"].script, "tar": writers["tar"].script,
		"regctl": `regctl image copy "ocidir://$1:v1" ocidir://oci-layout:v1`,
		"skopeo": `skopeo --insecure-policy copy --all "oci:$1:v1" oci:oci-layout:v1`,
	}
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	for name, script := range all {
		t.Run(name, func(t *testing.T) {
			registries.Program(t, name)
			repository := "replace/" + name
			folder := m.At(r.Host, repository, "tags/v1")
			run(t, "mkdir", folder)
			for _, version := range []string{"1", "2", "1"} {
				from := local[version]
				if name == "skopeo" {
					from = filepath.Join(t.TempDir(), "layout")
					run(t, "skopeo", "--insecure-policy", "copy", "--all", "oci:"+local[version]+":v1", "oci:"+from+":v1")
				}
				writer{name, script}.writeIn(t, folder, from, "")
				isPublished(t, r, repository+":v1", onlyManifest(t, from))
			}
			wantNothingStaged(t, m, r, repository)
		})
	}
}

// isPublished checks that repository:tag is a manifest, byte for byte.
func isPublished(t *testing.T, r *registries.Registry, ref string, want []byte) {
	t.Helper()
	got, err := remote.Get(r.Ref(t, ref), r.Options(t)...)
	if err != nil {
		t.Errorf("%s: %v", ref, err)
		return
	}
	if diff := cmp.Diff(string(want), string(got.Manifest)); diff != "" {
		t.Errorf("%s is another image: %s", ref, diff)
	}
}

// onlyManifest is what the one entry of a layout's index.json names.
func onlyManifest(t *testing.T, dir string) []byte {
	t.Helper()
	var index struct{ Manifests []struct{ Digest string } }
	parse(t, run(t, "cat", dir+"/index.json"), &index)
	if len(index.Manifests) != 1 {
		t.Fatalf("%s lists %v", dir, index.Manifests)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "blobs/sha256", index.Manifests[0].Digest[len("sha256:"):]))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
