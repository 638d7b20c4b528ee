//go:build linux

package mount_test

import (
	"os"
	"strings"
	"testing"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// TestPodmanPushes: podman writes its images into the mount, as layouts of both kinds it knows, and the image is the same.
func TestPodmanPushes(t *testing.T) {
	registries.Program(t, "podman")
	r := registries.Docker(t, registries.Config{})
	r.PushImage(t, "team/app:v1", registries.Image(t, registries.Platforms[0], "1"))
	m := mounted.New(t, mounted.Options{})
	state, err := os.MkdirTemp("", "") // podman refuses the long names of t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	for name, script := range map[string]string{
		"push": `podman push "$id" oci:oci-layout:v1`,
		"save": `podman save --format oci-dir --output oci-layout "$id"`,
	} {
		t.Run(name, func(t *testing.T) {
			repository := "from-podman/" + name
			run(t, "mkdir", m.At(r.Host, repository, "tags/v1"))
			inShell(t, `archive=$1 folder=$2 state=$3; podman() { command podman --root "$state/root" --runroot "$state/run" --storage-driver vfs "$@"; }
				podman load < "$archive"; id=$(podman images --quiet); cd "$folder"; `+script,
				m.At(r.Host, "team/app/tags/v1/archive.oci.tar"), m.At(r.Host, repository, "tags/v1"), state)
			run(t, "cmp", m.At(r.Host, repository, "tags/v1/config.json"), m.At(r.Host, "team/app/tags/v1/config.json"))
			if got := strings.Fields(run(t, "ls", m.At(r.Host, repository, "tags/v1/layers"))); len(got) != 2 {
				t.Errorf("it has the layers %v", got)
			}
			wantNothingStaged(t, m, r, repository)
			wantState(t, m, r.Host, repository, "v1", stage.Pushed)
		})
	}
}
