//go:build linux

// Package mounted mounts registries in the process of a test, as the regfs command does in its own.
package mounted

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.podman.io/image/v5/types"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/fs"
	"github.com/regfs/regfs/fs/fuse"
	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layer"
	"github.com/regfs/regfs/registry"
)

// Options is how a test wants its mount. The zero value is what regfs mount does without flags, but with a cache of its own, ten
// seconds of patience, and linux/amd64 wherever it runs.
type Options struct {
	// CacheDir is the cache's folder; "" is a new one.
	CacheDir string
	// CacheSize is the cache's limit in bytes; 0 is its default.
	CacheSize int64
	// TagTTL is how long a tag is believed; 0 is a minute, less is not at all.
	TagTTL time.Duration
	// Timeout is how long to wait without a byte moving; 0 is ten seconds.
	Timeout time.Duration
	Offline bool
	// StageDir is where what is written stays until it is pushed; "" is a new folder.
	StageDir string
	// AllowDelete lets tags be deleted, ReadOnly lets nobody write.
	AllowDelete, ReadOnly bool
	// Whiteouts is how layers' trees show what they remove.
	Whiteouts layer.Whiteouts
	// MountOptions are those of mount(8)'s -o.
	MountOptions []string
	// AllowOther lets other users look.
	AllowOther bool
	// Named are places beside the registries, Top one in their place.
	Named map[string]fs.Named
	Top   *fs.Named
	// Silence is after how long an unfinished push is told of; 0 is the default.
	Silence time.Duration
	// System is the configuration of the machine; nil is that of the real one.
	System *types.SystemContext
}

// Mount is a mount.
type Mount struct {
	// Path is the mountpoint.
	Path string
	// Unmount takes it down before the test's end.
	Unmount func()
	log     *buffer
	// Stage is what is written, nil for a mount that can only be read.
	Stage *stage.Store
	Cache *cache.Cache
}

// Log is what the daemon has logged so far.
func (m *Mount) Log() string { return m.log.String() }

// At is a path in the mount.
func (m *Mount) At(elem ...string) string {
	return filepath.Join(append([]string{m.Path}, elem...)...)
}

// New mounts all registries, for the length of the test. Without /dev/fuse the test is skipped, and on CI fails.
func New(t testing.TB, o Options) *Mount {
	t.Helper()
	needFUSE(t)
	o.fill(t)
	client := registry.New(registry.Options{Timeout: o.Timeout, System: o.System})
	c, err := cache.New(cache.Options{Dir: o.CacheDir, TTL: o.TagTTL, Timeout: o.Timeout, Offline: o.Offline, Size: o.CacheSize})
	if err != nil {
		t.Fatal(err)
	}
	places := fs.Places{Host: c.Through(client.Host), Named: o.Named, Top: o.Top}
	m := &Mount{Path: t.TempDir(), log: &buffer{}, Cache: c}
	log := slog.New(slog.NewTextHandler(m.log, nil))
	if !o.ReadOnly {
		m.Stage, err = stage.Open(stage.Options{Dir: o.StageDir, Host: places.Open, Blobs: c, Log: log, Silence: o.Silence})
		if err != nil {
			t.Fatal(err)
		}
	}
	var tree *fs.Tree
	layers := layer.New(layer.Options{Store: c, Blobs: c, Report: func(d image.Descriptor, problem string) { tree.ReportLayer(d, problem) }})
	tree = fs.New(fs.Options{
		Places: places, Hosts: c.Hosts, Blobs: c, Layers: layers, Whiteouts: o.Whiteouts,
		Platform: image.Platform{OS: "linux", Architecture: "amd64"}, TagTTL: o.TagTTL, Stage: m.Stage, AllowDelete: o.AllowDelete,
	})
	server, err := fuse.Mount(tree, m.Path, fuse.Options{ReadOnly: o.ReadOnly, Options: o.MountOptions, AllowOther: o.AllowOther, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	m.Unmount = sync.OnceFunc(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
		server.Wait()
		if m.Stage != nil {
			m.Stage.Close()
		}
		tree.Close()
		layers.Close()
		c.Close()
		client.Close()
	})
	t.Cleanup(m.Unmount)
	return m
}

func (o *Options) fill(t testing.TB) {
	if o.StageDir == "" {
		o.StageDir = t.TempDir()
	}
	if o.CacheDir == "" {
		o.CacheDir = t.TempDir()
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	switch {
	case o.TagTTL == 0:
		o.TagTTL = time.Minute
	case o.TagTTL < 0:
		o.TagTTL = 0
	}
}

func needFUSE(t testing.TB) {
	t.Helper()
	_, err := os.Stat("/dev/fuse")
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatal("no /dev/fuse")
	default:
		t.Skip("no /dev/fuse: this test mounts")
	}
}

// buffer is a log that a mount writes and a test reads.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
