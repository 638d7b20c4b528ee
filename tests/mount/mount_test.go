// Package mount_test uses mounted registries as people do: through the kernel, with the programs they have.
package mount_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.podman.io/image/v5/types"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/fs"
	"github.com/regfs/regfs/fs/fuse"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/registry"
)

// options is how a test wants its mount. The zero value is what regfs mount does without flags, with a cache of its own.
type options struct {
	cacheDir string
	ttl      time.Duration // 0 is the default of a minute, less is none
	timeout  time.Duration // 0 is ten seconds
	offline  bool
	platform string
	system   *types.SystemContext
	size     int64
}

// mounted is a mount and what it said.
type mounted struct {
	path string
	log  *lockedBuffer
	// unmount takes the mount down before the test's end.
	unmount func()
}

// mount mounts all registries, for the length of the test.
func mount(t *testing.T, o options) *mounted {
	t.Helper()
	needFUSE(t)
	o.fill(t)
	client := registry.New(registry.Options{Timeout: o.timeout, System: o.system})
	c, err := cache.New(cache.Options{Dir: o.cacheDir, TTL: o.ttl, Timeout: o.timeout, Offline: o.offline, Size: o.size})
	if err != nil {
		t.Fatal(err)
	}
	platform, err := image.ParsePlatform(o.platform)
	if err != nil {
		t.Fatal(err)
	}
	tree := fs.New(fs.Options{
		Host: func(name string) (image.Host, error) {
			h, err := client.Host(name)
			if err != nil {
				return nil, err
			}
			return c.Host(name, h), nil
		},
		Hosts: c.Hosts, Blobs: c, Platform: platform, TagTTL: o.ttl,
	})
	m := &mounted{path: t.TempDir(), log: &lockedBuffer{}}
	server, err := fuse.Mount(tree, m.path, fuse.Options{Log: slog.New(slog.NewTextHandler(m.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	m.unmount = sync.OnceFunc(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
		server.Wait()
		c.Close()
		client.Close()
	})
	t.Cleanup(m.unmount)
	return m
}

func (o *options) fill(t *testing.T) {
	if o.cacheDir == "" {
		o.cacheDir = t.TempDir()
	}
	if o.timeout == 0 {
		o.timeout = 10 * time.Second
	}
	if o.platform == "" {
		o.platform = "linux/amd64"
	}
	switch {
	case o.ttl == 0:
		o.ttl = time.Minute
	case o.ttl < 0:
		o.ttl = 0
	}
}

func needFUSE(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("no /dev/fuse")
	}
	t.Skip("no /dev/fuse: these tests mount")
}

// lockedBuffer is a log that a mount writes and a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// at is a path in the mount.
func (m *mounted) at(elem ...string) string {
	return filepath.Join(append([]string{m.path}, elem...)...)
}

// read reads a file of the mount whole, in a process of its own: this one's pins are not to matter.
func (m *mounted) read(t *testing.T, elem ...string) string {
	t.Helper()
	return run(t, "cat", m.at(elem...))
}

// list is what ls prints of a folder, one line each.
func (m *mounted) list(t *testing.T, elem ...string) []string {
	t.Helper()
	return strings.Fields(run(t, "ls", m.at(elem...)))
}

// run runs a program that has to succeed, and returns its standard output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, stderr, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr)
	}
	return out
}

// try runs a program.
func try(t *testing.T, name string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// sha256Of is the digest of a file, as sha256sum sees it.
func sha256Of(t *testing.T, path string) string {
	t.Helper()
	sum, _, _ := strings.Cut(run(t, "sha256sum", path), " ")
	return "sha256:" + strings.TrimPrefix(sum, `\`)
}

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }
