// Demo shows a mounted registry: make demo runs it, on a registry inside this process, and leaves nothing behind.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/partial"

	"github.com/regfs/regfs/tests/daemon"
	"github.com/regfs/regfs/tests/registries"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: [KEEP=1] demo REGFS")
		os.Exit(2)
	}
	os.Exit(registries.Main(func(t registries.TB) { demo(t, os.Args[1], os.Getenv("KEEP") != "") }))
}

// demo mounts with the program given, shows the tour and, with keep, stays mounted until the context ends.
func demo(t registries.TB, program string, keep bool) {
	isolate(t)
	registry := registries.Memory(t)
	fill(t, registry)
	out := t.TempDir()
	d := daemon.Mount(t, program, t.TempDir())

	fmt.Printf("A registry is running at %s. It is mounted at %s.\n\n", registry.Host, d.Path)
	g := &guide{t: t, dir: filepath.Join(d.Path, registry.Host), env: append(os.Environ(), "OUT="+out)}
	fmt.Printf("$ cd %s\n$ OUT=%s\n", g.dir, out)
	for _, stop := range tour {
		g.show(stop)
	}
	if keep {
		fmt.Printf("\nStill mounted: look around in %s. Ctrl-C unmounts it.\n", g.dir)
		<-t.Context().Done()
		fmt.Println()
	}
	if err := d.Unmount(); err != nil {
		t.Fatalf("%v", err)
	}
	fmt.Println("\nUnmounted. Nothing is left behind.")
}

// isolate keeps the demo from the user's credentials and registries.conf, which are not for this registry.
func isolate(t registries.TB) {
	dir := t.TempDir()
	for variable, content := range map[string]string{"REGISTRY_AUTH_FILE": "{}", "CONTAINERS_REGISTRIES_CONF": ""} {
		path := filepath.Join(dir, variable)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatalf("%v", err)
		}
		os.Setenv(variable, path)
	}
}

// fill puts an image for three platforms with a bill of materials, and an artifact, into the registry.
func fill(t registries.TB, r *registries.Registry) {
	index, err := partial.Descriptor(r.PushIndex(t, "team/hello:v1", "1.0"))
	if err != nil {
		t.Fatalf("%v", err)
	}
	r.PushIndex(t, "team/hello:v2", "2.0")
	r.PushSBOM(t, "team/hello", *index)
	r.PushArtifact(t, "team/docs:latest")
}

// guide runs the tour's commands.
type guide struct {
	t   registries.TB
	dir string
	env []string
}

// show prints what is to be seen, the command that shows it, and what that prints. The tour ends at one that fails.
func (g *guide) show(s stop) {
	if s.says != "" {
		fmt.Printf("\n# %s\n", s.says)
	}
	fmt.Printf("$ %s\n", s.command)
	if missing := s.missing(); missing != "" {
		fmt.Printf("(there is no %s on this machine)\n", missing)
		return
	}
	cmd := exec.CommandContext(g.t.Context(), "sh", "-c", s.command)
	cmd.Dir, cmd.Env, cmd.Stderr = g.dir, g.env, os.Stderr
	out, err := cmd.Output()
	os.Stdout.Write(out)
	if len(out) > 0 && !strings.HasSuffix(string(out), "\n") {
		fmt.Println()
	}
	if err != nil {
		g.t.Fatalf("%s: %v", s.command, err)
	}
}
