package registries_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regfs/regfs/tests/registries"
)

// TestEngineEnds with all that it started, and leaves no file of its own, nor anything mounted.
func TestEngineEnds(t *testing.T) {
	registries.Program(t, "dockerd")
	var socket string
	code := registries.Main(func(t registries.TB) {
		e := registries.DockerEngine(t)
		socket = strings.TrimPrefix(e.Host, "unix://")
		if out := e.Docker(t, "images", "--quiet"); out != "" {
			t.Fatalf("there are images: %s", out)
		}
	})
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if _, err := net.Dial("unix", socket); err == nil {
		t.Error("it still listens")
	}
	if _, err := os.Stat(filepath.Dir(socket)); !os.IsNotExist(err) {
		t.Errorf("its folder is left: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), filepath.Dir(socket)) {
		t.Errorf("something is mounted there: %v", err)
	}
}
