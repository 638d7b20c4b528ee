//go:build linux

package mount_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/layer"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// The moments that files of the tests' trees were changed at: one with a fraction, one before 1970.
var (
	fractional = time.Unix(1234567890, 123456789)
	early      = time.Unix(-2, 500000000)
)

// capability is a security.capability that lets a program open raw sockets (capabilities(7), vfs_cap_data of version 2).
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

const xattrRecord = "SCHILY.xattr."

// treeEntries are a layer with one of everything.
func treeEntries() []registries.TarEntry {
	at := func(h tar.Header) registries.TarEntry {
		if h.ModTime.IsZero() {
			h.ModTime = registries.Created
		}
		return registries.TarEntry{Header: h}
	}
	file := func(h tar.Header, content string) registries.TarEntry {
		e := at(h)
		e.Content = content
		return e
	}
	return []registries.TarEntry{
		at(tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o750, Gid: 42}),
		file(tar.Header{Name: "etc/os-release", Mode: 0o644, ModTime: fractional}, "ID=regfs\n"),
		at(tar.Header{Name: "etc/hard", Typeflag: tar.TypeLink, Linkname: "etc/os-release"}),
		at(tar.Header{Name: "etc/link", Typeflag: tar.TypeSymlink, Linkname: "../etc/os-release", Mode: 0o777}),
		file(tar.Header{Name: "etc/shadow", Mode: 0, Uid: 3_000_000_000, Gid: 7}, "secret\n"),
		file(tar.Header{Name: "usr/bin/su", Mode: 0o4755, PAXRecords: map[string]string{
			xattrRecord + "security.capability": capability, xattrRecord + "user.note": "a note",
			xattrRecord + "trusted.secret": "for root",
		}}, "#!/bin/sh\necho su\n"),
		at(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777, ModTime: early}),
		at(tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}),
		at(tar.Header{Name: "dev/disk", Typeflag: tar.TypeBlock, Mode: 0o660, Gid: 6, Devmajor: 259, Devminor: 70_000}),
		at(tar.Header{Name: "run/pipe", Typeflag: tar.TypeFifo, Mode: 0o600}),
		file(tar.Header{Name: "opt/old/gone", Mode: 0o644}, "gone\n"),
		file(tar.Header{Name: "opt/old/too", Mode: 0o644}, "gone too\n"),
	}
}

// changeEntries are a layer that removes, replaces and adds something.
func changeEntries() []registries.TarEntry {
	return []registries.TarEntry{
		{Header: tar.Header{Name: "opt/old/.wh..wh..opq", Mode: 0o644, ModTime: registries.Created}},
		{Header: tar.Header{Name: "opt/old/new", Mode: 0o644, ModTime: registries.Created}, Content: "new\n"},
		{Header: tar.Header{Name: "run/.wh.pipe", Mode: 0o644, ModTime: registries.Created}},
	}
}

// pushTree pushes an image of both layers, and returns where its folder is.
func pushTree(t *testing.T, r *registries.Registry) string {
	pushLayers(t, r, "team/tree:v1", registries.TarLayer(t, treeEntries()...), registries.TarLayer(t, changeEntries()...))
	return "team/tree/tags/v1"
}

func pushLayers(t *testing.T, r *registries.Registry, ref string, layers ...v1.Layer) {
	r.PushImage(t, ref, registries.BuildImage(t, registries.Platforms[0], "1", layers...))
}

// stat is what stat(2) tells of a file of a mount, but for its inode.
type stat struct {
	Type, Mode    uint32
	Nlink         uint64
	UID, GID      uint32
	Size          int64
	Mtime         time.Time
	Major, Minor  uint32
	Accessed, Set bool // the other times are that, too
}

func statOf(t *testing.T, path string) (stat, uint64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	s := stat{
		Type: st.Mode & unix.S_IFMT, Mode: st.Mode &^ unix.S_IFMT, Nlink: uint64(st.Nlink), UID: st.Uid, GID: st.Gid, Size: st.Size,
		Mtime: time.Unix(st.Mtim.Unix()).UTC(), Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
		Accessed: st.Atim == st.Mtim, Set: st.Ctim == st.Mtim,
	}
	return s, st.Ino
}

// TestTreeAttributes: all that stat(2) tells of a file is what the layer says.
func TestTreeAttributes(t *testing.T) {
	r := registries.Memory(t)
	image := pushTree(t, r)
	m := mounted.New(t, mounted.Options{})
	created := registries.Created
	for path, want := range map[string]stat{
		"etc":            {Type: unix.S_IFDIR, Mode: 0o750, Nlink: 1, GID: 42, Mtime: created},
		"etc/os-release": {Type: unix.S_IFREG, Mode: 0o644, Nlink: 2, Size: 9, Mtime: fractional.UTC()},
		"etc/hard":       {Type: unix.S_IFREG, Mode: 0o644, Nlink: 2, Size: 9, Mtime: fractional.UTC()},
		"etc/link":       {Type: unix.S_IFLNK, Mode: 0o777, Nlink: 1, Size: 17, Mtime: created},
		"etc/shadow":     {Type: unix.S_IFREG, Mode: 0, Nlink: 1, UID: 3_000_000_000, GID: 7, Size: 7, Mtime: created},
		"usr/bin/su":     {Type: unix.S_IFREG, Mode: 0o4755, Nlink: 1, Size: 18, Mtime: created},
		"tmp":            {Type: unix.S_IFDIR, Mode: 0o1777, Nlink: 1, Mtime: early.UTC()},
		"dev/null":       {Type: unix.S_IFCHR, Mode: 0o666, Nlink: 1, Mtime: created, Major: 1, Minor: 3},
		"dev/disk":       {Type: unix.S_IFBLK, Mode: 0o660, Nlink: 1, GID: 6, Mtime: created, Major: 259, Minor: 70_000},
		"opt/old/new":    {Type: unix.S_IFREG, Mode: 0o644, Nlink: 1, Size: 4, Mtime: created},
	} {
		want.Accessed, want.Set = true, true
		got, ino := statOf(t, m.At(r.Host, image, "rootfs", path))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
		if path == "opt/old/new" {
			continue // it is of another layer
		}
		if inTree, other := statOf(t, m.At(r.Host, image, "layers/00/tree", path)); inTree != want || other == ino {
			t.Errorf("layers/00/tree/%s: inode %d, %s", path, other, cmp.Diff(want, inTree))
		}
	}
	_, one := statOf(t, m.At(r.Host, image, "rootfs/etc/os-release"))
	if _, other := statOf(t, m.At(r.Host, image, "rootfs/etc/hard")); one != other {
		t.Errorf("the inodes of hard links are %d and %d", one, other)
	}
	if pipe, _ := statOf(t, m.At(r.Host, image, "layers/00/tree/run/pipe")); pipe.Type != unix.S_IFIFO || pipe.Mode != 0o600 {
		t.Errorf("the fifo is %v", pipe)
	}
}

// TestTreeTop: the top folder is as all of the mount's are, whatever the layers say of theirs.
func TestTreeTop(t *testing.T) {
	r := registries.Memory(t)
	pushLayers(t, r, "team/tree:v1", registries.TarLayer(t,
		registries.TarEntry{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 5, ModTime: registries.Created}}))
	m := mounted.New(t, mounted.Options{})
	for _, path := range []string{"rootfs", "layers/00/tree"} {
		got, _ := statOf(t, m.At(r.Host, "team/tree/tags/v1", path))
		want := stat{Type: unix.S_IFDIR, Mode: 0o555, Nlink: 1, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Mtime: time.Unix(0, 0).UTC(), Accessed: true, Set: true}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

// TestTreeContent: names, links, content and extended attributes.
func TestTreeContent(t *testing.T) {
	registries.Program(t, "getfattr")
	r := registries.Memory(t)
	image := pushTree(t, r)
	m := mounted.New(t, mounted.Options{})
	at := func(path string) string { return m.At(r.Host, image, path) }
	for path, want := range map[string]string{
		"rootfs":                 "dev etc opt run tmp usr",
		"rootfs/opt/old":         "new",
		"rootfs/run":             "",
		"layers/00/tree/opt/old": "gone too",
		"layers/01/tree/run":     ".wh.pipe",
		"layers/01/tree/opt/old": ".wh..wh..opq new",
	} {
		if got := strings.Join(strings.Fields(run(t, "ls", "-A", at(path))), " "); got != want {
			t.Errorf("ls %s: %q, not %q", path, got, want)
		}
	}
	for path, want := range map[string]string{"rootfs/etc/link": "ID=regfs\n", "rootfs/etc/hard": "ID=regfs\n", "rootfs/etc/shadow": "secret\n"} {
		if got := read(t, m, r.Host, image, path); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	if got := strings.TrimSpace(run(t, "readlink", at("rootfs/etc/link"))); got != "../etc/os-release" {
		t.Errorf("readlink: %q", got)
	}
	want := "security.capability=0sAQAAAgAgAAAAAAAAAAAAAAAAAAA=\ntrusted.secret=0sZm9yIHJvb3Q=\nuser.note=0sYSBub3Rl\n"
	if os.Getuid() != 0 {
		want = strings.Replace(want, "trusted.secret=0sZm9yIHJvb3Q=\n", "", 1)
	}
	got := run(t, "getfattr", "--absolute-names", "-d", "-m", "-", "-e", "base64", at("rootfs/usr/bin/su"))
	if _, attrs, _ := strings.Cut(strings.TrimSpace(got)+"\n", "\n"); attrs != want {
		t.Errorf("getfattr: %s", cmp.Diff(want, attrs))
	}
	if out := run(t, "getfattr", "--absolute-names", "-d", "-m", "-", at("rootfs/etc/os-release"), at("rootfs"), at("layers/00/tree")); out != "" {
		t.Errorf("attributes of what has none: %s", out)
	}
}

// TestTreeWhiteouts: with --whiteouts overlay a layer's tree is what overlayfs wants of its lower folders.
func TestTreeWhiteouts(t *testing.T) {
	registries.Program(t, "getfattr")
	r := registries.Memory(t)
	image := pushTree(t, r)
	m := mounted.New(t, mounted.Options{Whiteouts: layer.AsOverlay})
	pipe, _ := statOf(t, m.At(r.Host, image, "layers/01/tree/run/pipe"))
	if pipe.Type != unix.S_IFCHR || pipe.Major != 0 || pipe.Minor != 0 {
		t.Errorf("the whiteout is %v", pipe)
	}
	if got := list(t, m, r.Host, image, "layers/01/tree/opt/old"); !cmp.Equal(got, []string{"new"}) {
		t.Errorf("in the opaque folder are %v", got)
	}
	if os.Getuid() == 0 {
		opaque := run(t, "getfattr", "--only-values", "-n", "trusted.overlay.opaque", m.At(r.Host, image, "layers/01/tree/opt/old"))
		if opaque != "y" {
			t.Errorf("trusted.overlay.opaque is %q", opaque)
		}
	}
}

// TestTreeIsFixed: nothing in a tree can be changed, by the errno that other fixed files have.
func TestTreeIsFixed(t *testing.T) {
	r := registries.Memory(t)
	image := pushTree(t, r)
	m := mounted.New(t, mounted.Options{})
	root := m.At(r.Host, image, "rootfs")
	for what, err := range map[string]error{
		"mkdir":    os.Mkdir(root+"/etc/new", 0o755),
		"write":    os.WriteFile(root+"/etc/os-release", nil, 0o644),
		"create":   os.WriteFile(root+"/etc/new", nil, 0o644),
		"unlink":   unix.Unlink(root + "/etc/os-release"),
		"rmdir":    unix.Rmdir(root + "/tmp"),
		"rename":   os.Rename(root+"/etc/os-release", root+"/etc/other"),
		"link":     os.Link(root+"/etc/os-release", root+"/etc/other"),
		"symlink":  os.Symlink("a", root+"/b"),
		"truncate": os.Truncate(root+"/etc/os-release", 0),
		"top":      unix.Rmdir(root),
	} {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v, not EPERM", what, err)
		}
	}
}

// TestTreeWhere: there are trees of the layers of images, on all ways to them, and of nothing else.
func TestTreeWhere(t *testing.T) {
	r := registries.Docker(t, registries.Config{Schema1: true})
	r.PushIndex(t, "team/app:v1", "1")
	r.PushImage(t, "team/docker:v1", registries.DockerImage(t, "1"))
	r.PushImage(t, "team/schema1:v1", registries.DockerImage(t, "1"))
	r.PushSchema1(t, "team/schema1:v1")
	r.PushArtifact(t, "team/oras:v1")
	r.PushChart(t, "team/chart:v1")
	desc := r.Head(t, "team/app:v1")
	m := mounted.New(t, mounted.Options{})
	for path, want := range map[string]string{
		"team/app/tags/v1":                         "#!/bin/sh\necho hello from linux/amd64, 1\n",
		"team/app/tags/v1/platforms/linux/arm64":   "#!/bin/sh\necho hello from linux/arm64, 1\n",
		"team/app/digests/" + desc.Digest.String(): "#!/bin/sh\necho hello from linux/amd64, 1\n",
		"team/docker/tags/v1":                      "#!/bin/sh\necho hello from docker, 1\n",
		"team/schema1/tags/v1":                     "#!/bin/sh\necho hello from docker, 1\n",
	} {
		layers := list(t, m, r.Host, path, "layers")
		for _, tree := range []string{"rootfs", "layers/" + layers[len(layers)-1] + "/tree"} {
			if got := read(t, m, r.Host, path, tree, "bin/hello"); got != want {
				t.Errorf("%s/%s: %q", path, tree, got)
			}
		}
	}
	for _, path := range []string{"team/oras/tags/v1", "team/chart/tags/v1"} {
		for _, tree := range []string{"rootfs", "layers/00/tree"} {
			if _, err := os.Lstat(m.At(r.Host, path, tree)); !os.IsNotExist(err) {
				t.Errorf("%s/%s: %v", path, tree, err)
			}
		}
		if names := list(t, m, r.Host, path, "layers/00"); !cmp.Equal(names, []string{"blob", "digest"}) {
			t.Errorf("%s has %v", path, names)
		}
	}
}

// TestTreeRefused: what can't be shown has a folder, and says why when somebody looks into it.
func TestTreeRefused(t *testing.T) {
	r := registries.Memory(t)
	layers := map[string]string{
		"encrypted": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
		"garbage":   "application/vnd.oci.image.layer.v1.tar+gzip",
	}
	for name, mediaType := range layers {
		content := r.PushBlob(t, "team/"+name, []byte(strings.Repeat("this is no layer", 100)))
		config := r.PushBlob(t, "team/"+name, []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`))
		r.PushManifest(t, "team/"+name+":v1", "application/vnd.oci.image.manifest.v1+json", fmt.Appendf(nil,
			`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
			config.Digest, config.Size, mediaType, content.Digest, content.Size))
	}
	m := mounted.New(t, mounted.Options{})
	for name, want := range map[string]error{"encrypted": unix.EACCES, "garbage": unix.EIO} {
		for _, tree := range []string{"rootfs", "layers/00/tree"} {
			path := m.At(r.Host, "team", name, "tags/v1", tree)
			if names := run(t, "ls", "-ld", path); !strings.HasPrefix(names, "dr-xr-xr-x") {
				t.Errorf("%s: %s", path, names)
			}
			if _, err := os.ReadDir(path); !errors.Is(err, want) {
				t.Errorf("%s: %v, not %v", path, err, want)
			}
			if _, err := os.Lstat(path + "/etc"); !errors.Is(err, want) {
				t.Errorf("%s/etc: %v, not %v", path, err, want)
			}
		}
	}
	if log := read(t, m, ".regfs/errors.log"); !strings.Contains(log, "encrypted") {
		t.Errorf("errors.log says %s", log)
	}
}

// TestTreeProblems: what is wrong with a layer, whose rest is shown, is told once.
func TestTreeProblems(t *testing.T) {
	r := registries.Memory(t)
	bad := registries.TarLayer(t,
		registries.TarEntry{Header: tar.Header{Name: "../../etc/passwd", Mode: 0o644, ModTime: registries.Created}, Content: "x"},
		registries.TarEntry{Header: tar.Header{Name: "good", Mode: 0o644, ModTime: registries.Created}, Content: "good\n"})
	pushLayers(t, r, "team/bad:v1", bad)
	m := mounted.New(t, mounted.Options{})
	for _, path := range []string{"rootfs/good", "layers/00/tree/good"} {
		if got := read(t, m, r.Host, "team/bad/tags/v1", path); got != "good\n" {
			t.Errorf("%s: %q", path, got)
		}
	}
	digest, err := bad.Digest()
	if err != nil {
		t.Fatal(err)
	}
	log := read(t, m, ".regfs/errors.log")
	if n := strings.Count(log, digest.String()); n != 1 {
		t.Errorf("errors.log names the layer %d times: %s", n, log)
	}
}
