package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestDemoShowsItsTourAndLeavesNothing(t *testing.T) {
	cmd, tmp := demoCommand(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, s := range tour {
		if !strings.Contains(string(out), "\n$ "+s.command+"\n") {
			t.Errorf("the tour leaves out %q", s.command)
		}
	}
	leavesNothing(t, tmp)
}

func TestDemoStaysMountedUntilInterrupted(t *testing.T) {
	cmd, tmp := demoCommand(t)
	cmd.Env = append(cmd.Env, "KEEP=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kept := false
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), "Still mounted") {
			continue
		}
		mounts, err := filepath.Glob(filepath.Join(tmp, "*", "mnt", "127.0.0.1:*", "team", "hello", "tags", "v1", "digest"))
		kept = err == nil && len(mounts) == 1
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil || !kept {
		t.Errorf("mounted when it said so: %v, end: %v", kept, err)
	}
	leavesNothing(t, tmp)
}

func TestDemoFailsCleanly(t *testing.T) {
	cmd, tmp := demoCommand(t)
	// The tour's cp has nowhere to copy to.
	full := filepath.Join(t.TempDir(), "cp")
	if err := os.WriteFile(full, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(full)+":"+os.Getenv("PATH"))
	if err := cmd.Run(); !errors.As(err, new(*exec.ExitError)) {
		t.Errorf("a failing command ends the demo with %v", err)
	}
	leavesNothing(t, tmp)
}

// demoCommand builds regfs and the demo, to run with a folder for all temporary files.
func demoCommand(t *testing.T) (cmd *exec.Cmd, tmp string) {
	t.Helper()
	needFUSE(t)
	bin, tmp := t.TempDir(), t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/regfs/regfs/cmd/regfs", "github.com/regfs/regfs/tests/demo")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd = exec.CommandContext(t.Context(), filepath.Join(bin, "demo"), filepath.Join(bin, "regfs"))
	cmd.Env, cmd.Stderr = append(os.Environ(), "TMPDIR="+tmp, "KEEP="), t.Output()
	return cmd, tmp
}

func needFUSE(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("no /dev/fuse")
	}
	t.Skip("no /dev/fuse: the demo mounts")
}

// leavesNothing checks that no temporary file, and so no mount, is left.
func leavesNothing(t *testing.T, tmp string) {
	t.Helper()
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
