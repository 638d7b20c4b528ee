//go:build linux

package mount_test

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// TestPlatforms shows every platform that an index can name, however it does, under a name that leads nowhere else.
func TestPlatforms(t *testing.T) {
	r := registries.Memory(t)
	img := registries.Image(t, registries.Platforms[0], "1")
	r.PushImage(t, "team/app:single", img)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := img.Size()
	if err != nil {
		t.Fatal(err)
	}
	var index v1.IndexManifest
	index.SchemaVersion, index.MediaType = 2, types.OCIImageIndex
	for _, p := range []v1.Platform{
		{OS: "linux", Architecture: "arm"}, {OS: "linux", Architecture: "arm", Variant: "v7"},
		{OS: "windows", Architecture: "amd64", OSVersion: "10.0.17763"}, {OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348"},
		{OS: "unknown", Architecture: "unknown"}, {OS: "linux", Architecture: ".."}, {OS: "../..", Architecture: "amd64"},
		{OS: "linux", Architecture: "a/b"}, {OS: "linux", Architecture: "s390x", Variant: "../x"},
	} {
		index.Manifests = append(index.Manifests, v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: size, Platform: &p})
	}
	raw, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	r.PushManifest(t, "team/app:odd", string(types.OCIImageIndex), raw)
	m := mounted.New(t, mounted.Options{})
	folder := m.At(r.Host, "team/app/tags/odd")
	found := run(t, "find", folder+"/platforms", "-name", "manifest.json")
	var got []string
	for line := range strings.Lines(found) {
		got = append(got, strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), folder+"/platforms/"), "/manifest.json"))
	}
	want := []string{"linux/arm", "linux/arm/v7", "linux/s390x", "windows/amd64/10.0.17763", "windows/amd64/10.0.20348"}
	if diff := cmp.Diff(want, sorted(got)); diff != "" {
		t.Error(diff)
	}
	// There is nothing for the mount's own platform.
	if got := list(t, m, r.Host, "team/app/tags/odd"); !cmp.Equal(got, []string{"digest", "index.json", "oci-layout", "platforms", "referrers"}) {
		t.Errorf("an image for other platforms shows %v", got)
	}
	_, err = os.Stat(folder + "/manifest.json")
	wantErrno(t, m, "manifest.json", err, syscall.ENOENT)
	run(t, "cp", "-r", folder+"/oci-layout", t.TempDir())
}

// TestSparseIndex: an index may name images that this repository does not have. What it has is shown, and copied.
func TestSparseIndex(t *testing.T) {
	full := registries.Memory(t)
	idx := full.PushIndex(t, "team/app:v1", "1")
	proxy := registries.NewProxy(t, full)
	manifest, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	missing := manifest.Manifests[1]
	proxy.Fault(-1, registries.Path("/manifests/"+missing.Digest.String()), registries.Answer(404, nil, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`))
	m := mounted.New(t, mounted.Options{})
	out := t.TempDir()
	run(t, "cp", "-r", m.At(proxy.Host, "team/app/tags/v1/oci-layout"), out)
	checkBlobs(t, out+"/oci-layout")
	if _, err := os.Stat(out + "/oci-layout/blobs/sha256/" + missing.Digest.Hex); !os.IsNotExist(err) {
		t.Errorf("the missing image's manifest was copied: %v", err)
	}
	_, err = os.ReadFile(m.At(proxy.Host, "team/app/tags/v1/platforms/linux/arm64/manifest.json"))
	wantErrno(t, m, "the missing image", err, syscall.ENOENT)
}
