//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.podman.io/storage/pkg/lockfile"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/oci"
)

func init() {
	helpers["write"] = helpWrite
	helpers["lock"] = helpLock
	helpers["open"] = helpOpen
}

// start starts this program once more, to help, and waits until it says so.
func start(t *testing.T, help string, arg ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", arg...)
	cmd.Env = append(os.Environ(), helper+"="+help)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	said, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the helper said %q: %v", said, err)
	}
	return cmd
}

// helpWrite copies v1 of a layout into a store, and says when it begins.
func helpWrite(arg ...string) {
	ctx := context.Background()
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	s, err := Create(ctx, arg[0])
	check(err)
	h, err := s.Host("registry.test")
	check(err)
	k, err := h.Sink(ctx, within(repository))
	check(err)
	l, err := oci.Open(arg[1])
	check(err)
	d, err := l.Resolve(ctx, "v1")
	check(err)
	fmt.Println("writing")
	_, err = copy.Run(ctx, k, copy.From(l, image.Repository{}), d, copy.Options{Tags: []string{"v1"}})
	check(errors.Join(err, k.Close(), s.Close()))
}

// TestKilled: a writer that is killed at any time leaves no image, or all of it, and the next one makes it whole.
func TestKilled(t *testing.T) {
	var layers [][]byte
	for _, n := range []string{"a", "b"} {
		layers = append(layers, layer(t, file{name: n, content: strings.Repeat(n, 2e6)}))
	}
	img := makeImage(t, "x", layers...)
	dir := inLayout(t, img)
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			p := newPlace(t, driver)
			k, src := p.sink(t, repository), p.source(t, repository)
			for i := range 4 {
				cmd := start(t, "write", p.spec(), dir)
				time.Sleep(time.Duration(i*i*20) * time.Millisecond) // so that it is at another place each time
				must(t, cmd.Process.Kill())
				cmd.Wait()
				if _, err := src.Resolve(t.Context(), "v1"); err == nil {
					resolves(t, src, "v1", img)
					must(t, k.Delete(t.Context(), "v1"))
				}
				if i%2 == 1 { // every second time, over what was left
					img.store(t, k, "v1")
					resolves(t, src, "v1", img)
					p.sound(t)
					p.podman(t, "podman", "image", "mount", repository+":v1")
					p.podman(t, "podman", "image", "umount", repository+":v1")
					must(t, k.Delete(t.Context(), "v1"))
				}
			}
			equal(t, "what is left", p.left(t), []string(nil))
		})
	}
}

// helpLock holds a lock until its input ends.
func helpLock(arg ...string) {
	lock, err := lockfile.GetLockFile(arg[0])
	if err != nil {
		panic(err)
	}
	lock.Lock()
	defer lock.Unlock()
	fmt.Println("locked")
	io.Copy(io.Discard, os.Stdin)
}

// TestLocked: whatever the store is asked for while another process holds its locks ends with the context, and says why.
func TestLocked(t *testing.T) {
	p := newPlace(t, "overlay")
	k, src := p.sink(t, repository), p.source(t, repository)
	img := hello(t, "1")
	img.store(t, k, "v1")
	other := hello(t, "2")
	for lock, ops := range map[string]map[string]func(context.Context) error{
		"overlay-images/images.lock": {
			"resolve": func(ctx context.Context) error { _, err := src.Resolve(ctx, "v1"); return err },
			"hosts":   func(ctx context.Context) error { return first(p.Hosts(ctx)) },
			"tags":    func(ctx context.Context) error { return first(src.Tags(ctx, "")) },
			"tag":     func(ctx context.Context) error { return k.Tag(ctx, img.Descriptor, img.raw, "v2") },
			"delete":  func(ctx context.Context) error { return k.Delete(ctx, "v1") },
		},
		"overlay-layers/layers.lock": {
			"fetch": func(ctx context.Context) error {
				_, err := src.Fetch(ctx, image.Descriptor{Digest: img.plain[0], Size: -1})
				return err
			},
			"push": func(ctx context.Context) error {
				_, err := k.Push(ctx, other.m.Layers[0], bring(other.blobs[other.m.Layers[0].Digest]))
				return err
			},
		},
		"storage.lock": {
			"open": func(ctx context.Context) error { _, err := Open(ctx, p.dir+"/root+"+p.dir+"/other"); return err },
		},
	} {
		cmd := start(t, "lock", filepath.Join(p.dir, "root", lock))
		for what, op := range ops {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			err := op(ctx)
			cancel()
			is(t, what, err, context.DeadlineExceeded)
			if err == nil || !strings.Contains(err.Error(), p.dir+"/root") || !strings.Contains(err.Error(), "another process may hold its locks") {
				t.Errorf("%s: %v, which does not say what holds it up", what, err)
			}
		}
		must(t, cmd.Process.Kill())
		cmd.Wait()
	}
	resolves(t, src, "v1", img)
	other.store(t, k, "v1")
	resolves(t, src, "v1", other)
}

func first[T any](items func(func(T, error) bool)) (err error) {
	for _, e := range items {
		return e
	}
	return nil
}

// helpOpen opens a store, and says what came of it.
func helpOpen(arg ...string) {
	_, err := Open(context.Background(), arg[0])
	fmt.Println(err)
}

// TestWithoutRoot: a user outside of a user namespace is told how to get into one, and nothing is made.
func TestWithoutRoot(t *testing.T) {
	p := newPlace(t, "vfs")
	cmd := exec.Command("/proc/self/exe", p.spec())
	cmd.Env = append(os.Environ(), helper+"=open")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	must(t, err)
	if !strings.Contains(string(out), "podman unshare regfs") {
		t.Errorf("it says %s", out)
	}
}

// TestInUserNamespace: a user's store is written in a user namespace such as podman makes, and skopeo reads it there.
func TestInUserNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it becomes another user")
	}
	img := hello(t, "1")
	layout := inLayout(t, img)
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "")
			must(t, err)
			t.Cleanup(func() { os.RemoveAll(dir) })
			run(t, "cp", "-r", layout, dir+"/layout")
			run(t, "chown", "-R", "65534:65534", dir)
			spec := driver + "@" + dir + "/root+" + dir + "/run"
			asUser := func(name string, arg ...string) string {
				cmd := exec.Command(name, arg...)
				ids := []syscall.SysProcIDMap{{HostID: 65534, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 65534}}
				cmd.SysProcAttr = &syscall.SysProcAttr{
					Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
					Credential: &syscall.Credential{},
				}
				cmd.Env = append(os.Environ(), helper+"=write", "HOME="+dir, "XDG_RUNTIME_DIR="+dir, "_CONTAINERS_USERNS_CONFIGURED=done",
					"_CONTAINERS_ROOTLESS_UID=65534", "_CONTAINERS_ROOTLESS_GID=65534")
				var complaints strings.Builder
				cmd.Stderr = &complaints
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%s: %v\n%s", name, err, complaints.String())
				}
				return string(out)
			}
			asUser("/proc/self/exe", spec, dir+"/layout")
			ref := "containers-storage:[" + spec + "]" + repository + ":v1"
			equal(t, "skopeo inspect", asUser("skopeo", "inspect", "--raw", ref), string(img.raw))
		})
	}
}
