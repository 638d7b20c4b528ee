package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestEndsOfAMount(t *testing.T) {
	needFUSE(t)
	for name, end := range map[string]func(*sandbox, int) error{
		"regfs umount": func(s *sandbox, _ int) error { s.must("umount", s.mnt); return nil },
		"fusermount3":  func(s *sandbox, _ int) error { return exec.Command("fusermount3", "-u", s.mnt).Run() },
		"SIGTERM":      func(_ *sandbox, pid int) error { return syscall.Kill(pid, syscall.SIGTERM) },
		"SIGINT":       func(_ *sandbox, pid int) error { return syscall.Kill(pid, syscall.SIGINT) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.must("mount", s.mnt)
			s.wantMounted(s.mnt, fsType)
			pid := s.pid(s.mnt)
			if sid, err := unix.Getsid(pid); err != nil || sid != pid {
				t.Errorf("the daemon %d is in the session %d, %v", pid, sid, err)
			}
			if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
				t.Errorf("the daemon keeps %s in use, %v", cwd, err)
			}
			if err := end(s, pid); err != nil {
				t.Fatal(err)
			}
			s.waitGone(pid)
			s.wantMounted(s.mnt, "")
			log, err := os.ReadFile(s.dir + "/log")
			if err != nil || !bytes.HasSuffix(log, []byte("msg=unmounted\n")) {
				t.Errorf("%v, and the log says:\n%s", err, log)
			}
			s.must("mount", s.mnt)
			s.must("umount", s.mnt)
		})
	}
}

// TestLogRotation: SIGHUP opens the log anew, and the mount stays.
func TestLogRotation(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	s.must("mount", s.mnt)
	pid := s.pid(s.mnt)
	if err := os.Rename(s.dir+"/log", s.dir+"/log.1"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(s.dir + "/log"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no new log")
		}
	}
	s.wantMounted(s.mnt, fsType)
	s.must("umount", s.mnt)
	s.waitGone(pid)
	if log, err := os.ReadFile(s.dir + "/log"); err != nil || !bytes.HasSuffix(log, []byte("msg=unmounted\n")) {
		t.Errorf("%v, and the new log says:\n%s", err, log)
	}
}

// foreground starts regfs as a service manager does, and returns when it said that it is ready.
func (s *sandbox) foreground() (*exec.Cmd, *net.UnixConn) {
	s.Helper()
	socket := filepath.Join(s.dir, "notify")
	os.Remove(socket)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	cmd := s.command("mount", "--foreground", s.mnt)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket)
	cmd.Stderr = new(bytes.Buffer)
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.wantNotice(conn, "READY=1")
	return cmd, conn
}

func (s *sandbox) wantNotice(conn *net.UnixConn, want string) {
	s.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	p := make([]byte, 100)
	if n, err := conn.Read(p); err != nil || string(p[:n]) != want {
		s.Fatalf("the service manager got %q, %v; want %s", p[:n], err, want)
	}
}

func TestForeground(t *testing.T) {
	needFUSE(t)
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		s := newSandbox(t)
		cmd, conn := s.foreground()
		if _, err := os.ReadDir(s.mnt); err != nil {
			t.Error(err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		s.wantNotice(conn, "STOPPING=1")
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: %v\n%s", sig, err, cmd.Stderr)
		}
		s.wantMounted(s.mnt, "")
		if _, err := os.Stat(s.dir + "/log"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a log file beside stderr: %v", err)
		}
	}
}

func TestBusy(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	cmd, _ := s.foreground()
	user, err := os.Open(s.mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	s.wantError("busy", "umount", s.mnt)
	s.wantError("busy, a regfs is mounted there", "mount", s.mnt)
	s.wantMounted(s.mnt, fsType)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("a busy mount and SIGTERM: %v", err)
	}
	s.wantMounted(s.mnt, "")
	if log := fmt.Sprint(cmd.Stderr); !strings.Contains(log, "in use") {
		t.Errorf("the log does not say that the mount was in use:\n%s", log)
	}
}

func TestNobodyWaits(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	cmd := s.command("mount", s.mnt)
	cmd.Env = append(cmd.Env, daemonVariable+"=1")
	cmd.ExtraFiles = []*os.File{w}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	s.wantMounted(s.mnt, "")
}

func TestCrash(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	for _, next := range []string{"mount", "umount", ""} {
		s.must("mount", s.mnt)
		pid := s.pid(s.mnt)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.waitGone(pid)
		s.wantMounted(s.mnt, fsType)
		if next == "mount" {
			s.must("mount", s.mnt)
			s.pid(s.mnt)
		}
		if next != "" {
			s.must("umount", s.mnt)
		}
	}
	s.must("mount", s.mnt)
	s.must("umount", s.mnt)
	s.wantMounted(s.mnt, "")
}

func TestReasonsNotToMount(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	file := filepath.Join(s.dir, "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o644), os.Symlink("loop", filepath.Join(s.dir, "loop"))); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ words, args string }{
		{"mount file: not a directory: a mountpoint is an existing folder", "file"},
		{"mount gone: does not exist: make it first", "gone"},
		{"mount gone/deep: does not exist: make it first", "gone/deep"},
		{"mount file/below: not a directory", "file/below"},
		{"mount loop: too many levels of symbolic links", "loop"},
		{"is inside the mount: choose another with --cache-dir", "--cache-dir=mnt/cache mnt"},
		{"log file: open " + file + "/log: not a directory: choose another with --log-file", "--log-file=file/log mnt"},
		{"cache", "--cache-dir=file mnt"},
		{"mount /proc: the system needs what is there", "/proc"},
		{"mount /: the system needs what is there", "/"},
		{"flux_capacitor", "-o flux_capacitor mnt"},
	} {
		s.wantError(test.words, append([]string{"mount"}, strings.Fields(test.args)...)...)
		s.wantMounted(s.mnt, "")
	}
}

// TestAsUser runs these tests once more, as somebody who is not root and mounts through fusermount3.
func TestAsUser(t *testing.T) {
	needFUSE(t)
	needProgram(t, "setpriv")
	if os.Geteuid() != 0 {
		t.Skip("no root: that is what all tests here are run as")
	}
	dir, err := os.MkdirTemp("", "regfs-user")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	// In a mount namespace of its own, which ends with it, everybody may use /dev/fuse.
	script := `set -e; cp "$1" regfs.test; chmod -R a+rX .; mkdir home; chown 65534:65534 home
		mknod fuse c 10 229; chmod 666 fuse; mount --bind fuse /dev/fuse
		CI=1 HOME=$PWD/home TMPDIR=$PWD/home exec setpriv --reuid=65534 --regid=65534 --clear-groups "$PWD/regfs.test" -test.v -test.timeout=2m`
	cmd := exec.Command("sh", "-c", script, "sh", os.Args[0])
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestUserMayNot(t *testing.T) {
	needFUSE(t)
	if os.Geteuid() == 0 {
		t.Skip("root may: TestAsUser runs this as somebody else")
	}
	s := newSandbox(t)
	if conf, _ := os.ReadFile("/etc/fuse.conf"); !hasLine(string(conf), "user_allow_other") {
		s.wantError("ask for the line user_allow_other in /etc/fuse.conf", "mount", "--allow-other", s.mnt)
	}
	if err := os.Chmod(s.mnt, 0o555); err != nil {
		t.Fatal(err)
	}
	s.wantError("you may not write to the folder", "mount", s.mnt)
	t.Setenv("PATH", s.dir)
	s.wantError("no fusermount3 here", "mount", s.mnt)
}

func TestReasonsNotToUnmount(t *testing.T) {
	s := newSandbox(t)
	s.wantError("umount mnt: nothing is mounted there", "umount", "mnt")
	s.wantError("umount gone: does not exist", "umount", "gone")
	s.wantError("umount /proc: what is mounted there is a proc and no regfs", "umount", "/proc")
}

func TestTwoAtOnce(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	var wg sync.WaitGroup
	codes := make([]int, 6)
	for i := range codes {
		wg.Go(func() {
			out, code := s.run("mount", s.mnt)
			if codes[i] = code; code != 0 && !strings.Contains(out, "busy") {
				t.Errorf("exit %d: %s", code, out)
			}
		})
	}
	wg.Wait()
	if n := bytes.Count(fmt.Append(nil, codes), []byte("0")); n != 1 {
		t.Errorf("of mounts at once %d worked: %v", n, codes)
	}
	s.must("umount", s.mnt)
	s.wantMounted(s.mnt, "")
}

func TestOddMountpoints(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	if err := os.Symlink("mnt", filepath.Join(s.dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, arg := range []string{"mnt", "./mnt//", "../" + filepath.Base(s.dir) + "/mnt/", "link", "link/"} {
		s.must("mount", arg)
		s.wantMounted(s.mnt, fsType)
		s.wantError("busy", "mount", s.mnt)
		s.must("umount", arg)
		s.wantMounted(s.mnt, "")
	}
	for _, name := range []string{"my registries", "tab\tand\nline", `back\slash\040`, "ünï", "-dash", "#hash", "a,b"} {
		path := filepath.Join(s.dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.clear(path) })
		s.must("mount", path)
		s.wantMounted(path, fsType)
		s.must("umount", path)
		s.wantMounted(path, "")
	}
}

func TestMountOptions(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	s.must("mount", "-o", "ro,noatime,noexec", s.mnt)
	defer s.must("umount", s.mnt)
	var st unix.Statfs_t
	if err := unix.Statfs(s.mnt, &st); err != nil {
		t.Fatal(err)
	}
	if want := int64(unix.ST_RDONLY | unix.ST_NOATIME | unix.ST_NOEXEC | unix.ST_NOSUID | unix.ST_NODEV); st.Flags&want != want {
		t.Errorf("mounted with the flags %#x, want %#x", st.Flags, want)
	}
	if err := os.Mkdir(filepath.Join(s.mnt, "new"), 0o755); !errors.Is(err, unix.EROFS) {
		t.Errorf("mkdir on a read-only mount: %v", err)
	}
}

// BenchmarkMount measures from the start of the process to the usable mount, and back.
func BenchmarkMount(b *testing.B) {
	needFUSE(b)
	s := newSandbox(b)
	for b.Loop() {
		s.must("mount", s.mnt)
		if _, err := os.ReadDir(s.mnt); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.must("umount", s.mnt)
		b.StartTimer()
	}
}
