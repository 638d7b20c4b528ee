package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/layout/oci"
	"github.com/regfs/regfs/tests/conformance"
	"github.com/regfs/regfs/tests/registries"
)

// matrixPlace is a kind of place to copy from and to.
type matrixPlace struct {
	// name is what an image in a new place is called; each call is of another image or place.
	name func(t *testing.T, image string) string
	// flags are those that reach the place as source and as destination, and skopeo's.
	flags  func(side string) []string
	skopeo []string
	// It holds no artifacts, or no multi-platform images.
	noArtifacts, noIndex bool
	// converts tells that what is read is not what was written: layers are kept uncompressed, or there are no manifests.
	converts bool
}

func noFlags(string) []string { return nil }

// inFolder names images that are in a path of their own.
func inFolder(format string) func(t *testing.T, image string) string {
	return func(t *testing.T, image string) string {
		return strings.NewReplacer("PATH", filepath.Join(t.TempDir(), "place"), "IMAGE", image).Replace(format)
	}
}

// needRoot skips a test of what only root can do, where another one runs it: TestAsUser runs all once more.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can unpack layers and run an engine")
	}
}

func matrixPlaces(t *testing.T) map[string]*matrixPlace {
	needRoot(t)
	r := registries.Docker(t, registries.Config{})
	engine := registries.DockerEngine(t)
	daemon := engine.Host
	store := "containers-storage:[vfs@PATH/root+PATH/run]"
	count := 0
	return map[string]*matrixPlace{
		"docker": {name: func(_ *testing.T, image string) string {
			count++
			return "docker://" + r.Host + "/matrix/" + image + string(rune('a'+count%26)) + string(rune('a'+count/26)) + ":v1"
		}, flags: func(string) []string { return []string{"--insecure", r.Host} }, skopeo: []string{"--tls-verify=false"}},
		"oci":            {name: inFolder("oci:PATH:v1"), flags: noFlags},
		"oci-archive":    {name: inFolder("oci-archive:PATH:v1"), flags: noFlags},
		"dir":            {name: inFolder("dir:PATH"), flags: noFlags},
		"docker-archive": {name: inFolder("docker-archive:PATH:example.com/IMAGE:v1"), flags: noFlags},
		"ostree":         {name: inFolder("ostree:example.com/IMAGE:v1@PATH"), flags: noFlags},
		"containers-storage": {name: func(t *testing.T, image string) string {
			dir, err := os.MkdirTemp("", "") // not the test's: podman does not find paths that long
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			return strings.ReplaceAll(store, "PATH", dir) + "example.com/" + image + ":v1"
		}, flags: noFlags, noArtifacts: true, noIndex: true, converts: true},
		"docker-daemon": {name: func(_ *testing.T, image string) string {
			count++
			return "docker-daemon:example.com/" + image + string(rune('a'+count%26)) + string(rune('a'+count/26)) + ":v1"
		}, flags: func(side string) []string { return []string{"--" + side + "-daemon-host", daemon} }, skopeo: []string{"--daemon-host", daemon},
			noArtifacts: true, noIndex: true, converts: true},
	}
}

func layoutOf(t *testing.T, content conformance.Content) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	l, err := oci.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conformance.Fill(t, l, content)
	return dir
}

// configOf is the digest of the config that skopeo finds in a layout, for this machine.
func configOf(t *testing.T, layout, tag string) digest.Digest {
	return (&matrixPlace{}).raw(t, "oci:"+layout+":"+tag, "--config")
}

// raw is what skopeo reads of an image: the manifest or, with --config, the config.
func (p *matrixPlace) raw(t *testing.T, name string, args ...string) digest.Digest {
	t.Helper()
	args = slices.Concat([]string{"inspect", "--raw"}, args, p.skopeo, []string{name})
	out, err := exec.Command("skopeo", args...).Output()
	if err != nil {
		t.Errorf("skopeo %q: %v", args, err)
	}
	return digest.FromBytes(out)
}

// skopeoReads are the transports that Debian's skopeo reads as they were written. It knows no ostree:, and takes a docker archive's
// or an engine's manifest for one that it makes.
func skopeoReads(kind string) bool {
	return !slices.Contains([]string{"ostree", "docker-archive", "docker-daemon"}, kind)
}

// TestMatrix copies an image for one platform, one for two, and an artifact from each place to each.
func TestMatrix(t *testing.T) {
	needProgram(t, "skopeo")
	images, artifacts := conformance.Images("single", true), conformance.NewContent()
	layouts := map[string]string{"single": layoutOf(t, images), "artifact": layoutOf(t, artifacts)}
	layouts["multi"] = layouts["single"]
	places := matrixPlaces(t)
	roots := map[string]digest.Digest{"single": images.Image.Digest, "multi": images.Index.Digest, "artifact": artifacts.Artifact.Digest}
	for image, root := range roots {
		layout, config := layouts[image], digest.Digest("")
		if image != "artifact" {
			config = configOf(t, layout, image)
		}
		for kind, from := range places {
			if image == "artifact" && from.noArtifacts || image == "multi" && from.noIndex {
				continue
			}
			t.Run(image+" from "+kind, func(t *testing.T) {
				name := from.name(t, image)
				regfs(t, 0, slices.Concat([]string{"copy", "-q"}, from.flags("dest"), []string{"oci:" + layout + "@" + root.String(), name})...)
				for toKind, to := range places {
					t.Run("to "+toKind, func(t *testing.T) {
						c := matrixCopy{image: image, root: root, config: config, from: from, to: to, kind: toKind}
						c.run(t, name)
					})
				}
			})
		}
	}
}

// matrixCopy is one copy of the matrix.
type matrixCopy struct {
	image        string
	root, config digest.Digest // what it is, and the config of the image for this machine
	from, to     *matrixPlace
	kind         string // of to
}

// run copies an image on, and compares what comes.
func (c *matrixCopy) run(t *testing.T, name string) {
	at := c.to.name(t, c.image)
	args := slices.Concat([]string{"copy"}, c.from.flags("src"), c.to.flags("dest"), []string{name, at})
	if c.image == "artifact" && c.to.noArtifacts {
		if said := regfs(t, 1, args...); !strings.Contains(said, "not supported") {
			t.Errorf("an artifact is refused, but for what reason? %s", said)
		}
		return
	}
	said := regfs(t, 0, args...)
	result := strings.Fields(said[strings.LastIndex(said, "copied "):])[1]
	if exact := !c.from.converts && !(c.image == "multi" && c.to.noIndex); exact && result != c.root.String() {
		t.Errorf("it became %s, and was %s", result, c.root)
	}
	if skopeoReads(c.kind) {
		if got := c.to.raw(t, at); got.String() != result {
			t.Errorf("skopeo finds %s at %s, which regfs says is %s", got, at, result)
		}
	}
	if c.image != "artifact" && c.kind != "ostree" {
		if got := c.to.raw(t, at, "--config"); got != c.config {
			t.Errorf("skopeo finds the config %s, want %s", got, c.config)
		}
	}
}
