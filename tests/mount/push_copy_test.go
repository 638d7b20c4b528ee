//go:build linux

package mount_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.podman.io/image/v5/types"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// site is a repository as stagings are named by.
func site(r *registries.Registry, repository string) image.Repository {
	return image.Repository{Host: r.Host, Name: repository}
}

// TestCopyBetweenMounts copies an image from one mount to another one, to registries that want to know who comes.
func TestCopyBetweenMounts(t *testing.T) {
	p := newPushed(t, "between mounts", 3<<20)
	from := registries.Memory(t)
	source := mounted.New(t, mounted.Options{})
	p.mustPush(t, source.At(from.Host, "team/app/tags/v1"), source.Log)
	for kind, start := range writable {
		for _, c := range []registries.Config{
			{}, {Auth: registries.Htpasswd}, {Auth: registries.Token}, {TLS: true}, {Auth: registries.Htpasswd, TLS: true}, {Auth: registries.Token, TLS: true},
		} {
			t.Run(fmt.Sprintf("%s, auth %d, TLS %v", kind, c.Auth, c.TLS), func(t *testing.T) {
				r := start(t, c)
				system := &types.SystemContext{AuthFilePath: registries.AuthFile(t, r.Host)}
				if r.CA != nil {
					system.DockerPerHostCertDirPath = registries.CertsDir(t, r)
				}
				m := mounted.New(t, mounted.Options{System: system})
				folder := m.At(r.Host, "team/copy/tags/v1")
				if err := os.Mkdir(folder, 0o755); err != nil {
					t.Fatal(err)
				}
				run(t, "cp", "-r", source.At(from.Host, "team/app/tags/v1/oci-layout"), folder)
				d, err := remote.Get(r.Ref(t, "team/copy:v1"), r.Options(t)...)
				if err != nil || d.Digest.String() != p.digest {
					t.Errorf("%v arrived, %v, not %s\n%s", d, err, p.digest, m.Log())
				}
				run(t, "cmp", m.At(r.Host, "team/copy/tags/v1/layers/00/blob"), p.blob(p.layer))
			})
		}
	}
}

// blobFiles are the files of content in a folder of the cache or of what is staged: those as large as a layer.
func blobFiles(t *testing.T, dir string, least int64) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() >= least {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCopyBetweenRegistries: cp between two registries of a mount passes no blob through the kernel, the cache or the staging: each is
// fetched once, and streamed.
func TestCopyBetweenRegistries(t *testing.T) {
	p := newPushed(t, "between registries", 3<<20)
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			from, to := registries.NewProxy(t, start(t, registries.Config{})), start(t, registries.Config{})
			cache, staged := t.TempDir(), t.TempDir()
			{
				m := mounted.New(t, mounted.Options{})
				p.mustPush(t, m.At(from.Host, "team/app/tags/v1"), m.Log)
				m.Unmount()
			}
			m := mounted.New(t, mounted.Options{CacheDir: cache, StageDir: staged})
			folder := m.At(to.Host, "team/copy/tags/v1")
			if err := os.Mkdir(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			from.Reset()
			run(t, "cp", "-r", m.At(from.Host, "team/app/tags/v1/oci-layout"), folder)
			p.pulls(t, to.Host+"/team/copy:v1")
			if n := from.Count(registries.Get("/blobs/sha256:" + p.layer)); n != 1 {
				t.Errorf("the layer was fetched %d times", n)
			}
			if files := append(blobFiles(t, cache, 1<<20), blobFiles(t, staged, 1<<20)...); len(files) > 0 {
				t.Errorf("on the disk: %v", files)
			}
			if s := statusOf(t, m.Path, to.Host, "team/copy", "v1"); !slices.ContainsFunc(s.Blobs, func(b stage.BlobStatus) bool { return b.How == image.Streamed }) {
				t.Errorf("nothing was streamed: %+v", s.Blobs)
			}
		})
	}
}

// TestCopyWithinRegistry: cp to another repository of the same registry moves no byte of a blob.
func TestCopyWithinRegistry(t *testing.T) {
	p := newPushed(t, "within a registry", 3<<20)
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			r := registries.NewProxy(t, start(t, registries.Config{}))
			m := mounted.New(t, mounted.Options{})
			p.mustPush(t, m.At(r.Host, "team/app/tags/v1"), m.Log)
			folder := m.At(r.Host, "team/copy/tags/v1")
			if err := os.Mkdir(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			r.Reset()
			run(t, "cp", "-r", m.At(r.Host, "team/app/tags/v1/oci-layout"), folder)
			p.pulls(t, r.Host+"/team/copy:v1")
			if sent := r.Sent(sends, notSkopeo); len(sent) > 0 {
				t.Errorf("bytes were sent: %v", sent)
			}
			if n := r.Count(registries.Get("/blobs/"), notSkopeo); n > 0 {
				t.Errorf("%d blobs were fetched", n)
			}
			if n := r.Count(posts); n != 2 {
				t.Errorf("%d mounts, not one for each of the two blobs", n)
			}
		})
	}
}

// notSkopeo leaves out what pulls does to check.
func notSkopeo(q registries.Request) bool {
	return !strings.Contains(strings.Join(q.Header.Values("User-Agent"), " "), "skopeo")
}

// TestReferencedFilesAreFiles: what was copied by reference reads as it is, and can be changed like any other.
func TestReferencedFilesAreFiles(t *testing.T) {
	p := newPushed(t, "referenced", 200_000)
	r := registries.Memory(t)
	m := mounted.New(t, mounted.Options{})
	p.mustPush(t, m.At(r.Host, "team/app/tags/v1"), m.Log)
	folder := m.At(r.Host, "team/copy/tags/v1/oci-layout")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	layer := m.At(r.Host, "team/app/tags/v1/oci-layout/blobs/sha256", p.layer)
	run(t, "cp", layer, folder+"/some")
	run(t, "cmp", layer, folder+"/some")
	run(t, "sh", "-c", `echo more >> "$1/some" && cp "$2" "$3/disk" && echo more >> "$3/disk" && cmp "$1/some" "$3/disk"`, "sh", folder, layer, t.TempDir())
	run(t, "sh", "-c", `truncate -s 1000 "$1/some" && head -c 1000 "$2" | cmp - "$1/some"`, "sh", folder, layer)
}

// TestOnlyWhatChanged: an image that shares blobs with what is there sends the others only, and a blob alone pushes nothing.
func TestOnlyWhatChanged(t *testing.T) {
	p, q := newPushed(t, "before", 3<<20), newPushed(t, "after", 2<<20)
	r := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	m := mounted.New(t, mounted.Options{})
	p.mustPush(t, m.At(r.Host, "team/app/tags/v1"), m.Log)
	r.Reset()
	p.mustPush(t, m.At(r.Host, "team/app/tags/v2"), m.Log)
	if sent := r.Sent(sends); len(sent) > 0 {
		t.Errorf("the same image once more sends %v", sent)
	}
	if n := r.Count(manifests); n != 1 {
		t.Errorf("%d manifests were put", n)
	}
	r.Reset()
	run(t, "cp", q.blob(q.layer), m.At(r.Host, "team/app/tags/v1/oci-layout/blobs/sha256")+"/")
	if n := r.Count(manifests); n > 0 {
		t.Errorf("a blob alone puts %d manifests", n)
	}
	q.mustPush(t, m.At(r.Host, "team/app/tags/v1"), m.Log)
	q.pulls(t, r.Host+"/team/app:v1")
	p.pulls(t, r.Host+"/team/app:v2")
}

// TestBlobsThatAreThere need not be written.
func TestBlobsThatAreThere(t *testing.T) {
	p := newPushed(t, "there", 2<<20)
	r := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	m := mounted.New(t, mounted.Options{})
	p.mustPush(t, m.At(r.Host, "team/app/tags/v1"), m.Log)
	folder := m.At(r.Host, "team/app/tags/v2/oci-layout/blobs/sha256")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	r.Reset()
	run(t, "cp", p.blob(p.manifest), folder)
	run(t, "cp", p.dir+"/index.json", filepath.Dir(filepath.Dir(folder)))
	if got := tagged(t, r.Registry, "team/app", "v2"); got != p.digest {
		t.Errorf("v2 is %s, not %s\n%s", got, p.digest, m.Log())
	}
	if sent := r.Sent(sends); len(sent) > 0 {
		t.Errorf("sent: %v", sent)
	}
}
