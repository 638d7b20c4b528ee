//go:build linux

package mount_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
	"github.com/regfs/regfs/tests/registries/distribution"
)

// shell runs a script that has to succeed.
func inShell(t *testing.T, script string, args ...string) string {
	t.Helper()
	return run(t, "sh", append([]string{"-ec", script, "sh"}, args...)...)
}

// TestPutManifest: a manifest written into an image folder is put under the tag, if all it names is there.
func TestPutManifest(t *testing.T) {
	registries.Program(t, "jq")
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			r := start(t, registries.Config{})
			r.PushImage(t, "team/app:v1", registries.Image(t, registries.Platforms[0], "1"))
			r.PushIndex(t, "team/app:multi", "1")
			m := mounted.New(t, mounted.Options{})
			tags := m.At(r.Host, "team/app/tags")
			inShell(t, `cd "$1"; mkdir v2; jq '.annotations.x="y"' v1/manifest.json > v2/manifest.json
				test "$(cat v2/digest)" = "sha256:$(sha256sum < v2/manifest.json | cut -d' ' -f1)"
				jq '.annotations.x="z"' v1/manifest.json > v1/manifest.json.new || jq '.annotations.x="z"' v2/manifest.json > "$2"; cat "$2" > v1/manifest.json
				cmp v1/manifest.json "$2"
				mkdir multi2; jq '.annotations.x="y"' multi/index.json > multi2/index.json; ls multi2/platforms/linux`, tags, filepath.Join(t.TempDir(), "m"))
			for name, c := range map[string]struct {
				script string
				errno  syscall.Errno
				words  string
			}{
				"a layer that is not there": {`mkdir a; sed 's/sha256:[0-9a-f]*/sha256:` + strings.Repeat("0", 64) + `/' v1/manifest.json > a/manifest.json`, syscall.ENOENT, strings.Repeat("0", 64)},
				"over an index":             {`cat v1/manifest.json > multi/manifest.json`, syscall.EINVAL, "index.json"},
				"an index":                  {`mkdir b; cat multi/index.json > b/manifest.json`, syscall.EINVAL, "index"},
				"no index":                  {`mkdir c; cat v1/manifest.json > c/index.json`, syscall.EINVAL, "manifest.json"},
				"no JSON":                   {`mkdir d; echo hello > d/manifest.json`, syscall.EINVAL, "d"},
				"no digest":                 {`echo hello > v2/digest`, syscall.EINVAL, "digest"},
				"a digest of nothing":       {`echo sha256:` + strings.Repeat("0", 64) + ` > v2/digest`, syscall.ENOENT, "0000"},
				"another file":              {`echo hello > v2/hello`, syscall.EPERM, ""},
			} {
				// The shell says nothing of a failed close; dd does.
				script := strings.Replace(c.script, "> ", "| dd status=none of=", 1)
				_, stderr, err := try(t, "sh", "-ec", `cd "$1"; `+script, "sh", tags)
				t.Run(name, func(t *testing.T) { saysErrno(t, stderr, err, c.errno) })
				if log := read(t, m, ".regfs/errors.log"); !strings.Contains(log, c.words) {
					t.Errorf("%s: the log does not say %q:\n%s", name, c.words, log)
				}
			}
		})
	}
}

// TestPutBlob: a blob written into blobs/ is uploaded, if it is what it is called.
func TestPutBlob(t *testing.T) {
	p := newPushed(t, "put", 3<<20)
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			r := start(t, registries.Config{})
			m := mounted.New(t, mounted.Options{})
			blobs := m.At(r.Host, "team/app/blobs/sha256")
			run(t, "cp", p.blob(p.layer), p.blob(p.config), blobs)
			run(t, "cmp", p.blob(p.layer), filepath.Join(blobs, p.layer))
			_, stderr, err := try(t, "cp", p.blob(p.config), filepath.Join(blobs, p.manifest))
			saysErrno(t, stderr, err, syscall.EINVAL)
			_, stderr, err = try(t, "cp", p.blob(p.config), filepath.Join(blobs, "hello"))
			saysErrno(t, stderr, err, syscall.EPERM)
			run(t, "rm", filepath.Join(blobs, p.manifest)) // it is still there, to be mended
			wantNothingStaged(t, m, r, "team/app")
		})
	}
}

// TestTags adds and moves tags, by ln and by writing a digest.
func TestTags(t *testing.T) {
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			r := start(t, registries.Config{})
			r.PushIndex(t, "team/app:v1", "1")
			r.PushImage(t, "team/app:v2", registries.Image(t, registries.Platforms[0], "2"))
			m := mounted.New(t, mounted.Options{})
			inShell(t, `cd "$1"; ln -s v1 stable; ln -s ./v2 edge; cmp v1/digest stable/digest; cmp v2/digest edge/digest
				cat v2/digest > stable/digest; cmp v2/digest stable/digest
				mkdir new; cat v1/digest > new/digest; cmp v1/index.json new/index.json`, m.At(r.Host, "team/app/tags"))
			if got, want := tagged(t, r, "team/app", "stable"), tagged(t, r, "team/app", "v2"); got != want || got == "" {
				t.Errorf("stable is %s and not %s", got, want)
			}
			for _, script := range []string{`ln -s /etc/passwd "$1/x"`, `ln -s v1/digest "$1/x"`, `ln -s v2 "$1/v1/x"`} {
				_, stderr, err := try(t, "sh", "-ec", script, "sh", m.At(r.Host, "team/app/tags"))
				saysErrno(t, stderr, err, syscall.EPERM)
			}
			_, stderr, err := try(t, "ln", "-s", "nosuch", m.At(r.Host, "team/app/tags/y"))
			saysErrno(t, stderr, err, syscall.ENOENT)
		})
	}
}

// TestDeleteTags deletes and renames tags where the registry can: that tag and no other. Where it can't, nothing has changed.
func TestDeleteTags(t *testing.T) {
	for kind, can := range map[string]bool{"distribution": true, "docker-registry": false} {
		t.Run(kind, func(t *testing.T) {
			r := writable[kind](t, registries.Config{Delete: true})
			r.PushIndex(t, "team/app:v1", "1")
			m := mounted.New(t, mounted.Options{AllowDelete: true})
			tags := m.At(r.Host, "team/app/tags")
			inShell(t, `cd "$1"; ln -s v1 rc; ln -s v1 old`, tags)
			want := tagged(t, r, "team/app", "v1")
			_, stderr, err := try(t, "rmdir", tags+"/old")
			if can {
				inShell(t, `mv "$1/rc" "$1/final"; ! ls "$1/rc"`, tags)
			} else {
				saysErrno(t, stderr, err, syscall.ENOTSUP)
				_, stderr, err = try(t, "mv", tags+"/rc", tags+"/final")
				saysErrno(t, stderr, err, syscall.ENOTSUP)
			}
			if can != (err == nil) {
				t.Errorf("%v: %s", err, stderr)
			}
			for tag, there := range map[string]bool{"v1": true, "old": !can, "rc": !can, "final": can} {
				if got := tagged(t, r, "team/app", tag); (got == want) != there {
					t.Errorf("%s is %q", tag, got)
				}
			}
			_, stderr, err = try(t, "mv", tags+"/v1", m.At(r.Host, "team/other/tags"))
			if err == nil {
				t.Errorf("a tag was moved to another repository: %s", stderr)
			}
			inShell(t, `rmdir "$1/digests/$2"; ! ls "$1/digests/$2"`, m.At(r.Host, "team/app"), want)
			if got := tagged(t, r, "team/app", "v1"); got != "" {
				t.Errorf("v1 is still %s", got)
			}
		})
	}
}

// TestNothingIsDeleted by those who remove files, or without being allowed to.
func TestNothingIsDeleted(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		r := distribution.Start(t, registries.Config{Delete: true})
		r.PushIndex(t, "team/app:v1", "1")
		m := mounted.New(t, mounted.Options{AllowDelete: allowed})
		v1 := m.At(r.Host, "team/app/tags/v1")
		for _, script := range []string{`rm -rf "$1"`, `find "$1" -delete`, `rm -rf "$1"/*; rm -r "$1"`} {
			if out, stderr, err := try(t, "sh", "-c", script, "sh", v1); err == nil {
				t.Errorf("%s: it worked: %s%s", script, out, stderr)
			}
		}
		if !allowed {
			for _, script := range []string{`rmdir "$1"`, `mv "$1" "$1.new"`, `rmdir "$1/../../digests/$(cat "$1/digest")"`} {
				_, stderr, err := try(t, "sh", "-c", script, "sh", v1)
				saysErrno(t, stderr, err, syscall.EPERM)
			}
		}
		if tagged(t, r, "team/app", "v1") == "" {
			t.Errorf("with deletion allowed %v the tag is gone", allowed)
		}
	}
}

// TestRepositoryLayout: every named image that is written into a repository's own layout goes to the tag of its name.
func TestRepositoryLayout(t *testing.T) {
	p := newPushed(t, "one more", 100_000)
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			r := start(t, registries.Config{})
			r.PushImage(t, "team/app:v1", registries.Image(t, registries.Platforms[0], "1"))
			r.PushImage(t, "from/app:v9", registries.Image(t, registries.Platforms[0], "9"))
			m := mounted.New(t, mounted.Options{})
			repository := m.At(r.Host, "team/app")
			was := tagged(t, r, "team/app", "v1")
			inShell(t, `cd "$1"; skopeo --insecure-policy copy --src-tls-verify=false "docker://$2/from/app:v9" oci:oci-layout:v9`, repository, r.Host)
			index := filepath.Join(t.TempDir(), "index.json")
			inShell(t, `cd "$1/oci-layout"; cp "$2"/blobs/sha256/* blobs/sha256/
				jq --argjson d "$(jq .manifests[0] "$2/index.json")" '.manifests += [($d | .annotations["org.opencontainers.image.ref.name"]="a"), ($d | .annotations["org.opencontainers.image.ref.name"]="b")]' index.json > "$3"
				cp "$3" index.json`, repository, p.dir, index)
			for tag, want := range map[string]string{"v1": was, "v9": tagged(t, r, "from/app", "v9"), "a": p.digest, "b": p.digest} {
				if got := tagged(t, r, "team/app", tag); got != want {
					t.Errorf("%s is %q and not %q\n%s", tag, got, want, m.Log())
				}
			}
			wantNothingStaged(t, m, r, "team/app")
		})
	}
}

// TestFolders: what mkdir makes can be removed again, as long as nothing is in it.
func TestFolders(t *testing.T) {
	r := registries.Memory(t)
	r.PushIndex(t, "team/app:v1", "1")
	m := mounted.New(t, mounted.Options{})
	tags := m.At(r.Host, "team/app/tags")
	inShell(t, `cd "$1"; mkdir v2; ls v2; mkdir v2/oci-layout v2/oci-layout/blobs; ! mkdir v2/other; ! rmdir v2; ls; rmdir v2/oci-layout/blobs v2/oci-layout v2; ! ls v2; ! mkdir v1`, tags)
	if err := os.Mkdir(tags+"/-x", 0o755); err == nil {
		t.Error("a tag that no registry takes")
	}
}

// TestRefusedDigest: what was refused does not read as what the tag is.
func TestRefusedDigest(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	r.PushImage(t, "team/app:v1", registries.Image(t, registries.Platforms[0], "1"))
	m := mounted.New(t, mounted.Options{})
	script := `cd "$1"; was=$(cat v1/digest); ! echo "$2" | dd status=none of=v1/digest; test "$(cat v1/digest)" = "$was"
		mkdir x; ! echo "$2" | dd status=none of=x/digest; ! cat x/digest`
	inShell(t, script, m.At(r.Host, "team/app/tags"), "sha256:"+strings.Repeat("0", 64))
}
