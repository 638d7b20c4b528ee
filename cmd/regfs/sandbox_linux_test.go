package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needFUSE skips a test that mounts where nobody can, but on CI, where that is a failure.
func needFUSE(t testing.TB) {
	t.Helper()
	need(t, unix.Access("/dev/fuse", unix.R_OK|unix.W_OK))
	needProgram(t, "fusermount3")
}

func needProgram(t testing.TB, name string) {
	t.Helper()
	_, err := exec.LookPath(name)
	need(t, err)
}

func need(t testing.TB, err error) {
	t.Helper()
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("this machine can't run the test: %v", err)
	}
	if err != nil {
		t.Skipf("this machine can't run the test: %v", err)
	}
}

// sandbox is a folder to mount in, and what a daemon keeps.
type sandbox struct {
	testing.TB
	dir string
	mnt string
}

func newSandbox(t testing.TB) *sandbox {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	s := &sandbox{TB: t, dir: dir, mnt: filepath.Join(dir, "mnt")}
	if err := errors.Join(err, os.Mkdir(s.mnt, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.clear(s.mnt) })
	return s
}

// clear takes down whatever a failed test left mounted.
func (s *sandbox) clear(path string) {
	for {
		if mounted, err := mountAt(path); err != nil || mounted == "" || unmount(path, true) != nil {
			return
		}
	}
}

func (s *sandbox) command(args ...string) *exec.Cmd {
	if args[0] == "mount" {
		args = append([]string{"mount", "--cache-dir", s.dir + "/cache", "--stage-dir", s.dir + "/stage", "--log-file", s.dir + "/log"}, args[1:]...)
	}
	cmd := exec.Command(os.Args[0], args...)
	// Under the race detector a process would stay a second after its end.
	cmd.Env = append(os.Environ(), asRegfs+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	cmd.Dir = s.dir
	return cmd
}

// run is what regfs says and how it exits.
func (s *sandbox) run(args ...string) (string, int) {
	s.Helper()
	cmd := s.command(args...)
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		s.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must runs what has to work, and in silence.
func (s *sandbox) must(args ...string) {
	s.Helper()
	if out, code := s.run(args...); code != 0 || out != "" {
		log, _ := os.ReadFile(s.dir + "/log")
		s.Fatalf("regfs %q: exit %d\n%s%s", args, code, out, log)
	}
}

// wantError runs what has to fail, with one line that has these words in it.
func (s *sandbox) wantError(words string, args ...string) {
	s.Helper()
	out, code := s.run(args...)
	if code != 1 || strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "regfs: ") || !strings.Contains(out, words) {
		s.Errorf("regfs %q: exit %d and %q, want 1 and %q", args, code, out, words)
	}
}

// pid is the process that serves a mount.
func (s *sandbox) pid(mnt string) int {
	s.Helper()
	var status struct{ PID int }
	data, err := os.ReadFile(filepath.Join(mnt, ".regfs/status.json"))
	if err := errors.Join(err, json.Unmarshal(data, &status)); err != nil {
		s.Fatal(err)
	}
	return status.PID
}

// waitGone waits until a process has ended; nobody may have asked for its end yet.
func (s *sandbox) waitGone(pid int) {
	s.Helper()
	s.eventually(fmt.Sprintf("process %d ends", pid), func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(stat, []byte(") Z "))
	})
}

func (s *sandbox) eventually(what string, is func() bool) {
	s.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("not in ten seconds: %s", what)
		}
	}
}

func (s *sandbox) wantMounted(path, want string) {
	s.Helper()
	if mounted, err := mountAt(path); err != nil || mounted != want {
		s.Errorf("at %s is mounted %q, %v; want %q", path, mounted, err, want)
	}
}
