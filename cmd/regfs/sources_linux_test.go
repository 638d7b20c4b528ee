package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shell runs a program that has to work, and returns what it printed.
func shell(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// TestSourceBesideRegistries copies into a layout that does not exist yet and out of it, within one mount.
func TestSourceBesideRegistries(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	r, want := source(t)
	layout := filepath.Join(s.dir, "usb")
	s.must("mount", "--insecure", r.Host, "usb=oci:usb", s.mnt)
	at := func(path string) string { return filepath.Join(s.mnt, path) }
	if got := shell(t, "ls", at("@usb")); got != "blobs\ndigests\noci-layout\ntags\n" {
		t.Errorf("@usb has\n%s", got)
	}
	if got := shell(t, "ls", "-A", s.mnt); got != ".regfs\n@usb\n" {
		t.Errorf("the mount has\n%s", got)
	}
	if _, err := os.Stat(at("@other")); !os.IsNotExist(err) {
		t.Errorf("@other: %v", err)
	}
	shell(t, "mkdir", at("@usb/tags/v1"))
	shell(t, "cp", "-r", at(r.Host+"/hello/tags/v1/oci-layout"), at("@usb/tags/v1"))
	whole(t, "oci:"+layout+":v1", want)
	if got := shell(t, "cat", at("@usb/tags/v1/digest")); got != string(want)+"\n" {
		t.Errorf("the tag is %s, want %s", got, want)
	}
	if got := shell(t, "ls", at("@usb/tags/v1/rootfs")); got == "" {
		t.Error("its rootfs is empty")
	}
	back := at(r.Host + "/back/tags/v2")
	shell(t, "mkdir", "-p", back)
	shell(t, "cp", "-r", at("@usb/tags/v1/oci-layout"), back)
	whole(t, "docker://"+r.Host+"/back:v2", want)
	s.mustSay("@usb:v1  pushed", "status", s.mnt)
	var config struct{ Sources []string }
	if err := json.Unmarshal([]byte(shell(t, "cat", at(".regfs/config.json"))), &config); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"docker://", "usb=oci:" + layout}, config.Sources); diff != "" {
		t.Error(diff)
	}
	s.must("umount", s.mnt)
}

// mustSay runs what has to work and say something.
func (s *sandbox) mustSay(words string, args ...string) {
	s.Helper()
	if out, code := s.run(args...); code != 0 || !strings.Contains(out, words) {
		s.Errorf("regfs %q: exit %d and %q, want %q", args, code, out, words)
	}
}

// TestSourceAlone mounts one layout, which others change meanwhile.
func TestSourceAlone(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	r, want := source(t)
	layout := filepath.Join(s.dir, "layout")
	copyTo(t, 0, "docker://"+r.Host+"/hello:v1", "oci:"+layout)
	s.must("mount", "oci:"+layout, s.mnt)
	at := func(path string) string { return filepath.Join(s.mnt, path) }
	if got := shell(t, "ls", "-A", s.mnt, at("tags")); !strings.Contains(got, ".regfs\nblobs\ndigests\noci-layout\ntags\n") || !strings.HasSuffix(got, "\nlatest\n") {
		t.Errorf("the mount has\n%s", got)
	}
	if got := shell(t, "cat", at("tags/latest/digest")); got != string(want)+"\n" {
		t.Errorf("the image without a name is %q, want %s", got, want)
	}
	shell(t, "skopeo", "--insecure-policy", "copy", "oci:"+layout, "oci:"+layout+":other")
	if got := shell(t, "ls", at("tags")); got != "other\n" {
		t.Errorf("with one that has a name, there are\n%s", got)
	}
	shell(t, "mkdir", at("tags/new"))
	shell(t, "cp", "-r", at("tags/other/oci-layout"), at("tags/new"))
	shell(t, "skopeo", "inspect", "oci:"+layout+":new")
	if got := shell(t, "cat", at("tags/new/manifest.json")); got == "" {
		t.Error("the new tag is not there")
	}
	s.must("umount", s.mnt)

	s.must("mount", "--read-only", "oci:"+layout, s.mnt)
	if out, err := exec.Command("mkdir", at("tags/more")).CombinedOutput(); err == nil || !strings.Contains(string(out), "Read-only") {
		t.Errorf("mkdir in a mount that can only be read: %s", out)
	}
	s.must("umount", s.mnt)
	s.wantError("no such file", "mount", "--read-only", "oci:"+layout+"2", s.mnt)
	s.wantError("no image layout", "mount", "oci:/etc", s.mnt)
	s.wantError("no such file", "mount", "oci:"+s.dir+"/typo/layout", s.mnt)
	s.wantError("no such file", "mount", "dir:"+s.dir+"/typo/image", s.mnt)
}

func TestSourcesThatAreNone(t *testing.T) {
	for _, test := range []struct {
		says string
		args []string
	}{
		{"a place is meant", []string{"oci:a:v1"}},
		{"only one source", []string{"oci:a", "oci:b"}},
		{"only one source", []string{"docker://", "oci:b"}},
		{"two sources are called x", []string{"x=oci:a", "x=oci:b"}},
		{"have names already", []string{"x=docker://"}},
		{"no transport", []string{"x=ftp:a"}},
		{"a transport is missing", []string{"/a/b"}},
		{"a transport is missing", []string{"a b=oci"}},
	} {
		if said := regfs(t, 2, append(append([]string{"mount"}, test.args...), t.TempDir())...); !strings.Contains(said, test.says) {
			t.Errorf("mount %q says %s, want %q", test.args, said, test.says)
		}
	}
}
