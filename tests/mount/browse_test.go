//go:build linux

package mount_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.podman.io/image/v5/types"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
	"github.com/regfs/regfs/tests/registries/distribution"
)

// starters are the registries that browsing has to be the same on.
var starters = map[string]func(registries.TB, registries.Config) *registries.Registry{
	"docker-registry": registries.Docker,
	"distribution":    distribution.Start,
}

// access are the ways to be let in.
var access = map[string]registries.Config{
	"anonymous": {},
	"htpasswd":  {Auth: registries.Htpasswd},
	"token":     {Auth: registries.Token},
	"TLS":       {TLS: true},
	"token+TLS": {Auth: registries.Token, TLS: true},
}

func TestBrowse(t *testing.T) {
	for registry, start := range starters {
		for how, config := range access {
			t.Run(registry+"/"+how, func(t *testing.T) { browse(t, start(t, config)) })
		}
	}
}

// browse looks at all that is in a registry, and holds it against what the registry says itself.
func browse(t *testing.T, r *registries.Registry) {
	index := r.PushIndex(t, "team/app:v1", "1")
	artifact := r.PushArtifact(t, "team/app/files:v1")
	desc, err := remote.Head(r.Ref(t, "team/app:v1"), r.Options(t)...)
	if err != nil {
		t.Fatal(err)
	}
	sbom := r.PushSBOM(t, "team/app", *desc)
	m := mounted.New(t, mounted.Options{System: systemFor(t, r)})

	for path, want := range map[string][]string{
		"":                                     {"team"},
		"team":                                 {"app"},
		"team/app":                             {"blobs", "digests", "files", "oci-layout", "tags"},
		"team/app/tags":                        nil, // with the referrers' tag, where the registry has no referrers API
		"team/app/files":                       {"blobs", "digests", "oci-layout", "tags"},
		"team/app/tags/v1":                     {"config.json", "digest", "index.json", "inspect.json", "layers", "manifest.json", "oci-layout", "platforms", "referrers", "rootfs"},
		"team/app/tags/v1/platforms/linux":     {"amd64", "arm", "arm64"},
		"team/app/tags/v1/platforms/linux/arm": {"v7"},
		"team/app/tags/v1/layers":              {"00", "01"},
		"team/app/tags/v1/layers/01":           {"blob", "created_by", "digest", "tree"},
		"team/app/tags/v1/referrers":           {sbom.Digest.String()},
		"team/app/files/tags/v1":               {"config.json", "digest", "files", "layers", "manifest.json", "oci-layout", "referrers"},
		"team/app/files/tags/v1/files":         {"docs", "hello.txt"},
		"team/app/files/tags/v1/files/docs":    {"guide.md"},
	} {
		if got := list(t, m, r.Host, path); want != nil && !cmp.Equal(got, want) {
			t.Errorf("ls %s: %s", path, cmp.Diff(want, got))
		}
	}
	raw, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"team/app/tags/v1/index.json":                                    string(raw),
		"team/app/tags/v1/digest":                                        desc.Digest.String() + "\n",
		"team/app/digests/" + desc.Digest.String() + "/index.json":       string(raw),
		"team/app/blobs/sha256/" + desc.Digest.Hex:                       string(raw),
		"team/app/files/tags/v1/digest":                                  artifact.Digest.String() + "\n",
		"team/app/tags/v1/referrers/" + sbom.Digest.String() + "/digest": sbom.Digest.String() + "\n",
	} {
		if got := read(t, m, r.Host, path); got != want {
			t.Errorf("%s: %s", path, cmp.Diff(want, got))
		}
	}
	checkPlatforms(t, m, r)
	checkWhole(t, m, r)
}

// checkPlatforms holds each platform's folder against the image the registry has for it.
func checkPlatforms(t *testing.T, m *mounted.Mount, r *registries.Registry) {
	for _, p := range registries.Platforms {
		img, err := remote.Image(r.Ref(t, "team/app:v1"), append(r.Options(t), remote.WithPlatform(p))...)
		if err != nil {
			t.Fatal(err)
		}
		folder := fmt.Sprintf("team/app/tags/v1/platforms/%s/%s/%s", p.OS, p.Architecture, p.Variant)
		manifest, _ := img.RawManifest()
		config, _ := img.RawConfigFile()
		if got := read(t, m, r.Host, folder, "manifest.json"); got != string(manifest) {
			t.Errorf("%v manifest.json: %s", p, cmp.Diff(string(manifest), got))
		}
		if got := read(t, m, r.Host, folder, "config.json"); got != string(config) {
			t.Errorf("%v config.json: %s", p, cmp.Diff(string(config), got))
		}
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range layers {
			digest, _ := l.Digest()
			if got := sha256Of(t, m.At(r.Host, folder, fmt.Sprintf("layers/%02d/blob", i))); got != digest.String() {
				t.Errorf("%v layer %d is %s, not %s", p, i, got, digest)
			}
		}
	}
}

// checkWhole copies the image and the repository as layouts, and checks that every blob is what its name says.
func checkWhole(t *testing.T, m *mounted.Mount, r *registries.Registry) {
	for _, path := range []string{"team/app/tags/v1/oci-layout", "team/app/files/tags/v1/oci-layout", "team/app/files/oci-layout"} {
		out := t.TempDir()
		run(t, "cp", "-r", m.At(r.Host, path), out)
		checkBlobs(t, out+"/oci-layout")
		var index struct {
			Manifests []struct{ Digest string }
		}
		if err := json.Unmarshal([]byte(run(t, "cat", out+"/oci-layout/index.json")), &index); err != nil || len(index.Manifests) != 1 {
			t.Errorf("index.json of %s: %v %v", path, index, err)
		}
	}
}

// checkBlobs checks that every blob of a layout is what its name says.
func checkBlobs(t *testing.T, layout string) {
	t.Helper()
	sums := run(t, "sh", "-c", "cd "+layout+"/blobs/sha256 && sha256sum *")
	for line := range strings.Lines(sums) {
		if sum, name, _ := strings.Cut(strings.TrimSpace(line), "  "); sum != name {
			t.Errorf("%s has the digest %s", name, sum)
		}
	}
}

// systemFor is the configuration of a machine that may use a registry.
func systemFor(t *testing.T, r *registries.Registry) *types.SystemContext {
	s := &types.SystemContext{SystemRegistriesConfPath: "/dev/null", SystemRegistriesConfDirPath: t.TempDir()}
	if r.Auth != registries.Anonymous {
		s.AuthFilePath = registries.AuthFile(t, r.Host)
	}
	if r.CA != nil {
		s.DockerPerHostCertDirPath = registries.CertsDir(t, r)
	}
	return s
}
