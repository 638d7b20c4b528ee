package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// fsType is the type that a mount of regfs has in /proc/self/mountinfo.
const fsType = "fuse.regfs"

// maxLinks is how many symbolic links one after the other a path may have, as in the kernel.
const maxLinks = 40

// resolve makes path absolute and free of symbolic links, the form that mounts are listed in. It never asks the filesystem that
// is mounted there, which may be dead.
func resolve(path string) (string, error) {
	for range maxLinks {
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			return "", withoutOptions(err)
		}
		abs = filepath.Join(dir, filepath.Base(abs))
		path, err = os.Readlink(abs)
		if errors.Is(err, unix.EINVAL) {
			return abs, nil
		}
		if err != nil {
			return "", withoutOptions(err)
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
	}
	return "", unix.ELOOP
}

// withoutOptions is an error of the os package without its own mention of operation and path, where that goes without saying.
func withoutOptions(err error) error {
	var pathError *os.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("does not exist: make it first, with 'mkdir -p'")
	}
	return err
}

// mountAt is the type of the filesystem mounted on the folder path, the uppermost one, or "".
func mountAt(path string) (string, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != path, false })
	if err != nil || len(mounts) == 0 {
		return "", err
	}
	return mounts[len(mounts)-1].FSType, nil
}

// prepare clears away what a crash left at the mountpoint, and finds out by name what would keep a mount from working.
func prepare(c *config) error {
	if slices.Contains([]string{"/", "/dev", "/proc", "/sys"}, c.mountpoint) {
		return errors.New("the system needs what is there: choose another folder")
	}
	if err := clearDead(c.mountpoint); err != nil {
		return err
	}
	if err := checkFolder(c.mountpoint); err != nil {
		return err
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return errors.New("no /dev/fuse here: load the kernel's module ('modprobe fuse'), or give the container the device ('--device /dev/fuse')")
	}
	if os.Geteuid() == 0 {
		return nil
	}
	return checkUser(c)
}

// allMounts are the mountpoints of all that regfs has mounted.
func allMounts() ([]string, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.FSType != fsType, false })
	var all []string
	for _, m := range mounts {
		all = append(all, m.Mountpoint)
	}
	return all, err
}

// clearDead unmounts a regfs whose daemon is gone. A live one is an error.
func clearDead(path string) error {
	for {
		mounted, err := mountAt(path)
		if err != nil || mounted != fsType {
			return err
		}
		if !isDead(path) {
			return fmt.Errorf("busy, a regfs is mounted there: end it first, with 'regfs umount %s'", path)
		}
		if err := unmount(path, true); err != nil {
			return fmt.Errorf("clear the dead mount a crash left: %w", err)
		}
	}
}

// isDead tells whether nobody serves the mount. One that does not answer in time is not dead: somebody still could.
func isDead(path string) bool {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t // of all calls, the one that the kernel never answers from memory
		answer <- unix.Statfs(path, &st)
	}()
	select {
	case err := <-answer:
		return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
	case <-time.After(2 * time.Second):
		return false
	}
}

func checkFolder(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return withoutOptions(err)
	}
	if !info.IsDir() {
		return errors.New("not a directory: a mountpoint is an existing folder")
	}
	return nil
}

// checkUser looks for what fusermount3 would refuse to somebody who is not root, which it says to nobody but the log.
func checkUser(c *config) error {
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return errors.New("no fusermount3 here, which mounts for those who are not root: install the package fuse3")
	}
	if err := unix.Access("/dev/fuse", unix.R_OK|unix.W_OK); err != nil {
		return fmt.Errorf("/dev/fuse: %w: ask for 'chmod 666 /dev/fuse', or mount as root", err)
	}
	if unix.Access(c.mountpoint, unix.W_OK) != nil {
		return errors.New("you may not write to the folder, so you may not mount there: choose one of yours")
	}
	if conf, err := os.ReadFile("/etc/fuse.conf"); c.allowOther && (err != nil || !hasLine(string(conf), "user_allow_other")) {
		return errors.New("allow_other is not allowed to you: ask for the line user_allow_other in /etc/fuse.conf")
	}
	return nil
}

func hasLine(text, want string) bool {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == want {
			return true
		}
	}
	return false
}

// lock keeps others from mounting at path until it is released. It fails when a regfs has mounted or is mounting there.
func lock(path string) (release func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, withoutOptions(err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errors.New("busy, another regfs is just mounting there")
	} else {
		err = clearDead(path) // a filesystem without locks is no reason not to mount on it
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f.Close, nil
}

// unmount ends the mount at path, which may be dead. Lazily means that it vanishes now, and ends when its last user leaves it.
// EBUSY if it has users and is not to be ended lazily.
func unmount(path string, lazily bool) error {
	if os.Geteuid() == 0 {
		flags := unix.UMOUNT_NOFOLLOW
		if lazily {
			flags |= unix.MNT_DETACH
		}
		return unix.Unmount(path, flags)
	}
	args := []string{"-u", path}
	if lazily {
		args = []string{"-u", "-z", path}
	}
	out, err := exec.Command("fusermount3", args...).CombinedOutput()
	switch {
	case err == nil:
		return nil
	case bytes.Contains(out, []byte("busy")):
		return unix.EBUSY
	case len(out) > 0:
		return errors.New(strings.TrimSpace(string(out)))
	}
	return fmt.Errorf("fusermount3: %w", err)
}
