package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regfs/regfs/tests/registries"
)

// TestIndexForAMount: a mount with the same cache shows what is in layers that were indexed, though their blobs were evicted meanwhile, and
// fetches of them what is read.
func TestIndexForAMount(t *testing.T) {
	needFUSE(t)
	content := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(content)
	r := registries.Memory(t)
	layer := registries.Layer(t, registries.Files{"a/small": "first", "b/large": string(content), "c/small": "last"})
	r.PushImage(t, "hello:v1", registries.BuildImage(t, registries.Platforms[0], "1", layer))
	dgst, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	p := registries.NewProxy(t, r)
	s := newSandbox(t)
	dir := filepath.Join(s.dir, "cache")
	wantCounts(t, indexOf(t, 0, p.Host, dir, "docker://"+p.Host+"/hello:v1"), 1, 0)
	if err := os.RemoveAll(filepath.Join(dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	p.Reset()
	s.must("mount", "--insecure", p.Host, "--platform", "linux/amd64", s.mnt)
	defer s.must("umount", s.mnt)
	root := filepath.Join(s.mnt, p.Host, "hello/tags/v1/rootfs")
	if info, err := os.Stat(filepath.Join(root, "b/large")); err != nil || info.Size() != int64(len(content)) {
		t.Errorf("%v, %v", info, err)
	}
	blob := registries.Get("/blobs/" + dgst.String())
	if n := p.Count(blob); n > 0 {
		t.Errorf("%d requests for the layer, to see what is in it", n)
	}
	if got, err := os.ReadFile(filepath.Join(root, "a/small")); err != nil || string(got) != "first" {
		t.Errorf("%q, %v", got, err)
	}
	for _, q := range p.Sent(blob) {
		if q.Bytes > 2<<20 {
			t.Errorf("%d bytes were fetched for a small file", q.Bytes)
		}
	}
	if said := printed(t, "cache", "--cache-dir", dir); !strings.Contains(said, "spans") || p.Count(blob) != 1 {
		t.Errorf("%d requests, and it says\n%s", p.Count(blob), said)
	}
}
