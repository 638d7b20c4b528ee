//go:build linux

package mount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// blobGets are how often each blob was fetched.
func blobGets(p *registries.Proxy) map[string]int {
	n := map[string]int{}
	for _, q := range p.Sent(registries.Get("/blobs/sha256:"), notSkopeo) {
		n[q.Path[strings.LastIndexByte(q.Path, '/')+1:]]++
	}
	return n
}

// TestCopyIndexBetweenRegistries: cp of a multi-platform image, and of one in Docker's format, fetches each blob once and keeps none.
func TestCopyIndexBetweenRegistries(t *testing.T) {
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			from, to := registries.NewProxy(t, start(t, registries.Config{})), start(t, registries.Config{})
			from.PushIndex(t, "team/multi:v1", "1")
			from.PushImage(t, "team/docker:v1", registries.DockerImage(t, "1"))
			for _, name := range []string{"multi", "docker"} {
				cache, staged := t.TempDir(), t.TempDir()
				m := mounted.New(t, mounted.Options{CacheDir: cache, StageDir: staged})
				run(t, "mkdir", m.At(to.Host, "team", name, "tags/v1"))
				from.Reset()
				run(t, "cp", "-r", m.At(from.Host, "team", name, "tags/v1/oci-layout"), m.At(to.Host, "team", name, "tags/v1"))
				gets := blobGets(from)
				for blob, n := range gets {
					if n != 1 {
						t.Errorf("%s of %s was fetched %d times", blob, name, n)
					}
					if found := run(t, "find", cache, staged, "-name", "*"+strings.TrimPrefix(blob, "sha256:")+"*", "-path", "*blobs*"); found != "" {
						t.Errorf("%s of %s is on the disk: %s", blob, name, found)
					}
				}
				if len(gets) < 2 {
					t.Errorf("only %v were fetched of %s", gets, name)
				}
				isPublished(t, to, "team/"+name+":v1", manifestOf(t, from.Registry, "team/"+name+":v1"))
				run(t, "skopeo", "--insecure-policy", "copy", "--all", "--src-tls-verify=false", "docker://"+to.Host+"/team/"+name+":v1", "dir:"+t.TempDir())
				wantNothingStaged(t, m, to, "team/"+name)
				m.Unmount()
			}
		})
	}
}

// TestCopyWithinRepository: cp of an image to another tag of its repository moves nothing but the manifest.
func TestCopyWithinRepository(t *testing.T) {
	r := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	r.PushIndex(t, "team/app:v1", "1")
	m := mounted.New(t, mounted.Options{})
	run(t, "mkdir", m.At(r.Host, "team/app/tags/v2"))
	r.Reset()
	run(t, "cp", "-r", m.At(r.Host, "team/app/tags/v1/oci-layout"), m.At(r.Host, "team/app/tags/v2"))
	isPublished(t, r.Registry, "team/app:v2", manifestOf(t, r.Registry, "team/app:v1"))
	if n := r.Count(posts) + r.Count(sends); n > 0 {
		t.Errorf("uploads: %v %v", r.Sent(posts), r.Sent(sends))
	}
	if gets := blobGets(r); len(gets) > 0 {
		t.Errorf("fetched: %v", gets)
	}
	if n := r.Count(manifests); n != 1 {
		t.Errorf("%d manifests were put: %v", n, r.Sent(manifests))
	}
	wantNothingStaged(t, m, r.Registry, "team/app")
}

// TestEditedCopy: blobs that were copied by reference, and a manifest that was changed on the way, are pushed together: no layer comes
// through the mount.
func TestEditedCopy(t *testing.T) {
	registries.Program(t, "jq")
	p := newPushed(t, "edited", 3<<20)
	from, to := registries.NewProxy(t, registries.Docker(t, registries.Config{})), registries.Docker(t, registries.Config{})
	staged := t.TempDir()
	m := mounted.New(t, mounted.Options{StageDir: staged})
	p.mustPush(t, m.At(from.Host, "team/app/tags/v1"), m.Log)
	run(t, "mkdir", m.At(to.Host, "team/app/tags/v2"))
	from.Reset()
	inShell(t, `cd "$2"; mkdir oci-layout; cp -r "$1/oci-layout/blobs" "$1/oci-layout/oci-layout" oci-layout/
		cd oci-layout; cp "$1/oci-layout/index.json" was.json; old=$(jq -r '.manifests[0].digest' was.json)
		jq '.annotations.edited="yes"' "blobs/sha256/${old#sha256:}" > new.json
		new=$(sha256sum < new.json | cut -d' ' -f1); mv new.json "blobs/sha256/$new"; rm "blobs/sha256/${old#sha256:}"
		jq --arg d "sha256:$new" --argjson n "$(stat -c %s "blobs/sha256/$new")" '.manifests[0].digest=$d | .manifests[0].size=$n' was.json > index.tmp
		rm was.json; mv index.tmp index.json`, m.At(from.Host, "team/app/tags/v1"), m.At(to.Host, "team/app/tags/v2"))
	if got := strings.TrimSpace(run(t, "jq", "-r", ".annotations.edited", m.At(to.Host, "team/app/tags/v2/manifest.json"))); got != "yes" {
		t.Errorf("the manifest that was pushed says %q\n%s", got, m.Log())
	}
	run(t, "cmp", m.At(to.Host, "team/app/tags/v2/layers/00/blob"), p.blob(p.layer))
	if n := blobGets(from)["sha256:"+p.layer]; n != 1 {
		t.Errorf("the layer was fetched %d times", n)
	}
	if files := blobFiles(t, staged, 1<<20); len(files) > 0 {
		t.Errorf("on the disk: %v", files)
	}
	wantNothingStaged(t, m, to, "team/app")
}

// manifestOf is what a registry has under repository:tag.
func manifestOf(t *testing.T, r *registries.Registry, ref string) []byte {
	t.Helper()
	repository, tag, _ := strings.Cut(ref, ":")
	return []byte(run(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+r.Host+"/"+repository+":"+tag))
}

// TestCopyRepository: cp of a repository's layout into another one's copies all of its images, under their tags, and leaves the others
// there alone.
func TestCopyRepository(t *testing.T) {
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			from, to := start(t, registries.Config{}), registries.NewProxy(t, start(t, registries.Config{}))
			from.PushIndex(t, "team/app:multi", "1")
			from.PushImage(t, "team/app:v1", registries.Image(t, registries.Platforms[0], "1"))
			from.PushImage(t, "team/app:v2", registries.Image(t, registries.Platforms[0], "2"))
			from.PushArtifact(t, "team/app:docs")
			// It has no blob of the others: cp goes by inode numbers, and one that is there already may come when all is pushed.
			other, err := random.Image(1000, 1)
			if err != nil {
				t.Fatal(err)
			}
			to.PushImage(t, "team/copy:old", other)
			old := manifestOf(t, to.Registry, "team/copy:old")
			m := mounted.New(t, mounted.Options{})
			to.Reset()
			run(t, "cp", "-r", m.At(from.Host, "team/app/oci-layout")+"/.", m.At(to.Host, "team/copy/oci-layout"))
			for _, tag := range []string{"multi", "v1", "v2", "docs"} {
				isPublished(t, to.Registry, "team/copy:"+tag, manifestOf(t, from, "team/app:"+tag))
			}
			isPublished(t, to.Registry, "team/copy:old", old)
			for _, tag := range []string{"multi", "v1", "v2", "docs", "old"} {
				if n := to.Count(manifests, registries.Path("/"+tag+"$")); n != 1 && tag != "old" || n > 0 && tag == "old" {
					t.Errorf("%s was put %d times", tag, n)
				}
			}
			if got := list(t, m, to.Host, "team/copy/tags"); !cmp.Equal(got, []string{"docs", "multi", "old", "v1", "v2"}) {
				t.Errorf("the copy has the tags %v", got)
			}
			wantNothingStaged(t, m, to.Registry, "team/copy")
			run(t, "cp", m.At(from.Host, "team/app/oci-layout/oci-layout"), m.At(to.Host, "team/copy/oci-layout")) // says nothing alone
			wantNothingStaged(t, m, to.Registry, "team/copy")
		})
	}
}

// TestRepositoryLayoutClients: programs that know layouts add images to a repository's own, and take them from there.
func TestRepositoryLayoutClients(t *testing.T) {
	registries.Program(t, "umoci")
	r := registries.Docker(t, registries.Config{})
	r.PushImage(t, "team/app:v1", registries.Image(t, registries.Platforms[0], "1"))
	was := manifestOf(t, r, "team/app:v1")
	m := mounted.New(t, mounted.Options{TagTTL: -1})
	local := layoutOf(t, registries.Index(t, "9"))
	inShell(t, `cd "$1"; regctl image copy "ocidir://$2:v1" ocidir://oci-layout:by-regctl
		skopeo --insecure-policy copy --all "oci:$2:v1" oci:oci-layout:by-skopeo
		umoci new --image oci-layout:by-umoci; echo hello > "$3"
		umoci insert --rootless --image oci-layout:by-umoci "$3" /hello
		umoci tag --image oci-layout:by-umoci again`, m.At(r.Host, "team/app"), local, filepath.Join(t.TempDir(), "hello"))
	isPublished(t, r, "team/app:v1", was)
	isPublished(t, r, "team/app:by-regctl", onlyManifest(t, local))
	if got, want := tagged(t, r, "team/app", "again"), tagged(t, r, "team/app", "by-umoci"); got == "" || got != want {
		t.Errorf("umoci tag put %q and not %q", got, want)
	}
	bundle := filepath.Join(t.TempDir(), "bundle")
	inShell(t, `cd "$1"; umoci unpack --rootless --image oci-layout:again "$2"; test "$(cat "$2/rootfs/hello")" = hello`, m.At(r.Host, "team/app"), bundle)
	if got := list(t, m, r.Host, "team/app/tags"); !cmp.Equal(got, []string{"again", "by-regctl", "by-skopeo", "by-umoci", "v1"}) {
		t.Errorf("the repository has the tags %v", got)
	}
	wantNothingStaged(t, m, r, "team/app")
}

// TestRemoveTree: a program that removes all it can of an image, goes on after each error and ends with the folder itself, removes
// nothing; what it hid for itself shows again.
func TestRemoveTree(t *testing.T) {
	r := writable["distribution"](t, registries.Config{Delete: true})
	r.PushIndex(t, "team/app:v1", "1")
	want := manifestOf(t, r, "team/app:v1")
	m := mounted.New(t, mounted.Options{AllowDelete: true, Silence: 300 * time.Millisecond})
	v1 := m.At(r.Host, "team/app/tags/v1")
	before := run(t, "find", v1, "-path", "*/rootfs", "-prune", "-o", "-print")
	removeTree(v1)
	if err := syscall.Rmdir(v1); err != syscall.ENOTEMPTY {
		t.Errorf("rmdir after all of that: %v", err)
	}
	isPublished(t, r, "team/app:v1", want)
	waitFor(t, "all of the image", func() bool {
		after, _, err := try(t, "find", v1, "-path", "*/rootfs", "-prune", "-o", "-print")
		return err == nil && slices.Equal(sorted(strings.Fields(after)), sorted(strings.Fields(before)))
	})
	run(t, "cp", "-r", v1+"/oci-layout", t.TempDir())
}

// removeTree is what shutil.rmtree(path, ignore_errors=True) does.
func removeTree(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			removeTree(path)
		} else {
			syscall.Unlink(path)
		}
	}
	syscall.Rmdir(dir)
}

// TestCopyOverItself: an image that is copied over itself, or over one that is the same, changes nothing and leaves nothing.
func TestCopyOverItself(t *testing.T) {
	r := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	r.PushIndex(t, "team/app:v1", "1")
	m := mounted.New(t, mounted.Options{})
	local := filepath.Join(t.TempDir(), "oci-layout")
	run(t, "cp", "-r", m.At(r.Host, "team/app/tags/v1/oci-layout"), local)
	for i, script := range []string{
		`cp -r "$1/." "$2/oci-layout"`, `cp -a "$1" "$2"`, `rsync -a "$1" "$2"`, `rsync -a --checksum --delete "$1" "$2"`, `tar -C "$1" -c . | tar -C "$2/oci-layout" -x`,
	} {
		r.Reset()
		inShell(t, script, local, m.At(r.Host, "team/app/tags/v1"))
		if n := r.Count(sends) + r.Count(manifests); n > 0 {
			t.Errorf("%s sent %v", script, append(r.Sent(sends), r.Sent(manifests)...))
		}
		wantNothingStaged(t, m, r.Registry, "team/app")
		if s, ok := m.Stage.Status(stage.Site{Repository: site(r.Registry, "team/app"), Tag: "v1"}); ok && s.State != stage.Pushed {
			t.Errorf("%s leaves %s", script, fmt.Sprint(i, s))
		}
	}
}
