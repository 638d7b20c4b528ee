package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/cache"
)

// TestCacheOfAMount: its limit is shown, what is read through it is kept while it is, and all else comes back when it is asked for.
func TestCacheOfAMount(t *testing.T) {
	needFUSE(t)
	r, dgst := source(t)
	s := newSandbox(t)
	s.must("mount", "--insecure", r.Host, "--cache-size", "3G", s.mnt)
	defer s.must("umount", s.mnt)
	dir := filepath.Join(s.dir, "cache")
	tag := filepath.Join(s.mnt, r.Host, "hello/tags/v1")
	read := func(name string) string {
		content, err := os.ReadFile(filepath.Join(tag, name))
		if err != nil {
			t.Error(err)
		}
		return string(content)
	}
	manifest, layer := read("manifest.json"), read("layers/01/blob")
	said := printed(t, "cache", "--cache-dir", dir)
	if !strings.HasSuffix(said, "\nlimit 3 GiB, of the mount at "+s.mnt+"\n") {
		t.Errorf("it says\n%s", said)
	}
	var shown struct{ Limits []cacheLimit }
	if err := json.Unmarshal([]byte(printed(t, "cache", "--json", "--cache-dir", dir)), &shown); err != nil {
		t.Fatal(err)
	}
	if len(shown.Limits) != 1 || shown.Limits[0] != (cacheLimit{s.mnt, 3 << 30}) {
		t.Errorf("limits %+v", shown.Limits)
	}

	open, err := os.Open(filepath.Join(tag, "layers/01/blob"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	said = printed(t, "cache", "prune", "--all", "--cache-dir", dir)
	if !strings.HasSuffix(said, "\nkept, because it is in use: 4 KiB\n") {
		t.Errorf("prune says\n%s", said)
	}
	if u, err := cache.Look(dir); err != nil || u.Total().Files != 1 || u.Blobs.Files != 1 {
		t.Errorf("%+v is left, %v", u, err)
	}
	if got := read("manifest.json"); got != manifest {
		t.Errorf("the manifest reads\n%s", got)
	}
	if read("layers/01/blob") != layer || read("digest") != dgst.String()+"\n" || read("layers/00/blob") == "" {
		t.Error("something else is read after the cache was pruned")
	}
}

// TestCacheThatNobodyUsed is empty, and not made by looking.
func TestCacheThatNobodyUsed(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root's cache is the machine's: TestAsUser runs this as somebody else")
	}
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	if said := printed(t, "cache"); !strings.HasPrefix(said, dir+"/regfs\n") || !strings.Contains(said, "total") {
		t.Errorf("it says\n%s", said)
	}
	if said := printed(t, "cache", "prune", "--all"); said != "nothing to remove\n" {
		t.Errorf("prune says\n%s", said)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v was made, %v", entries, err)
	}
}

// TestCacheBesideAStuckMount: a mount that does not answer holds nobody up.
func TestCacheBesideAStuckMount(t *testing.T) {
	needFUSE(t)
	s := newSandbox(t)
	s.must("mount", s.mnt)
	pid := s.pid(s.mnt)
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	said := printed(t, "cache", "--cache-dir", filepath.Join(s.dir, "cache"))
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(said, s.mnt) {
		t.Errorf("it says\n%s", said)
	}
	// The read that was given up has the mount until it is answered.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		out, code := s.run("umount", s.mnt)
		if code == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("umount: exit %d and %q", code, out)
		}
	}
}
