//go:build linux

package mount_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/tests/daemon"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// programEntries are programs of this machine, in bin/, and the libraries they need.
func programEntries(t *testing.T, mode int64, names ...string) []registries.TarEntry {
	var all []registries.TarEntry
	seen := map[string]bool{}
	add := func(from, to string, mode int64) {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if !seen[to] {
			all = append(all, registries.TarEntry{Header: tar.Header{Name: to, Mode: mode, ModTime: registries.Created}, Content: string(content)})
		}
		seen[to] = true
	}
	for _, name := range names {
		program := registries.Program(t, name)
		add(program, "bin/"+name, mode)
		for _, word := range strings.Fields(run(t, "ldd", program)) {
			if filepath.IsAbs(word) {
				add(word, word[1:], 0o755)
			}
		}
	}
	return all
}

// TestTreeRuns: programs are executed, and what they map is read, from a tree that nobody has read from yet.
func TestTreeRuns(t *testing.T) {
	r := registries.Memory(t)
	programs := programEntries(t, 0o755, "cat", "sh")
	pushLayers(t, r, "team/app:v1", registries.TarLayer(t, append(programs, treeEntries()...)...))
	m := mounted.New(t, mounted.Options{})
	root := m.At(r.Host, "team/app/tags/v1/rootfs")
	// Not from here: a Go program that starts one from a file system of its own can't serve it meanwhile.
	if out := run(t, "sh", "-c", `"$0/bin/sh" -c '"$0/bin/cat" "$0/etc/os-release"' "$0"; "$0/usr/bin/su"`, root); out != "ID=regfs\nsu\n" {
		t.Errorf("the programs printed %q", out)
	}
	for _, e := range programs {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), mapped+"="+root+"/"+e.Name)
		out, err := cmd.CombinedOutput()
		if want := digest.FromString(e.Content).String(); err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s mapped: %v, %s, not %s", e.Name, err, out, want)
		}
	}
}

// TestTreeChroot: a tree is a root folder, with and without devices and set-user-ID programs.
func TestTreeChroot(t *testing.T) {
	needRoot(t)
	r := registries.Memory(t)
	entries := append(programEntries(t, 0o755, "cat", "sh"), treeEntries()...)
	entries = append(entries, registries.TarEntry{Header: tar.Header{Name: "dev/zero", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 5}})
	for _, e := range programEntries(t, 0o4755, "id") {
		if e.Name == "bin/id" {
			e.Name = "bin/whoami" // it has the libraries of the others
			entries = append(entries, e)
		}
	}
	pushLayers(t, r, "team/app:v1", registries.TarLayer(t, entries...))
	for _, test := range []struct {
		options []string
		user    string // that a set-user-ID program of root's runs as
		device  error
	}{
		{nil, "65534\n", unix.EACCES},
		{[]string{"suid,dev"}, "0\n", nil},
	} {
		m := mounted.New(t, mounted.Options{AllowOther: true, MountOptions: test.options})
		for _, dir := range []string{m.Path, filepath.Dir(m.Path)} {
			if err := os.Chmod(dir, 0o755); err != nil && !errors.Is(err, unix.EPERM) {
				t.Fatal(err)
			}
		}
		root := m.At(r.Host, "team/app/tags/v1/rootfs")
		if out := run(t, "chroot", root, "/bin/sh", "-c", "cd /etc && cat link hard && echo *"); out != "ID=regfs\nID=regfs\nhard link os-release shadow\n" {
			t.Errorf("in the chroot: %q", out)
		}
		if out := run(t, "setpriv", "--reuid", "65534", "--clear-groups", "sh", "-c", `"$0" -u`, root+"/bin/whoami"); out != test.user {
			t.Errorf("with %v a program of root's runs as %q", test.options, out)
		}
		f, err := os.Open(root + "/dev/zero")
		if !errors.Is(err, test.device) {
			t.Errorf("with %v a device opens with %v", test.options, err)
		}
		if err == nil {
			if n, err := io.ReadFull(f, make([]byte, 100)); err != nil {
				t.Errorf("of the device were read %d bytes: %v", n, err)
			}
			f.Close()
		}
	}
}

// dropCaches has the kernel forget all names and inodes that nobody uses.
func dropCaches(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestTreeOverlay: overlayfs takes a tree as its lower folder, and it stays usable whatever the kernel forgets.
func TestTreeOverlay(t *testing.T) {
	needRoot(t)
	r := registries.Memory(t)
	pushLayers(t, r, "team/app:v1", registries.TarLayer(t, append(manyEntries(20, 20, "1"), treeEntries()...)...))
	m := mounted.New(t, mounted.Options{})
	dir := t.TempDir()
	for _, name := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// A colon would part lower folders: the one of the registry's port is in the way.
	lower := filepath.Join(dir, "lower")
	if err := os.Symlink(m.At(r.Host, "team/app/tags/v1/rootfs"), lower); err != nil {
		t.Fatal(err)
	}
	options := "lowerdir=" + lower + ",upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	merged := filepath.Join(dir, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	})
	// overlayfs numbers folders anew itself where it can't keep file handles, and the daemon has none that outlive it.
	look := func() string {
		return run(t, "sh", "-c", `cd "$0" && { find . ! -type d -printf '%p %y %m %n %s %i\n'; find . -type d -printf '%p %y %m %n\n'; } | sort`, merged)
	}
	before := look()
	open, err := os.Open(merged + "/usr/share/d001/f001")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for range 3 {
		dropCaches(t)
		run(t, "grep", "-rq", "version 1", merged)
		after := look()
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("after the caches were dropped: %s", diff)
		}
	}
	if b, err := io.ReadAll(open); err != nil || !strings.HasPrefix(string(b), "file 1 of folder 1") {
		t.Errorf("a file that was open: %q, %v", b, err)
	}
	run(t, "sh", "-c", `set -e; cd "$0"
		echo more >> etc/os-release; chmod 4711 usr/bin/su; rm etc/link; mv usr/share/d002/f000 usr/share/d003/moved
		rm -r usr/share/d004; mkdir usr/share/d004; echo new > usr/share/d004/new; chown 1:2 tmp`, merged)
	dropCaches(t)
	out := run(t, "sh", "-c", `cd "$0"; cat etc/os-release; stat -c '%a' usr/bin/su; cat usr/share/d003/moved; ls usr/share/d004; stat -c %u:%g tmp; ls usr/share | wc -l`, merged)
	want := "ID=regfs\nmore\n4711\nfile 0 of folder 2, version 1\nnew\n1:2\n20\n"
	if out != want {
		t.Errorf("after changes: %s", cmp.Diff(want, out))
	}
	if got := read(t, m, r.Host, "team/app/tags/v1/rootfs/etc/os-release"); got != "ID=regfs\n" {
		t.Errorf("the lower file is %q", got)
	}
}

// TestTreeStaysWithTheKernel: names, attributes, links, contents and lists that were asked for once need no daemon any more, nor do
// names that are missing. It is stopped, to prove that.
func TestTreeStaysWithTheKernel(t *testing.T) {
	r := registries.Memory(t)
	pushTree(t, r)
	d := daemon.Mount(t, build(t), t.TempDir(), "--insecure", r.Host)
	root, err := os.Open(filepath.Join(d.Path, r.Host, "team/tree/tags/v1/rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	etc, err := os.Open(filepath.Join(root.Name(), "etc"))
	if err != nil {
		t.Fatal(err)
	}
	defer etc.Close()
	again, err := os.Open(etc.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	file, err := os.Open(filepath.Join(etc.Name(), "os-release"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	look := func(dir *os.File) (all []string) {
		names, err := dir.Readdirnames(-1)
		all = append(all, strings.Join(sorted(names), " "))
		note := func(s string, e error) {
			if e != nil {
				s = e.Error()
			}
			all = append(all, s)
		}
		note("", err)
		buf := make([]byte, 100)
		n, e := unix.Pread(int(file.Fd()), buf, 0)
		note(string(buf[:n]), e)
		n, e = unix.Readlinkat(int(etc.Fd()), "link", buf)
		note(string(buf[:n]), e)
		var st unix.Stat_t
		note("there", unix.Fstatat(int(etc.Fd()), "shadow", &st, unix.AT_SYMLINK_NOFOLLOW))
		note("there", unix.Fstatat(int(etc.Fd()), "missing", &st, unix.AT_SYMLINK_NOFOLLOW))
		note("there", unix.Fstatat(int(root.Fd()), "usr/bin/su", &st, unix.AT_SYMLINK_NOFOLLOW))
		return all
	}
	first := look(etc)
	want := []string{"hard link os-release shadow", "", "ID=regfs\n", "../etc/os-release", "there", "no such file or directory", "there"}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("with the daemon: %s", diff)
	}
	if err := syscall.Kill(d.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := time.AfterFunc(20*time.Second, func() {
		t.Error("the kernel asked the daemon")
		syscall.Kill(d.PID, syscall.SIGCONT)
	})
	second := look(again)
	goOn.Stop()
	if err := syscall.Kill(d.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, second); diff != "" {
		t.Errorf("without the daemon: %s", diff)
	}
}
