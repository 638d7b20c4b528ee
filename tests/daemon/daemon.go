// Package daemon runs the regfs program, mounted, for programs that show or measure it.
package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/regfs/regfs/tests/registries"
)

// Daemon is a mount and the process that serves it.
type Daemon struct {
	// Path is where the registries are mounted.
	Path string
	// PID is the process that serves them.
	PID int
	// Started is how long it took from the start of the command until a file of the mount had been read.
	Started time.Duration
	program string
	ended   bool
}

// Mount mounts with the program given, at a folder of its own. The cache is in cacheDir. The end of the test unmounts it.
func Mount(t registries.TB, program, cacheDir string, flags ...string) *Daemon {
	t.Helper()
	dir := t.TempDir()
	d := &Daemon{Path: filepath.Join(dir, "mnt"), program: program}
	if err := os.Mkdir(d.Path, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	args := append([]string{
		"mount", "--cache-dir", cacheDir, "--stage-dir", filepath.Join(dir, "stage"), "--log-file", filepath.Join(dir, "log"),
	}, flags...)
	begin := time.Now()
	out, err := exec.CommandContext(t.Context(), program, append(args, d.Path)...).CombinedOutput()
	t.Cleanup(func() {
		if err := d.Unmount(); err != nil {
			t.Logf("%v", err)
		}
	})
	if err != nil {
		t.Fatalf("regfs mount: %v\n%s", err, out)
	}
	if d.PID, err = d.pid(); err != nil {
		t.Fatalf("%v", err)
	}
	d.Started = time.Since(begin)
	return d
}

// pid asks the mount for the process that serves it.
func (d *Daemon) pid() (int, error) {
	raw, err := os.ReadFile(filepath.Join(d.Path, ".regfs", "status.json"))
	if err != nil {
		return 0, err
	}
	var status struct{ PID int }
	if err := json.Unmarshal(raw, &status); err != nil {
		return 0, fmt.Errorf("status.json: %w", err)
	}
	return status.PID, nil
}

// Unmount unmounts, and returns when the process has ended. It does so once; after that it does nothing.
func (d *Daemon) Unmount() error {
	if d.ended || d.PID == 0 {
		return nil
	}
	d.ended = true
	// Not on the test's context: this has to happen after its end too.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, d.program, "umount", d.Path).CombinedOutput(); err != nil {
		return fmt.Errorf("regfs umount: %w\n%s", err, out)
	}
	for running(d.PID) {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("regfs is unmounted and its process %d still runs", d.PID)
		}
	}
	return nil
}

// running tells whether a process that is no child of this one runs. Where nobody collects orphans it stays as a zombie.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}
