//go:build linux

package mount_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// needRoot skips the test for who is not root, and fails it on CI.
func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		t.Fatal("this test needs root")
	default:
		t.Skip("this test needs root")
	}
}

// TestFullDisk: when the disk is full the write that finds no room says so, and the daemon goes on.
func TestFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{StageDir: dir})
	small, large := newPushed(t, "small", 1<<10), newPushed(t, "large", 5<<20)
	folder := m.At(r.Host, "team/full/tags/v1")
	stderr, err := large.cpTo(t, folder)
	saysErrno(t, stderr, err, syscall.ENOSPC)
	told(t, m, "write", "no space left")
	if got := tagged(t, r, "team/full", "v1"); got != "" {
		t.Errorf("the tag is %s", got)
	}
	at := folder + "/oci-layout/blobs/sha256/"
	if info, err := os.Stat(at + large.layer); err != nil || info.Size() == 0 || info.Size() > 2<<20 {
		t.Errorf("what found room is not there: %v, %v", info, err)
	}
	run(t, "rm", "-r", folder+"/oci-layout")
	small.mustPush(t, folder, m.Log)
	small.pulls(t, r.Host+"/team/full:v1")
}

// TestFullDiskOfNames: no name can be made either when the disk is full, what was written before stays, and is there at the next mount.
func TestFullDiskOfNames(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{StageDir: dir})
	img := newPushed(t, "names", 1<<10)
	at := img.begun(t, m.At(r.Host, "team/names/tags/v1"))
	_, _, err := try(t, "dd", "if=/dev/zero", "of="+dir+"/filler", "bs=4K", "status=none")
	if err == nil {
		t.Fatal("the disk does not fill")
	}
	for i := range 100 { // some have room in what is there already
		if err = os.Mkdir(at+"/folder"+strings.Repeat("x", 200)+fmt.Sprint(i), 0o755); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("mkdir: %v, not ENOSPC", err)
	}
	_, stderr, err := try(t, "cp", img.blob(img.layer), at+"/blobs/sha256/")
	saysErrno(t, stderr, err, syscall.ENOSPC)
	if err := os.Remove(dir + "/filler"); err != nil {
		t.Fatal(err)
	}
	m.Unmount()
	m = mounted.New(t, mounted.Options{StageDir: dir})
	at = m.At(r.Host, "team/names/tags/v1/oci-layout")
	for _, name := range []string{"oci-layout", "index.json", "blobs/sha256/" + img.manifest, "blobs/sha256/" + img.config} {
		run(t, "cmp", filepath.Join(img.dir, name), filepath.Join(at, name))
	}
	run(t, "cp", img.blob(img.layer), at+"/blobs/sha256/")
	img.pulls(t, r.Host+"/team/names:v1")
}

// change is something that is done to a mount, at a path.
type change struct {
	name string
	do   func(path string) error
}

var changes = []change{
	{"mkdir", func(p string) error { return os.Mkdir(p, 0o755) }},
	{"create", func(p string) error { return os.WriteFile(p, nil, 0o644) }},
	{"mknod", func(p string) error { return unix.Mknod(p, unix.S_IFREG|0o644, 0) }},
	{"symlink", func(p string) error { return os.Symlink("v1", p) }},
}

var changesOfFiles = []change{
	{"open", func(p string) error { return os.WriteFile(p, nil, 0o644) }},
	{"truncate", func(p string) error { return os.Truncate(p, 1) }},
	{"chmod", func(p string) error { return os.Chmod(p, 0o600) }},
	{"utimes", func(p string) error { return os.Chtimes(p, time.Unix(1, 0), time.Unix(1, 0)) }},
	{"chown", func(p string) error { return os.Chown(p, 1, 1) }},
	{"setxattr", func(p string) error { return unix.Setxattr(p, "user.x", []byte("x"), 0) }},
	{"unlink", func(p string) error { return syscall.Unlink(p) }},
	{"rename", func(p string) error { return os.Rename(p, p+".new") }},
	{"link", func(p string) error { return os.Link(p, p+".new") }},
}

// TestReadOnlyMount: nothing in a mount that is read-only can be changed, wherever.
func TestReadOnlyMount(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	r.PushIndex(t, "team/app:v1", "1")
	m := mounted.New(t, mounted.Options{ReadOnly: true})
	tag := m.At(r.Host, "team/app/tags/v1")
	refused := func(path string, all []change) {
		for _, c := range all {
			if err := c.do(path); !errors.Is(err, syscall.EROFS) {
				t.Errorf("%s %s: %v, not EROFS", c.name, path, err)
			}
		}
	}
	for _, dir := range []string{m.Path, m.At(r.Host, "team/app/tags"), tag, tag + "/oci-layout", tag + "/oci-layout/blobs/sha256", m.At(".regfs")} {
		refused(filepath.Join(dir, "v2"), changes)
	}
	for _, file := range []string{"digest", "index.json", "oci-layout/index.json", "oci-layout/oci-layout"} {
		refused(filepath.Join(tag, file), changesOfFiles)
	}
	if err := syscall.Rmdir(tag); !errors.Is(err, syscall.EROFS) {
		t.Errorf("rmdir of the tag: %v, not EROFS", err)
	}
	run(t, "cat", tag+"/oci-layout/index.json")
}

// TestKindsThatAreNone: what no image is made of can't be made, and says why in a way that programs know.
func TestKindsThatAreNone(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	img := newPushed(t, "kinds", 1<<10)
	at := img.begun(t, m.At(r.Host, "team/kinds/tags/v1"))
	file := at + "/index.json"
	for _, c := range []struct {
		what string
		err  error
		want syscall.Errno
	}{
		{"O_TMPFILE", tmpfile(at), syscall.EOPNOTSUPP},
		{"link", os.Link(file, at+"/link"), syscall.EPERM},
		{"symlink", os.Symlink("index.json", at+"/symlink"), syscall.EPERM},
		{"mkfifo", unix.Mkfifo(at+"/fifo", 0o644), syscall.EPERM},
		{"socket", unix.Mknod(at+"/socket", unix.S_IFSOCK|0o644, 0), syscall.EPERM},
		{"character device", unix.Mknod(at+"/null", unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))), syscall.EPERM},
		{"block device", unix.Mknod(at+"/loop", unix.S_IFBLK|0o644, int(unix.Mkdev(7, 0))), syscall.EPERM},
		{"exchange", unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, at+"/oci-layout", unix.RENAME_EXCHANGE), syscall.EINVAL},
		{"whiteout", unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, at+"/gone", unix.RENAME_WHITEOUT), syscall.EINVAL},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, not %v", c.what, c.err, c.want)
		}
	}
	if got := list(t, m, r.Host, "team/kinds/tags/v1/oci-layout"); len(got) != 3 {
		t.Errorf("there is %v", got)
	}
	run(t, "cp", img.blob(img.layer), at+"/blobs/sha256/")
	img.pulls(t, r.Host+"/team/kinds:v1")
}

func tmpfile(dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// TestOthersMayNotWrite: whoever else may look, only who mounted may write, for it is on his credentials.
func TestOthersMayNotWrite(t *testing.T) {
	needRoot(t)
	registries.Program(t, "setpriv")
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{AllowOther: true})
	if err := os.Chmod(filepath.Dir(m.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	img := newPushed(t, "others", 1<<10)
	tags := m.At(r.Host, "team/others/tags")
	img.mustPush(t, tags+"/v1", m.Log)
	img.begun(t, tags+"/v2")
	other := func(command string) (stderr string, err error) {
		_, stderr, err = try(t, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", command, "sh", tags)
		return stderr, err
	}
	for _, command := range []string{
		`cat "$1/v1/digest"`, `ls -R "$1/v1/oci-layout"`, `cat "$1/v1/oci-layout/index.json"`,
	} {
		if stderr, err := other(command); err != nil {
			t.Errorf("%s: %v\n%s", command, err, stderr)
		}
	}
	for _, command := range []string{
		`mkdir "$1/v3"`, `echo > "$1/v1/digest"`, `rm "$1/v1/oci-layout/index.json"`, `touch "$1/v2/oci-layout/index.json"`,
		`cp "$1/v1/oci-layout/index.json" "$1/v2/oci-layout/index.json"`, `mv "$1/v2/oci-layout/index.json" "$1/v2/oci-layout/gone"`,
		`truncate -s 0 "$1/v2/oci-layout/index.json"`, `chmod 777 "$1/v2/oci-layout/index.json"`, `ln -s v1 "$1/v3"`, `rmdir "$1/v2"`,
		`rm "$1/../../../../.regfs/pushes/"*"/team/others/v2.json"`,
	} {
		stderr, err := other(command)
		saysErrno(t, command+": "+stderr, err, syscall.EACCES)
	}
	run(t, "cp", img.blob(img.layer), tags+"/v2/oci-layout/blobs/sha256/")
	img.pulls(t, r.Host+"/team/others:v2")
}
