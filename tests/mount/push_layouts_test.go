//go:build linux

package mount_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// layoutOf is a layout on disk of one image or index, under the name v1.
func layoutOf(t *testing.T, img any) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	l, err := layout.Write(dir, empty.Index)
	name := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"})
	if err == nil {
		switch img := img.(type) {
		case v1.Image:
			err = l.AppendImage(img, name)
		case v1.ImageIndex:
			err = l.AppendIndex(img, name)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// layoutFiles are the files of a layout, by their paths in it.
func layoutFiles(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// inOrder copies the files of a layout into a new tag's folder, in that order, each by a process of its own.
func inOrder(t *testing.T, files []string, dir, folder string) {
	t.Helper()
	args := append([]string{dir, folder + "/oci-layout"}, files...)
	inShell(t, `from=$1 to=$2; shift 2; mkdir -p "$to/blobs/sha256"; for f; do cp "$from/$f" "$to/$f"; done`, args...)
}

// TestAnyOrder: whichever file of a layout comes last pushes the image, once.
func TestAnyOrder(t *testing.T) {
	r := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	m := mounted.New(t, mounted.Options{})
	for name, dir := range map[string]string{
		"image": layoutOf(t, registries.Image(t, registries.Platforms[0], "1")), "index": layoutOf(t, registries.Index(t, "1")),
	} {
		files := layoutFiles(t, dir)
		for seed := range uint64(8) {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 2))
				random.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
				repository := fmt.Sprintf("order/%s%d", name, seed)
				folder := m.At(r.Host, repository, "tags/v1")
				run(t, "mkdir", folder)
				r.Reset()
				inOrder(t, files, dir, folder)
				isPublished(t, r.Registry, repository+":v1", onlyManifest(t, dir))
				if n := r.Count(manifests, registries.Path("/v1$")); n != 1 {
					t.Errorf("v1 was put %d times, after %v", n, files)
				}
				wantNothingStaged(t, m, r.Registry, repository)
				wantState(t, m, r.Host, repository, "v1", stage.Pushed)
			})
		}
	}
}

// TestArtifactLayouts: artifacts as crane and regctl write them, into the mount and on disk.
func TestArtifactLayouts(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	docs, chart := r.PushArtifact(t, "from/docs:v1"), r.PushChart(t, "from/chart:v1")
	scripts := map[string]string{
		"crane":          `crane pull --insecure --format=oci "$2" oci-layout`,
		"regctl":         `regctl --host "reg=$3,tls=disabled" image copy "$2" ocidir://oci-layout:v1`,
		"crane and cp":   `crane pull --insecure --format=oci "$2" "$4" && cp -r "$4" oci-layout`,
		"regctl and tar": `regctl --host "reg=$3,tls=disabled" image copy "$2" "ocidir://$4:v1" && mkdir oci-layout && tar -C "$4" -c . | tar -C oci-layout -x`,
	}
	for how, script := range scripts {
		for name, want := range map[string]v1.Descriptor{"docs": docs, "chart": chart} {
			t.Run(how+" "+name, func(t *testing.T) {
				repository := "to/" + strings.Map(letters, how) + "-" + name
				folder := m.At(r.Host, repository, "tags/v1")
				run(t, "mkdir", folder)
				inShell(t, `cd "$1" && `+script, folder, r.Host+"/from/"+name+":v1", r.Host, filepath.Join(t.TempDir(), "layout"))
				if got := tagged(t, r, repository, "v1"); got != want.Digest.String() {
					t.Errorf("%q was pushed, not %s\n%s", got, want.Digest, m.Log())
				}
				run(t, "diff", "-r", m.At(r.Host, "from", name, "tags/v1/files"), folder+"/files")
				wantNothingStaged(t, m, r, repository)
			})
		}
	}
}

// entries changes the list of a layout's index.json. What it does not list any more is removed: nobody knows what it is for.
func entries(t *testing.T, dir string, change func([]map[string]any) []map[string]any) {
	t.Helper()
	var index map[string]any
	var list struct {
		Manifests []map[string]any `json:"manifests"`
	}
	raw := run(t, "cat", dir+"/index.json")
	parse(t, raw, &index)
	parse(t, raw, &list)
	before := slices.Clone(list.Manifests)
	after := change(list.Manifests)
	for _, e := range before {
		if !slices.ContainsFunc(after, func(other map[string]any) bool { return other["digest"] == e["digest"] }) {
			run(t, "rm", filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(fmt.Sprint(e["digest"]), "sha256:")))
		}
	}
	index["manifests"] = after
	out, err := json.Marshal(index)
	if err == nil {
		err = os.WriteFile(dir+"/index.json", out, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// refNameOf is the name of an entry of index.json.
func refNameOf(entry map[string]any) string {
	annotations, _ := entry["annotations"].(map[string]any)
	name, _ := annotations["org.opencontainers.image.ref.name"].(string)
	return name
}

// referrersLayouts are layouts of an image and what is attached to it, as regctl makes one and as others do: with the list before the
// image, without a list, and without any name.
func referrersLayouts(t *testing.T, local, sbom string) map[string]string {
	t.Helper()
	raw := run(t, "cat", filepath.Join(local, "blobs/sha256", strings.TrimPrefix(sbom, "sha256:")))
	attached := map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sbom, "size": len(raw), "artifactType": "application/spdx+json"}
	image := func(list []map[string]any) map[string]any {
		return list[slices.IndexFunc(list, func(e map[string]any) bool { return refNameOf(e) == "v1" })]
	}
	all := map[string]string{}
	for name, change := range map[string]func([]map[string]any) []map[string]any{
		"as it is":   func(list []map[string]any) []map[string]any { return list },
		"list first": func(list []map[string]any) []map[string]any { slices.Reverse(list); return list },
		"oras":       func(list []map[string]any) []map[string]any { return []map[string]any{image(list), attached} },
		"oras, attached first": func(list []map[string]any) []map[string]any {
			return []map[string]any{attached, image(list)}
		},
		"no names": func(list []map[string]any) []map[string]any {
			e := image(list)
			delete(e, "annotations")
			return []map[string]any{attached, e}
		},
	} {
		dir := filepath.Join(t.TempDir(), "layout")
		run(t, "cp", "-r", local, dir)
		entries(t, dir, change)
		all[name] = dir
	}
	return all
}

// TestReferrersLayouts: however a layout lists what is attached to its image, and whichever file comes last, both arrive.
func TestReferrersLayouts(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	digest, sbom, local := signed(t, r)
	m := mounted.New(t, mounted.Options{TagTTL: -1})
	for name, dir := range referrersLayouts(t, local, sbom) {
		files := layoutFiles(t, dir)
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(name, " ", seed), func(t *testing.T) {
				repository := fmt.Sprintf("to/%s%d", strings.Map(letters, strings.ReplaceAll(name, ", ", "")), seed)
				rand.New(rand.NewPCG(seed, 3)).Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
				folder := m.At(r.Host, repository, "tags/v1")
				run(t, "mkdir", folder)
				inOrder(t, files, dir, folder)
				wantReferrer(t, m, r, repository, digest, sbom)
				wantNothingStaged(t, m, r, repository)
			})
			if t.Failed() {
				t.Fatalf("in the order %v", files)
			}
		}
	}
	if got := list(t, m, r.Host, "to/oras0/tags"); !cmp.Equal(got, []string{strings.Replace(digest, ":", "-", 1), "v1"}) {
		t.Errorf("the repository has the tags %v", got)
	}
}
