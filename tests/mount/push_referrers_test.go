//go:build linux

package mount_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// signed is an image with a bill of materials attached, in a registry and as the layout that regctl makes of both.
func signed(t *testing.T, r *registries.Registry) (digest, sbom, local string) {
	t.Helper()
	registries.Program(t, "regctl")
	r.PushImage(t, "from/app:v1", registries.Image(t, registries.Platforms[0], "signed"))
	digest = tagged(t, r, "from/app", "v1")
	attached := r.PushSBOM(t, "from/app", r.Head(t, "from/app:v1"))
	local = filepath.Join(t.TempDir(), "layout")
	run(t, "regctl", "--host", "reg="+r.Host+",tls=disabled", "image", "copy", "--referrers", r.Host+"/from/app:v1", "ocidir://"+local+":v1")
	return digest, attached.Digest.String(), local
}

// wantReferrer checks that a tag is that image, and that what is attached to it is found, by regctl and in the mount.
func wantReferrer(t *testing.T, m *mounted.Mount, r *registries.Registry, repository, digest, sbom string) {
	t.Helper()
	if got := tagged(t, r, repository, "v1"); got != digest {
		t.Errorf("%s is %q, not %s\n%s", repository, got, digest, m.Log())
	}
	out := run(t, "regctl", "--host", "reg="+r.Host+",tls=disabled", "artifact", "list", "--format", "{{range .Descriptors}}{{.Digest}} {{end}}", r.Host+"/"+repository+":v1")
	if strings.TrimSpace(out) != sbom {
		t.Errorf("regctl lists %q, not %s\n%s", out, sbom, m.Log())
	}
	if got := list(t, m, r.Host, repository, "digests", digest, "referrers"); !slices.Equal(got, []string{sbom}) {
		t.Errorf("the mount lists %v, not %s", got, sbom)
	}
	run(t, "cat", m.At(r.Host, repository, "digests", digest, "referrers", sbom, "files/sbom.spdx.json"))
}

// TestReferrersPush: what is attached to an image goes with it, as regctl writes both and as a copy of a layout that has both.
func TestReferrersPush(t *testing.T) {
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			r := start(t, registries.Config{})
			digest, sbom, local := signed(t, r)
			m := mounted.New(t, mounted.Options{TagTTL: -1})
			for i, script := range []string{
				`cd "$1" && cp -r "$2" oci-layout`,
				`cd "$1" && rsync -a "$2/" oci-layout/`,
				`cd "$1" && regctl --host "reg=$3,tls=disabled" image copy --referrers "$3/from/app:v1" ocidir://oci-layout:v1`,
				`cd "$1" && regctl image copy --referrers "ocidir://$2:v1" ocidir://oci-layout:v1`,
			} {
				repository := fmt.Sprintf("to/app%d", i)
				folder := m.At(r.Host, repository, "tags/v1")
				if err := os.Mkdir(folder, 0o755); err != nil {
					t.Fatal(err)
				}
				inShell(t, script, folder, local, r.Host)
				wantReferrer(t, m, r, repository, digest, sbom)
			}
		})
	}
}

// TestReferrersInAnyOrder: it does not matter which file of such a layout comes last.
func TestReferrersInAnyOrder(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	digest, sbom, local := signed(t, r)
	m := mounted.New(t, mounted.Options{TagTTL: -1})
	var files []string
	err := filepath.WalkDir(local, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, local+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(6) {
		repository := fmt.Sprintf("to/order%d", seed)
		folder := m.At(r.Host, repository, "tags/v1/oci-layout/blobs/sha256")
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
		for _, f := range files {
			run(t, "cp", filepath.Join(local, f), m.At(r.Host, repository, "tags/v1/oci-layout", f))
		}
		wantReferrer(t, m, r, repository, digest, sbom)
	}
}

// TestArtifactPush: artifacts arrive as they are.
func TestArtifactPush(t *testing.T) {
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			r := start(t, registries.Config{})
			r.PushArtifact(t, "from/docs:v1")
			r.PushChart(t, "from/chart:v1")
			m := mounted.New(t, mounted.Options{})
			for _, name := range []string{"docs", "chart"} {
				local := filepath.Join(t.TempDir(), "layout")
				run(t, "cp", "-r", m.At(r.Host, "from", name, "tags/v1/oci-layout"), local)
				folder := m.At(r.Host, "to", name, "tags/v1")
				if err := os.Mkdir(folder, 0o755); err != nil {
					t.Fatal(err)
				}
				run(t, "cp", "-r", local, folder+"/oci-layout")
				run(t, "diff", "-r", m.At(r.Host, "from", name, "tags/v1/files"), m.At(r.Host, "to", name, "tags/v1/files"))
				if got, want := tagged(t, r, "to/"+name, "v1"), tagged(t, r, "from/"+name, "v1"); got != want || got == "" {
					t.Errorf("%s is %q and not %s", name, got, want)
				}
				wantNothingStaged(t, m, r, "to/"+name)
				wantState(t, m, r.Host, "to/"+name, "v1", stage.Pushed)
			}
		})
	}
}
