//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.podman.io/storage"

	"github.com/regfs/regfs/image"
)

func TestParse(t *testing.T) {
	defaults, err := storage.DefaultStoreOptions()
	must(t, err)
	for spec, want := range map[string]storage.StoreOptions{
		"":                      defaults,
		"/a":                    {GraphRoot: "/a", RunRoot: defaults.RunRoot},
		"/a+/b":                 {GraphRoot: "/a", RunRoot: "/b"},
		"vfs@/a+/b":             {GraphDriverName: "vfs", GraphRoot: "/a", RunRoot: "/b"},
		"overlay@/a+/b:x=1,y=2": {GraphDriverName: "overlay", GraphRoot: "/a", RunRoot: "/b", GraphDriverOptions: []string{"x=1", "y=2"}},
		"/a:x=1":                {GraphRoot: "/a", RunRoot: defaults.RunRoot, GraphDriverOptions: []string{"x=1"}},
	} {
		got, err := parse(spec)
		must(t, err)
		equal(t, spec, got, want)
	}
	for _, spec := range []string{"a", "@/a", "vfs@", "vfs@a", "/a+b", "+/b", ":x"} {
		_, err := parse(spec)
		is(t, spec, err, image.ErrInvalid)
	}
}

// TestOpen opens stores, and nothing else, and makes nothing where there is none.
func TestOpen(t *testing.T) {
	if os.Geteuid() != 0 {
		_, err := Open(t.Context(), t.TempDir())
		is(t, "open without root", err, image.ErrDenied)
		t.Skip("only root can open a store")
	}
	p := newPlace(t, "overlay")
	for _, spec := range []string{p.spec(), p.dir + "/root+" + p.dir + "/run"} {
		s, err := Open(t.Context(), spec)
		must(t, err)
		must(t, s.Close())
	}
	hello(t, "1").store(t, p.sink(t, repository), "v1") // which Close has not hurt

	dir := t.TempDir()
	run := "+" + dir + "/run"
	must(t, os.WriteFile(mkdir(t, dir, "other")+"/file", nil, 0o644))
	for _, path := range []string{"none", "other", "other/file"} {
		_, err := Open(t.Context(), "vfs@"+filepath.Join(dir, path)+run)
		is(t, "open "+path, err, map[bool]error{true: image.ErrInvalid, false: image.ErrNotFound}[path == "other"])
	}
	_, err := Create(t.Context(), "vfs@"+dir+"/other"+run)
	is(t, "create in a folder of something else", err, image.ErrInvalid)
	_, err = Open(t.Context(), "nosuchdriver@"+p.dir+"/root+"+p.dir+"/other")
	if err == nil {
		t.Error("opened with a driver that there is not")
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	equal(t, "what there is", len(entries), 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Open(ctx, p.spec())
	is(t, "open when cancelled", err, context.Canceled)
}
