//go:build linux

package mount_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// TestPodmanRuns runs a container on a root file system that nobody unpacked. What it writes goes to an overlay of its own.
func TestPodmanRuns(t *testing.T) {
	needRoot(t)
	registries.Program(t, "podman")
	dir := t.TempDir()
	const script = `cd "$1"
		mkdir -p root/etc root/bin
		cp -L --parents $(ldd /bin/cat /bin/dash | grep -o '/[^ :]*' | sort -u) root
		cp -L /bin/cat root/bin; cp -L /bin/dash root/bin/sh
		echo original > root/etc/greeting
		tar -C root --owner=0 --group=0 -cf shell.tar .`
	if err := shell(t.Context(), script, dir); err != nil {
		t.Fatal(err)
	}
	made, err := writeLayouts(t.Context(), dir, packed{tar: filepath.Join(dir, "shell.tar"), packing: gzipped})
	if err != nil {
		t.Fatal(err)
	}
	r := registries.Docker(t, registries.Config{})
	r.PushImage(t, "real/shell:v1", imageIn(t, made.pushed, "v1"))
	m := mounted.New(t, mounted.Options{})

	root := m.At(r.Host, "real/shell/tags/v1/rootfs")
	// podman takes what follows a colon for an option, so the way there must have none.
	t.Cleanup(m.Unmount)
	t.Chdir(filepath.Dir(root))
	out := runPodman(t, "rootfs:O", "/bin/sh", "-c", "cat /etc/greeting; echo changed > /etc/greeting; cat /etc/greeting")
	if diff := cmp.Diff("original\nchanged\n", out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := run(t, "cat", root+"/etc/greeting"); got != "original\n" {
		t.Errorf("the layer's file is %q now", got)
	}
}

// runPodman runs a container without a network and limits. It does so where no control groups of the first version are mounted: crun
// refuses a mixture of both versions, which some machines have.
func runPodman(t *testing.T, rootfs string, command ...string) string {
	t.Helper()
	state, err := os.MkdirTemp("", "") // podman refuses the long names of t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	args := append(strings.Fields(`--mount --propagation private sh -c`), `mount -t cgroup2 none /sys/fs/cgroup && exec podman "$@"`, "sh",
		"--root", state+"/root", "--runroot", state+"/run", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
		"run", "--rm", "--network", "none", "--cgroups", "disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--rootfs", rootfs)
	return run(t, "unshare", append(args, command...)...)
}
