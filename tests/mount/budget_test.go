//go:build linux

package mount_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// TestBudgets counts what file operations ask of a registry. Each is a process of its own, as in a shell.
func TestBudgets(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	single := registries.Image(t, registries.Platforms[0], "1")
	proxy.PushImage(t, "team/single:v1", single)
	proxy.PushIndex(t, "team/multi:v1", "1")
	for i := range 30 {
		proxy.PushImage(t, fmt.Sprintf("team/many:t%d", i), single)
	}
	digest, err := single.Digest()
	if err != nil {
		t.Fatal(err)
	}
	m := mounted.New(t, mounted.Options{})
	at := func(path string) string { return m.At(proxy.Host, path) }

	for _, step := range []struct {
		name string
		run  []string
		most int
	}{
		{"a tag that is there", []string{"stat", at("team/single/tags/v1")}, 1},
		{"the manifest of a tag, cold", []string{"cat", at("team/single/tags/v1/manifest.json")}, 0},
		{"again within the TTL", []string{"cat", at("team/single/tags/v1/manifest.json")}, 0},
		{"the manifest of a multi-platform tag, cold", []string{"cat", at("team/multi/tags/v1/manifest.json")}, 2},
		{"its index", []string{"cat", at("team/multi/tags/v1/index.json")}, 0},
		{"its folder with all sizes", []string{"ls", "-l", at("team/multi/tags/v1")}, 3},
		{"its digest", []string{"cat", at("team/multi/tags/v1/digest")}, 0},
		{"a list of tags", []string{"ls", at("team/many/tags")}, 1},
		{"a long list of tags", []string{"ls", "-l", at("team/many/tags")}, 1},
		{"all below a digest", []string{"ls", "-lR", at("team/single/digests/" + digest.String())}, 10},
		{"the same again", []string{"ls", "-lR", at("team/single/digests/" + digest.String())}, 0},
		{"a folder passed through", []string{"stat", at("some/repository/tags")}, 0},
	} {
		proxy.Reset()
		run(t, step.run[0], step.run[1:]...)
		if n := proxy.Count(registries.Any); n > step.most {
			t.Errorf("%s: %d requests, more than %d: %v", step.name, n, step.most, proxy.Sent(registries.Any))
		}
	}
}

// TestBudgetAfterTTL: a tag that has not moved costs one HEAD.
func TestBudgetAfterTTL(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	proxy.PushIndex(t, "team/app:v1", "1")
	m := mounted.New(t, mounted.Options{TagTTL: -1})
	first := read(t, m, proxy.Host, "team/app/tags/v1/manifest.json")
	proxy.Reset()
	if again := read(t, m, proxy.Host, "team/app/tags/v1/manifest.json"); again != first {
		t.Errorf("another manifest: %s", again)
	}
	sent := proxy.Sent(registries.Any)
	if len(sent) != 1 || sent[0].Method != "HEAD" {
		t.Errorf("wanted one HEAD, sent %v", sent)
	}
}

// TestNamesThatAreNone: what no registry could have costs nothing to look for, anywhere.
func TestNamesThatAreNone(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	proxy.PushIndex(t, "team/app:v1", "1")
	m := mounted.New(t, mounted.Options{})
	run(t, "ls", m.At(proxy.Host, "team/app/tags/v1/layers"))
	proxy.Reset()
	for _, path := range []string{
		".git", ".Trash", "autorun.inf", "etc", ".regfs/.git",
		proxy.Host + "/.git", proxy.Host + "/tags", proxy.Host + "/UPPER", proxy.Host + "/team/.git", proxy.Host + "/team/@app",
		proxy.Host + "/" + strings.Repeat("a/", 130),
		proxy.Host + "/team/app/.git", proxy.Host + "/team/app/tags/.git", proxy.Host + "/team/app/tags/" + strings.Repeat("x", 129),
		proxy.Host + "/team/app/digests/.git", proxy.Host + "/team/app/digests/sha256:123", proxy.Host + "/team/app/blobs/.git",
		proxy.Host + "/team/app/blobs/sha256/.git", proxy.Host + "/team/app/blobs/md5",
		proxy.Host + "/team/app/tags/v1/.git", proxy.Host + "/team/app/tags/v1/layers/.git", proxy.Host + "/team/app/tags/v1/platforms/.git",
		proxy.Host + "/team/app/tags/v1/layers/00/.git", proxy.Host + "/team/app/tags/v1/oci-layout/.git",
		proxy.Host + "/team/app/tags/v1/referrers/.git", proxy.Host + "/team/app/oci-layout/.git",
	} {
		if _, err := os.Lstat(m.At(path)); !os.IsNotExist(err) {
			t.Errorf("%s: %v, not ENOENT", path, err)
		}
	}
	if n := proxy.Count(registries.Any); n > 0 {
		t.Errorf("%d requests: %v", n, proxy.Sent(registries.Any))
	}
}

// TestOneBlobOneGET: a blob is fetched once, by one reader or by eight at once.
func TestOneBlobOneGET(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	img, err := random.Image(8<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	proxy.PushImage(t, "team/big:v1", img)
	m := mounted.New(t, mounted.Options{})
	path := m.At(proxy.Host, "team/big/tags/v1/layers/00/blob")
	want := strings.TrimSpace(read(t, m, proxy.Host, "team/big/tags/v1/layers/00/digest"))
	proxy.Reset()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got := sha256Of(t, path); got != want {
				t.Errorf("read %s, not %s", got, want)
			}
		})
	}
	wg.Wait()
	if n := proxy.Count(registries.Get("/blobs/")); n != 1 {
		t.Errorf("%d GETs of the blob: %v", n, proxy.Sent(registries.Any))
	}
}

// TestReadWhileItArrives: what is read of a blob while it arrives is there at once, and the rest when it came.
func TestReadWhileItArrives(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	img, err := random.Image(4<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	proxy.PushImage(t, "team/big:v1", img)
	m := mounted.New(t, mounted.Options{Timeout: 2 * time.Second})
	proxy.Fault(1, registries.Get("/blobs/"), registries.Stall(2<<20))
	proxy.Fault(-1, registries.Get("/blobs/"), registries.Hang)
	f, err := os.Open(m.At(proxy.Host, "team/big/tags/v1/layers/00/blob"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.ReadFull(f, make([]byte, 1<<20)); err != nil {
		t.Errorf("the first MiB of a blob of which two came: %v", err)
	}
	if _, err := io.Copy(io.Discard, f); err == nil {
		t.Error("the end of a blob that never came was read")
	}
}
