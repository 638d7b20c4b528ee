//go:build linux

package mount_test

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// manyEntries are a layer of folders with files that have a line each, and say which version they are of.
func manyEntries(folders, files int, version string) []registries.TarEntry {
	var all []registries.TarEntry
	for i := range folders {
		dir := fmt.Sprintf("usr/share/d%03d", i)
		all = append(all, registries.TarEntry{Header: tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: registries.Created}})
		for j := range files {
			all = append(all, registries.TarEntry{
				Header:  tar.Header{Name: fmt.Sprintf("%s/f%03d", dir, j), Mode: 0o644, ModTime: registries.Created},
				Content: fmt.Sprintf("file %d of folder %d, version %s\n", j, i, version),
			})
		}
	}
	return all
}

// TestTreeFind: find and ls see every name, with its type.
func TestTreeFind(t *testing.T) {
	r := registries.Memory(t)
	image := pushTree(t, r)
	m := mounted.New(t, mounted.Options{})
	want := strings.Fields(`b,dev/disk c,dev/null d, d,dev d,etc d,opt d,opt/old d,run d,tmp d,usr d,usr/bin f,etc/hard f,etc/os-release
		f,etc/shadow f,opt/old/new f,usr/bin/su l,etc/link`)
	for range 2 { // from the daemon, and from the kernel
		got := sorted(strings.Fields(run(t, "find", m.At(r.Host, image, "rootfs"), "-printf", "%y,%P\n")))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("find: %s", diff)
		}
	}
	long := run(t, "ls", "-ln", m.At(r.Host, image, "rootfs/etc"))
	for _, line := range []string{"lrwxrwxrwx 1 0 0 17", "---------- 1 3000000000 7 7", "-rw-r--r-- 2 0 0 9"} {
		if fields := strings.Join(strings.Fields(long), " "); !strings.Contains(fields, line) {
			t.Errorf("ls -l has no line %q:\n%s", line, long)
		}
	}
	if _, _, err := try(t, "test", "-x", m.At(r.Host, image, "rootfs/etc/os-release")); err == nil {
		t.Error("a file without x can be executed")
	}
	if _, _, err := try(t, "test", "-x", m.At(r.Host, image, "rootfs/usr/bin/su")); err != nil {
		t.Errorf("a file with x can't be executed: %v", err)
	}
}

// TestTreeTar: tar -c of a tree has the entries of the layer, with all they say.
func TestTreeTar(t *testing.T) {
	registries.Program(t, "tar")
	r := registries.Memory(t)
	pushLayers(t, r, "team/tree:v1", registries.TarLayer(t, treeEntries()...))
	m := mounted.New(t, mounted.Options{})

	cmd := exec.CommandContext(t.Context(), "tar", "-c", "--format=pax", "--sort=name", "--xattrs", "--xattrs-include=*", "-C", m.At(r.Host, "team/tree/tags/v1/rootfs"), ".")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := entriesOf(t, out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("tar: %v", err)
	}
	links := map[string]string{"etc/hard": "etc/os-release", "etc/os-release": "etc/hard"}
	for _, want := range treeEntries() {
		name := strings.TrimSuffix(want.Name, "/")
		have, ok := got[name]
		if !ok {
			t.Errorf("tar has no %s", name)
			continue
		}
		if have.Typeflag == tar.TypeLink {
			if links[name] != filepath.Clean(have.Linkname) {
				t.Errorf("%s is a link to %s", name, have.Linkname)
			}
			continue
		}
		if want.Typeflag == tar.TypeLink || want.Typeflag == 0 {
			want.Typeflag, want.Linkname = tar.TypeReg, ""
		}
		if name == "etc/hard" { // the first name has the content
			want.Mode, want.ModTime, want.Content = 0o644, fractional, "ID=regfs\n"
		}
		a := []any{have.Typeflag, have.Mode, have.Uid, have.Gid, have.Linkname, have.Devmajor, have.Devminor, have.ModTime.UnixNano(), have.content}
		b := []any{want.Typeflag, want.Mode, want.Uid, want.Gid, want.Linkname, want.Devmajor, want.Devminor, want.ModTime.UnixNano(), want.Content}
		if diff := cmp.Diff(b, a); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for key, value := range want.PAXRecords {
			if have.PAXRecords[key] != value && (os.Getuid() == 0 || !strings.Contains(key, "trusted.")) {
				t.Errorf("%s: %s is %q", name, key, have.PAXRecords[key])
			}
		}
	}
}

type entryRead struct {
	*tar.Header
	content string
}

func entriesOf(t *testing.T, r io.Reader) map[string]entryRead {
	all := map[string]entryRead{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Clean(h.Name)] = entryRead{h, string(content)}
	}
}

// TestTreeCopies: what rsync and cp make of a tree is the same, and rsync finds nothing to do the second time.
func TestTreeCopies(t *testing.T) {
	registries.Program(t, "rsync")
	r := registries.Memory(t)
	pushLayers(t, r, "team/tree:v1", registries.TarLayer(t, slices.Concat(treeEntries(), manyEntries(10, 10, "1"))...))
	m := mounted.New(t, mounted.Options{})
	root, dir := m.At(r.Host, "team/tree/tags/v1/rootfs"), t.TempDir()
	flags := []string{"-aH", "--no-D", "--exclude=/dev", "--exclude=/run"} // not everybody may make devices
	if os.Getuid() == 0 {
		flags = []string{"-aHX"}
	}
	rsync := func(more ...string) string {
		return run(t, "rsync", slices.Concat(flags, more, []string{root + "/", dir + "/rsync/"})...)
	}
	rsync()
	if out := rsync("--itemize-changes", "--omit-dir-times"); out != "" {
		t.Errorf("the second rsync did %s", out)
	}
	if out := rsync("--itemize-changes", "--checksum", "--dry-run", "--omit-dir-times"); out != "" {
		t.Errorf("rsync copied something else: %s", out)
	}
	run(t, "cp", "-a", root+"/usr", dir+"/cp")
	run(t, "diff", "-r", root+"/usr", dir+"/cp")
}

// TestTreeDiff: diff -r of two tags tells what changed, and that alone.
func TestTreeDiff(t *testing.T) {
	r := registries.Memory(t)
	base := registries.TarLayer(t, manyEntries(10, 10, "1")...)
	pushLayers(t, r, "team/app:v1", base, registries.Layer(t, registries.Files{"etc/version": "1\n", "etc/old": "old\n"}))
	pushLayers(t, r, "team/app:v2", base, registries.Layer(t, registries.Files{"etc/version": "2\n", "usr/share/d001/new": "new\n"}))
	m := mounted.New(t, mounted.Options{})
	v1, v2 := m.At(r.Host, "team/app/tags/v1/rootfs"), m.At(r.Host, "team/app/tags/v2/rootfs")
	out, _, err := try(t, "diff", "-rq", v1, v2)
	want := fmt.Sprintf("Only in %s/etc: old\nFiles %s/etc/version and %s/etc/version differ\nOnly in %s/usr/share/d001: new\n", v1, v1, v2, v2)
	if err == nil || out != want {
		t.Errorf("diff: %v\n%s", err, cmp.Diff(want, out))
	}
}

// TestTreeGrep: eight at once read every file of a tree that nobody has looked at yet.
func TestTreeGrep(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Memory(t))
	pushLayers(t, proxy.Registry, "team/app:v1", registries.TarLayer(t, manyEntries(30, 30, "1")...), registries.TarLayer(t, manyEntries(10, 10, "2")...))
	m := mounted.New(t, mounted.Options{})
	proxy.Reset()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			out := run(t, "sh", "-c", `grep -r "version 1" "$1" | wc -l; grep -r "version 2" "$1" | wc -l`, "sh", m.At(proxy.Host, "team/app/tags/v1/rootfs"))
			if got := strings.Join(strings.Fields(out), " "); got != "800 100" {
				t.Errorf("grep found %s", got)
			}
		})
	}
	wg.Wait()
	if n := proxy.Count(registries.Get("/blobs/")); n > 3 { // the config is one
		t.Errorf("%d GETs of two layers: %v", n, proxy.Sent(registries.Any))
	}
}
