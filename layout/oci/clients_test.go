package oci

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run runs a client of images, if it is here, and returns what it printed. On CI it must be.
func run(t *testing.T, name string, arg ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	out, err := exec.Command(name, arg...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arg, " "), err, out)
	}
	return string(out)
}

func TestSkopeoReads(t *testing.T) {
	dir := t.TempDir()
	l := create(t, dir)
	named := tagImage(t, l, "hello", "v1")
	nameless := filepath.Join(t.TempDir(), "layout")
	only := tagImage(t, create(t, nameless), "hello again", "")
	for ref, want := range map[string]string{dir + ":v1": named.Digest.String(), nameless: only.Digest.String()} {
		out := run(t, "skopeo", "--override-os=linux", "--override-arch=amd64", "inspect", "oci:"+ref)
		var info struct{ Digest string }
		must(t, json.Unmarshal([]byte(out), &info))
		if info.Digest != want {
			t.Errorf("skopeo finds %s, want %s", info.Digest, want)
		}
	}
}

// TestSkopeoWrites into a layout of ours, beside what we write.
func TestSkopeoWrites(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	l := create(t, dir)
	first := tagImage(t, l, "hello", "v1")
	second := tagImage(t, create(t, other), "hello again", "v2")
	run(t, "skopeo", "--insecure-policy", "--override-os=linux", "--override-arch=amd64", "copy", "--preserve-digests",
		"oci:"+other+":v2", "oci:"+dir+":docker.io/library/hello:v2")
	tagImage(t, l, "hello", "v3")
	resolve(t, l, "v1", first)
	resolve(t, l, "v3", first)
	resolve(t, l, "docker.io/library/hello:v2", second)
}

func TestUmociReads(t *testing.T) {
	dir, bundle := t.TempDir(), filepath.Join(t.TempDir(), "bundle")
	tagImage(t, create(t, dir), "hello", "v1")
	if list := run(t, "umoci", "list", "--layout", dir); list != "v1\n" {
		t.Errorf("umoci lists %q", list)
	}
	run(t, "umoci", "unpack", "--rootless", "--image", dir+":v1", bundle)
	want(t, "unpacked", readFile(t, bundle, "rootfs", "hello"), "hello")
}

// TestUmociCleans a layout of ours, and leaves in it what is named.
func TestUmociCleans(t *testing.T) {
	dir := t.TempDir()
	l := create(t, dir)
	d := tagImage(t, l, "hello", "v1")
	tagImage(t, l, "hello again", "v2")
	must(t, l.Delete(t.Context(), "v2"))
	run(t, "umoci", "gc", "--layout", dir)
	want(t, "blobs", len(blobNames(t, dir)), 3)
	resolve(t, create(t, dir), "v1", d)
}
