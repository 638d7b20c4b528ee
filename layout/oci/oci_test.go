package oci

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

func TestOpenRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  error
	}{
		"an empty folder":       {nil, image.ErrInvalid},
		"another folder":        {map[string]string{"readme": "hello"}, image.ErrInvalid},
		"no index.json":         {map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}, image.ErrNotFound},
		"no version":            {map[string]string{"oci-layout": `{}`, "index.json": emptyIndex}, image.ErrInvalid},
		"a later version":       {map[string]string{"oci-layout": `{"imageLayoutVersion":"2.0.0"}`, "index.json": emptyIndex}, image.ErrInvalid},
		"a marker that is none": {map[string]string{"oci-layout": "hello", "index.json": emptyIndex}, image.ErrInvalid},
		"a huge marker":         {map[string]string{"oci-layout": strings.Repeat(" ", maxMarker+1), "index.json": emptyIndex}, image.ErrInvalid},
		"an index that is none": {map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": "[]"}, image.ErrInvalid},
	} {
		dir := t.TempDir()
		for file, content := range test.files {
			writeFile(t, content, dir, file)
		}
		_, err := Open(dir)
		wantErr(t, name, err, test.want)
		if err != nil && !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v does not say where", name, err)
		}
	}
	_, err := Open(filepath.Join(t.TempDir(), "missing"))
	wantErr(t, "a missing folder", err, image.ErrNotFound)
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, "", file)
	if _, err := Open(file); err == nil {
		t.Error("a file is a layout")
	}
}

func TestCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	l := create(t, dir)
	want(t, "oci-layout", readFile(t, dir, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
	want(t, "index.json", readFile(t, dir, "index.json"), emptyIndex)
	if names, err := tags(t.Context(), l); len(names) > 0 || err != nil {
		t.Errorf("a new layout has the tags %v, %v", names, err)
	}
	d := tagImage(t, l, "hello", "v1")
	resolve(t, create(t, dir), "v1", d)
	l, err := Open(dir)
	must(t, err)
	resolve(t, l, "v1", d)
	must(t, l.Close())
	if _, err := l.Resolve(t.Context(), "v1"); err == nil {
		t.Error("a closed layout answers")
	}
}

// TestCreateLeavesOtherFolders alone.
func TestCreateLeavesOtherFolders(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, "hello", dir, "readme")
	_, err := Create(dir)
	wantErr(t, "create in another folder", err, image.ErrInvalid)
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("the folder has %v now", entries)
	}
}

// TestCreateGoesOn where a Create was killed, and where another program made no more than half of a layout.
func TestCreateGoesOn(t *testing.T) {
	killed := t.TempDir()
	writeFile(t, "{", killed, ".regfs-x")
	create(t, killed)
	half := t.TempDir()
	writeFile(t, `{"imageLayoutVersion": "1.1.0"}`, half, "oci-layout")
	create(t, half)
	want(t, "oci-layout", readFile(t, half, "oci-layout"), `{"imageLayoutVersion": "1.1.0"}`)
}

func TestCreateRemovesWhatWasLeft(t *testing.T) {
	dir := t.TempDir()
	create(t, dir)
	for name, age := range map[string]time.Duration{"killed": 2 * time.Minute, "written": 2 * time.Minute, "new": 0, "old": 48 * time.Hour} {
		path := filepath.Join(dir, ".regfs-"+name)
		writeFile(t, name, dir, ".regfs-"+name)
		must(t, os.Chtimes(path, time.Now().Add(-age), time.Now().Add(-age)))
		if name == "written" {
			f, err := os.Open(path)
			must(t, err)
			defer f.Close()
			must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
		}
	}
	create(t, dir)
	left, err := filepath.Glob(filepath.Join(dir, ".regfs-*"))
	must(t, err)
	want(t, "what is left", left, []string{filepath.Join(dir, ".regfs-new"), filepath.Join(dir, ".regfs-written")})
}

// TestNothingOutside: symlinks that lead out of the folder are not followed, for reading nor for writing.
func TestNothingOutside(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	l := create(t, dir)
	d := tagImage(t, l, "hello", "v1")
	path := filepath.Join(dir, blobPath(d.Digest))
	secret := filepath.Join(outside, "secret")
	must(t, os.Rename(path, secret))
	must(t, os.Symlink(secret, path))
	if _, _, err := l.Manifest(t.Context(), "v1"); err == nil {
		t.Error("a manifest was read through a symlink")
	}
	if _, err := l.Fetch(t.Context(), d); err == nil {
		t.Error("a blob was read through a symlink")
	}
	if _, err := l.FetchRange(t.Context(), d, 0, 1); err == nil {
		t.Error("a part of a blob was read through a symlink")
	}
	must(t, os.RemoveAll(filepath.Join(dir, "blobs", "sha256")))
	must(t, os.Symlink(outside, filepath.Join(dir, "blobs", "sha256")))
	other := describe("application/octet-stream", []byte("content"))
	if _, err := l.Push(t.Context(), other, memory([]byte("content"), nil)); err == nil {
		t.Error("a blob was written through a symlink")
	}
	must(t, os.Rename(filepath.Join(dir, "index.json"), filepath.Join(outside, "index.json")))
	must(t, os.Symlink(filepath.Join(outside, "index.json"), filepath.Join(dir, "index.json")))
	if _, err := Open(dir); err == nil {
		t.Error("index.json was read through a symlink")
	}
	entries, err := os.ReadDir(outside)
	must(t, err)
	if len(entries) != 2 {
		t.Errorf("outside there is %v now", entries)
	}
}

// TestNobodyWaits for a fifo, or takes a folder for a file.
func TestNobodyWaits(t *testing.T) {
	dir := t.TempDir()
	l := create(t, dir)
	fifo, folder := describe("", []byte("fifo")), describe("", []byte("folder"))
	must(t, unix.Mkfifo(filepath.Join(dir, blobPath(fifo.Digest)), 0o644))
	must(t, os.Mkdir(filepath.Join(dir, blobPath(folder.Digest)), 0o755))
	for _, d := range []image.Descriptor{fifo, folder} {
		_, err := l.Fetch(t.Context(), d)
		wantErr(t, "fetch", err, image.ErrInvalid)
		_, err = l.Stat(t.Context(), d.Digest)
		wantErr(t, "stat", err, image.ErrInvalid)
	}
	how, err := l.Push(t.Context(), fifo, memory([]byte("fifo"), nil))
	if how != image.Uploaded || err != nil {
		t.Errorf("push in the place of a fifo: %s, %v", how, err)
	}
	r, err := l.Fetch(t.Context(), fifo)
	must(t, err)
	defer r.Close()
	got, err := io.ReadAll(r)
	must(t, err)
	want(t, "fetch", string(got), "fifo")
}
