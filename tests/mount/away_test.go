//go:build linux

package mount_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// TestRegistryAway: what is in the cache is served when the registry does not answer, after a restart too, and offline without asking.
func TestRegistryAway(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Memory(t))
	proxy.PushIndex(t, "team/app:v1", "1")
	cacheDir := t.TempDir()
	m := mounted.New(t, mounted.Options{CacheDir: cacheDir, TagTTL: -1, Timeout: 2 * time.Second})
	image := filepath.Join(proxy.Host, "team/app/tags/v1")
	first := t.TempDir()
	run(t, "ls", m.At(proxy.Host, "team/app/tags"))
	run(t, "cp", "-r", m.At(image), first)
	m.Unmount()

	proxy.Fault(-1, registries.Any, registries.Hang)
	for name, offline := range map[string]bool{"away": false, "offline": true} {
		t.Run(name, func(t *testing.T) {
			asked := proxy.Count(registries.Any)
			m := mounted.New(t, mounted.Options{CacheDir: cacheDir, TagTTL: time.Hour, Timeout: 2 * time.Second, Offline: offline})
			run(t, "diff", "-r", first+"/v1", m.At(image))
			if got := list(t, m, proxy.Host, "team/app/tags"); len(got) != 1 || got[0] != "v1" {
				t.Errorf("tags: %v", got)
			}
			if got := list(t, m, proxy.Host, "team"); len(got) != 1 || got[0] != "app" {
				t.Errorf("repositories: %v", got)
			}
			_, err := os.Stat(m.At(proxy.Host, "team/app/tags/v2"))
			if offline {
				wantErrno(t, m, "what is not there", err, syscall.EIO)
			} else {
				wantErrno(t, m, "what is not there", err, syscall.ETIMEDOUT)
			}
			if n := proxy.Count(registries.Any) - asked; offline && n > 0 {
				t.Errorf("%d requests although offline", n)
			}
		})
	}
}

// TestDroppedDownload: a connection that breaks is no error, and what came is not asked for again.
func TestDroppedDownload(t *testing.T) {
	const size = 4 << 20
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	img, err := random.Image(size, 1)
	if err != nil {
		t.Fatal(err)
	}
	proxy.PushImage(t, "team/app:v1", img)
	m := mounted.New(t, mounted.Options{})
	proxy.Fault(3, registries.Get("/blobs/"), registries.Drop(1<<20))
	want := strings.TrimSpace(read(t, m, proxy.Host, "team/app/tags/v1/layers/00/digest"))
	if got := sha256Of(t, m.At(proxy.Host, "team/app/tags/v1/layers/00/blob")); got != want {
		t.Errorf("read %s, not %s", got, want)
	}
	sent := proxy.Sent(registries.Get("/blobs/"))
	if len(sent) != 4 {
		t.Errorf("%d requests", len(sent))
	}
	for _, r := range sent[1:] {
		if r.Range == "" {
			t.Errorf("asked for everything again: %v", r)
		}
	}
}

// TestRestartedDownload: a download that was cut off by the daemon's end goes on in the next one.
func TestRestartedDownload(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	img, err := random.Image(4<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	proxy.PushImage(t, "team/app:v1", img)
	cacheDir := t.TempDir()
	path := filepath.Join(proxy.Host, "team/app/tags/v1/layers/00/blob")
	m := mounted.New(t, mounted.Options{CacheDir: cacheDir, Timeout: 2 * time.Second})
	want := strings.TrimSpace(read(t, m, proxy.Host, "team/app/tags/v1/layers/00/digest"))
	proxy.Fault(1, registries.Get("/blobs/"), registries.Stall(2<<20))
	proxy.Fault(-1, registries.Get("/blobs/"), registries.Hang)
	if _, err := os.ReadFile(m.At(path)); err == nil {
		t.Fatal("a download that stalled was read")
	}
	m.Unmount()
	proxy.Reset()
	m = mounted.New(t, mounted.Options{CacheDir: cacheDir})
	if got := sha256Of(t, m.At(path)); got != want {
		t.Errorf("read %s, not %s", got, want)
	}
	if sent := proxy.Sent(registries.Get("/blobs/")); len(sent) != 1 || !strings.HasPrefix(sent[0].Range, "bytes=") {
		t.Errorf("the second daemon sent %v", sent)
	}
}

// TestCacheLimit: the cache's folder stays under its limit, and all is readable all the same.
func TestCacheLimit(t *testing.T) {
	const size, limit = 3 << 20, 10 << 20
	r := registries.Memory(t)
	cacheDir := t.TempDir()
	m := mounted.New(t, mounted.Options{CacheDir: cacheDir, CacheSize: limit})
	for _, tag := range []string{"a", "b", "c", "d", "e", "f"} {
		img, err := random.Image(size, 1)
		if err != nil {
			t.Fatal(err)
		}
		r.PushImage(t, "team/app:"+tag, img)
		want := strings.TrimSpace(read(t, m, r.Host, "team/app/tags", tag, "layers/00/digest"))
		if got := sha256Of(t, m.At(r.Host, "team/app/tags", tag, "layers/00/blob")); got != want {
			t.Errorf("%s: read %s, not %s", tag, got, want)
		}
	}
	waitFor(t, "room", func() bool { return diskUse(t, cacheDir) <= limit })
}

// diskUse is what a folder takes, in bytes.
func diskUse(t *testing.T, dir string) int64 {
	t.Helper()
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // evicted while we look
		}
		if info, err := d.Info(); err == nil {
			total += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}
