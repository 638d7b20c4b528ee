//go:build linux

package mount_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
	"github.com/regfs/regfs/tests/registries/distribution"
)

// writable are the registries that clients push to through a mount.
var writable = map[string]func(t *testing.T, c registries.Config) *registries.Registry{
	"docker-registry": func(t *testing.T, c registries.Config) *registries.Registry { return registries.Docker(t, c) },
	"distribution":    func(t *testing.T, c registries.Config) *registries.Registry { return distribution.Start(t, c) },
}

// writer is a way to write a layout on disk, $1, or an image in a registry, $2, as oci-layout in the folder it is run in.
type writer struct {
	needs  string
	script string
}

// writers are those of the issue: coreutils and their like, and what people have that knows images.
var writers = map[string]writer{
	"cp -r":   {"cp", `cp -r "$1" oci-layout`},
	"cp -a":   {"cp", `cp -a "$1" oci-layout`},
	"cp into": {"cp", `mkdir -p oci-layout/blobs/sha256 && cp -rT "$1" oci-layout`},
	"rsync":   {"rsync", `rsync -a "$1/" oci-layout/`},
	"tar":     {"tar", `mkdir -p oci-layout && tar -C "$1" -cf - . | tar -C oci-layout -xf -`},
	"mv":      {"mv", `d=$(mktemp -d) && cp -r "$1" "$d/moved" && mv "$d/moved" oci-layout`},
	"mv files": {"mv", `d=$(mktemp -d) && cp -r "$1/." "$d" && mkdir -p oci-layout/blobs/sha256 && mv "$d"/blobs/sha256/* oci-layout/blobs/sha256/ &&
		mv "$d/oci-layout" "$d/index.json" oci-layout/`},
	"skopeo": {"skopeo", `skopeo --insecure-policy copy --src-tls-verify=false "docker://$2" oci:oci-layout:v1`},
	"crane":  {"crane", `crane pull --insecure --format=oci "$2" oci-layout`},
	"regctl": {"regctl", `regctl --host "reg=${2%%/*},tls=disabled" image copy "$2" ocidir://oci-layout:v1`},
	"oras": {"cp", `mkdir -p oci-layout/blobs/sha256 oci-layout/ingest && cp "$1/oci-layout" oci-layout/ &&
		for f in "$1"/blobs/sha256/*; do cp "$f" oci-layout/ingest/x && chmod 0444 oci-layout/ingest/x && mv oci-layout/ingest/x oci-layout/blobs/sha256/${f##*/} || exit 1; done &&
		cp "$1/index.json" oci-layout/index.json.tmp && mv oci-layout/index.json.tmp oci-layout/index.json && rmdir oci-layout/ingest`},
	"index first": {"cp", `mkdir -p oci-layout/blobs/sha256 && cp "$1/index.json" oci-layout/ && cp "$1"/blobs/sha256/* oci-layout/blobs/sha256/ && cp "$1/oci-layout" oci-layout/`},
}

// writeIn runs a writer in a tag's folder.
func (w writer) writeIn(t *testing.T, folder, local, ref string) {
	t.Helper()
	registries.Program(t, w.needs)
	out, stderr, err := try(t, "sh", "-c", `cd "$0" && `+w.script, folder, local, ref)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr)
	}
}

// TestClientsPush: whoever writes a layout into a new tag's folder pushes it, byte for byte, and leaves nothing behind.
func TestClientsPush(t *testing.T) {
	eachWriter(t, func(t *testing.T, m *mounted.Mount, r *registries.Registry, w writer, old, p *pushed, repository string) {
		folder := m.At(r.Host, repository, "tags/v1")
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		w.writeIn(t, folder, p.dir, r.Host+"/from/new:v1")
	})
}

// TestClientsReplace: the same over an image that is there.
func TestClientsReplace(t *testing.T) {
	eachWriter(t, func(t *testing.T, m *mounted.Mount, r *registries.Registry, w writer, old, p *pushed, repository string) {
		folder := m.At(r.Host, repository, "tags/v1")
		old.mustPush(t, folder, m.Log)
		if strings.HasSuffix(w.script, `"$1" oci-layout`) && strings.HasPrefix(w.script, "cp -") {
			w.script = strings.Replace(w.script, `"$1" oci-layout`, `"$1/." oci-layout`, 1) // or it would copy into the folder that is there
		}
		if strings.Contains(w.script, "/moved") { // mv replaces no folder that is not empty
			w = writers["mv files"]
		}
		w.writeIn(t, folder, p.dir, r.Host+"/from/new:v1")
	})
}

// eachWriter has each client write an image, over each registry, and checks that it is pushed.
func eachWriter(t *testing.T, push func(t *testing.T, m *mounted.Mount, r *registries.Registry, w writer, old, p *pushed, repository string)) {
	old, p := newPushed(t, "old", 100_000), newPushed(t, "new", 3<<20)
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			r := start(t, registries.Config{})
			m := mounted.New(t, mounted.Options{})
			p.mustPush(t, m.At(r.Host, "from/new/tags/v1"), m.Log)
			for name, w := range writers {
				t.Run(name, func(t *testing.T) {
					repository := "to/" + strings.Trim(strings.Map(letters, name), "-")
					push(t, m, r, w, old, p, repository)
					p.pulls(t, r.Host+"/"+repository+":v1")
					wantNothingStaged(t, m, r, repository)
					wantState(t, m, r.Host, repository, "v1", stage.Pushed)
					if got := strings.TrimSpace(read(t, m, r.Host, repository, "tags/v1/digest")); got != p.digest {
						t.Errorf("digest says %s, not %s", got, p.digest)
					}
				})
			}
		})
	}
}

func letters(r rune) rune {
	if r >= 'a' && r <= 'z' {
		return r
	}
	return '-'
}

// indexes are ways to write a multi-platform image.
var indexes = []string{"cp -r", "rsync", "tar", "regctl", "crane"}

// TestClientsPushIndexes: multi-platform images arrive whole.
func TestClientsPushIndexes(t *testing.T) {
	local := filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(local, empty.Index)
	if err == nil {
		err = path.AppendIndex(registries.Index(t, "multi"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			r := start(t, registries.Config{})
			m := mounted.New(t, mounted.Options{})
			want := r.PushIndex(t, "from/multi:v1", "multi")
			digest, err := want.Digest()
			if err != nil {
				t.Fatal(err)
			}
			for i, name := range indexes {
				repository := fmt.Sprintf("to/multi%d", i)
				folder := m.At(r.Host, repository, "tags/v1")
				if err := os.Mkdir(folder, 0o755); err != nil {
					t.Fatal(err)
				}
				writers[name].writeIn(t, folder, local, r.Host+"/from/multi:v1")
				if got := tagged(t, r, repository, "v1"); got != digest.String() {
					t.Errorf("%s pushed %s, not %s", name, got, digest)
				}
				run(t, "skopeo", "--insecure-policy", "copy", "--all", "--src-tls-verify=false", "docker://"+r.Host+"/"+repository+":v1", "dir:"+t.TempDir())
			}
			all := m.At(r.Host, "to/all/tags/v1")
			if err := os.Mkdir(all, 0o755); err != nil {
				t.Fatal(err)
			}
			// Debian's skopeo writes the index anew: what it wrote is what is to arrive.
			run(t, "sh", "-c", `cd "$1" && skopeo --insecure-policy copy --all --src-tls-verify=false "docker://$2" oci:oci-layout:v1`, "sh", all, r.Host+"/from/multi:v1")
			if got := len(list(t, m, r.Host, "to/all/tags/v1/platforms/linux")); got != 3 {
				t.Errorf("skopeo copy --all brings %d architectures", got)
			}
			run(t, "skopeo", "--insecure-policy", "copy", "--all", "--src-tls-verify=false", "docker://"+r.Host+"/to/all:v1", "dir:"+t.TempDir())
		})
	}
}

// TestUmoci builds and changes an image in the mount.
func TestUmoci(t *testing.T) {
	registries.Program(t, "umoci")
	for kind, start := range writable {
		t.Run(kind, func(t *testing.T) {
			r := start(t, registries.Config{})
			m := mounted.New(t, mounted.Options{})
			folder := m.At(r.Host, "team/built/tags/v1")
			if err := os.Mkdir(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			work := t.TempDir()
			script := `cd "$1" && echo hello > "$2/hello" && umoci init --layout oci-layout && umoci new --image oci-layout:v1 &&
				umoci insert --rootless --image oci-layout:v1 "$2/hello" /hello && umoci config --image oci-layout:v1 --config.env GREETING=hi &&
				umoci unpack --rootless --image oci-layout:v1 "$2/bundle" && echo changed > "$2/bundle/rootfs/hello" &&
				umoci repack --image oci-layout:v1 "$2/bundle"`
			out, stderr, err := try(t, "sh", "-c", script, "sh", folder, work)
			if err != nil {
				t.Fatalf("%v\n%s%s\n%s", err, out, stderr, m.Log())
			}
			run(t, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+r.Host+"/team/built:v1", "oci:"+work+"/pulled:v1")
			run(t, "umoci", "unpack", "--rootless", "--image", work+"/pulled:v1", work+"/again")
			if got, err := os.ReadFile(work + "/again/rootfs/hello"); err != nil || string(got) != "changed\n" {
				t.Errorf("the image has %q, %v", got, err)
			}
			var config struct{ Config struct{ Env []string } }
			if err := json.Unmarshal([]byte(read(t, m, r.Host, "team/built/tags/v1/config.json")), &config); err != nil || fmt.Sprint(config.Config.Env) != "[GREETING=hi]" {
				t.Errorf("the environment is %v, %v", config.Config.Env, err)
			}
			wantNothingStaged(t, m, r, "team/built")
		})
	}
}
