package engine_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/engine"
	"github.com/regfs/regfs/tests/registries"
)

// TestPodman is another engine that speaks the API.
func TestPodman(t *testing.T) {
	p := startPodman(t)
	e, err := engine.Open(engine.Options{Host: "unix://" + p.socket, TempDir: t.TempDir()})
	must(t, err)
	defer e.Close()
	src, sink := (&real{engine: e}).repository(t, "podman")
	layer := gzipped(t, tarOf(t, map[string]string{"hello": "podman"}))
	c := put(t, sink, "v1", v1.ImageConfig{User: "podman"}, layer)
	put(t, sink, "v2", v1.ImageConfig{User: "podman"}, layer)
	want(t, "podman images", p.run(t, "images", "--no-trunc", "--quiet", "example.com/podman:v1"), c.Digest.String())
	want(t, "tags", tags(t, src), []string{"v1", "v2"})
	d, raw, err := src.Manifest(t.Context(), "v1")
	must(t, err)
	m, err := image.ParseManifest(d.MediaType, raw)
	must(t, err)
	want(t, "config", m.Config.Digest, c.Digest)
	want(t, "layer", m.Layers[0].Digest, describe("", layer.plain).Digest)
	must(t, sink.Delete(t.Context(), "v1"))
	want(t, "tags", tags(t, src), []string{"v2"})
	must(t, sink.Delete(t.Context(), d.Digest.String()))
	want(t, "podman images", p.run(t, "images", "--quiet"), "")
}

// podman is its program with a store of the test's own.
type podman struct{ program, dir, socket string }

func (p *podman) command(arg ...string) *exec.Cmd {
	store := []string{"--root", p.dir + "/root", "--runroot", p.dir + "/run", "--tmpdir", p.dir + "/tmp", "--storage-driver", "vfs"}
	return exec.Command(p.program, append(store, arg...)...)
}

func (p *podman) run(t *testing.T, arg ...string) string {
	t.Helper()
	out, err := p.command(arg...).CombinedOutput()
	if err != nil {
		t.Fatalf("podman %s: %v\n%s", strings.Join(arg, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// startPodman lets it serve its store.
func startPodman(t *testing.T) *podman {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &podman{registries.Program(t, "podman"), dir, filepath.Join(dir, "sock")}
	service := p.command("system", "service", "--time", "0", "unix://"+p.socket)
	must(t, service.Start())
	exited := make(chan struct{})
	go func() { service.Wait(); close(exited) }()
	t.Cleanup(func() { service.Process.Kill(); <-exited })
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", p.socket); err == nil {
			conn.Close()
			return p
		}
	}
	t.Fatal("podman does not serve")
	return nil
}
