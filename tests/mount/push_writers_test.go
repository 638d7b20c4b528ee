//go:build linux

package mount_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// TestWritersOfManyTags: eight images written at once, each to a tag of its own, are all pushed.
func TestWritersOfManyTags(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	images := make([]*pushed, 8)
	for i := range images {
		images[i] = newPushed(t, fmt.Sprint("many", i), 1<<20)
	}
	var writers sync.WaitGroup
	for i, img := range images {
		writers.Go(func() {
			if stderr, err := img.cpTo(t, m.At(r.Host, "team/many/tags", fmt.Sprint("v", i))); err != nil {
				t.Errorf("cp %d: %v\n%s%s", i, err, stderr, m.Log())
			}
		})
	}
	writers.Wait()
	for i, img := range images {
		img.pulls(t, fmt.Sprintf("%s/team/many:v%d", r.Host, i))
		wantState(t, m, r.Host, "team/many", fmt.Sprint("v", i), stage.Pushed)
	}
}

// TestWritersOfOneTag: two images written at once to one tag end as one of them, whole, whatever the two are told; and who comes after
// them pushes as if nothing had been.
func TestWritersOfOneTag(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	a, b, after := newPushed(t, "one", 1<<20), newPushed(t, "other", 1<<20), newPushed(t, "after", 1<<10)
	for i := range 10 {
		repository := fmt.Sprint("team/one", i)
		folder := m.At(r.Host, repository, "tags/v1")
		// cp gives a whole folder up that another one has made since it looked.
		if err := os.MkdirAll(folder+"/oci-layout/blobs/sha256", 0o755); err != nil {
			t.Fatal(err)
		}
		var writers sync.WaitGroup
		var failed [2]error
		var said [2]string
		for j, img := range []*pushed{a, b} {
			writers.Go(func() { said[j], failed[j] = img.cpTo(t, folder) })
		}
		writers.Wait()
		switch got := tagged(t, r, repository, "v1"); {
		case got == a.digest:
			a.pulls(t, r.Host+"/"+repository+":v1")
		case got == b.digest:
			b.pulls(t, r.Host+"/"+repository+":v1")
		default:
			t.Errorf("round %d: the tag is %q, although they ended in %v\n%s\n%s", i, got, failed, said, m.Log())
		}
		after.mustPush(t, folder, m.Log)
		after.pulls(t, r.Host+"/"+repository+":v1")
	}
}

// TestWriterAfterAnother: a tag is written by one process after the other, also after one that stopped halfway.
func TestWriterAfterAnother(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	folder := m.At(r.Host, "team/after/tags/v1")
	for i := range 4 {
		img := newPushed(t, fmt.Sprint("after", i), 1<<18)
		img.mustPush(t, folder, m.Log)
		img.pulls(t, r.Host+"/team/after:v1")
		if got := sha256Of(t, folder+"/manifest.json"); got != img.digest {
			t.Errorf("%d: who wrote it reads %s, not %s", i, got, img.digest)
		}
		stopped := newPushed(t, fmt.Sprint("stopped", i), 1<<18)
		run(t, "cp", stopped.blob(stopped.layer), folder+"/oci-layout/blobs/sha256/")
		run(t, "cp", stopped.dir+"/index.json", folder+"/oci-layout/")
		img.pulls(t, r.Host+"/team/after:v1")
	}
}

// apart runs a shell command in a process that nobody who writes has anything to do with: its parent is a shell of its own session.
func apart(ctx context.Context, command string, args ...string) (output string, err error) {
	all := append([]string{"--wait", "sh", "-c", "(" + command + "); exit $?", "sh"}, args...)
	out, err := exec.CommandContext(ctx, "setsid", all...).CombinedOutput()
	return string(out), err
}

// TestWriterApart: somebody who has nothing to do with who left half an image over a published one, and does not see that, writes his
// own as if it were not there.
func TestWriterApart(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	old, left, img := newPushed(t, "old", 1<<10), newPushed(t, "left", 1<<18), newPushed(t, "apart", 1<<18)
	for what, command := range map[string]string{
		"another image": `cp -r "$1/." "$3/oci-layout"`, "index.json first": `cp "$1/index.json" "$3/oci-layout/" && cp -r "$1/." "$3/oci-layout"`,
		"the same image": `cp "$2/blobs/sha256/` + left.config + `" "$3/oci-layout/blobs/sha256/" && cp -r "$2/." "$3/oci-layout"`, "a folder": `mkdir "$3/oci-layout/.tmp" && cp -r "$1/." "$3/oci-layout"`,
		"the digest": `echo ` + old.digest + ` > "$3/digest"`,
	} {
		repository := "apart/" + strings.ReplaceAll(what, " ", "-")
		folder := m.At(r.Host, repository, "tags/v1")
		old.mustPush(t, folder, m.Log)
		at := left.begun(t, folder)
		run(t, "mkdir", at+"/.tmp")
		run(t, "sh", "-c", `head -c 1000 "$1" > "$2/blobs/sha256/.layer"; echo nonsense > "$2/../digest"`, "sh", left.blob(left.layer), at)
		if said, err := apart(t.Context(), command, img.dir, left.dir, folder); err != nil {
			t.Errorf("%s: %v\n%s%s", what, err, said, m.Log())
		}
		want := map[string]*pushed{"the same image": left, "the digest": old}[what]
		if want == nil {
			want = img
		}
		want.pulls(t, r.Host+"/"+repository+":v1")
	}
}

// isOne checks that a copied layout is one of the images, with all of it and nothing else, and returns which.
func isOne(dir string, images map[string]*pushed) (string, error) {
	var index v1.IndexManifest
	raw, err := os.ReadFile(dir + "/index.json")
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		return "", err
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("index.json lists %d images: %s", len(index.Manifests), raw)
	}
	dgst := index.Manifests[0].Digest.String()
	img := images[dgst]
	if img == nil {
		return "", fmt.Errorf("nobody has ever written %s", dgst)
	}
	return dgst, img.isWhole(dir)
}

// isWhole checks that a copied layout has the blobs of the image, and no others.
func (p *pushed) isWhole(dir string) error {
	entries, err := os.ReadDir(dir + "/blobs/sha256")
	if err != nil {
		return err
	}
	want := map[string]bool{p.manifest: true, p.config: true, p.layer: true}
	for _, e := range entries {
		if !want[e.Name()] {
			return fmt.Errorf("it is %s, and has the blob %s", p.manifest, e.Name())
		}
		delete(want, e.Name())
		got, err := os.ReadFile(filepath.Join(dir, "blobs/sha256", e.Name()))
		if err != nil {
			return err
		}
		if right, err := os.ReadFile(p.blob(e.Name())); err != nil || !bytes.Equal(got, right) {
			return fmt.Errorf("blob %s has %d bytes that are not its own: %v", e.Name(), len(got), err)
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("it is %s, and lacks %v", p.manifest, want)
	}
	return nil
}

// TestReadersOfAPushedTag: who copies a tag that others replace again and again gets one of the images each time, whole.
func TestReadersOfAPushedTag(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{TagTTL: -1})
	images := map[string]*pushed{}
	var order []*pushed
	for i := range 3 {
		img := newPushed(t, fmt.Sprint("replaced", i), 1<<18)
		images[img.digest], order = img, append(order, img)
	}
	folder := m.At(r.Host, "team/replaced/tags/v1")
	order[0].mustPush(t, folder, m.Log)

	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	var all sync.WaitGroup
	all.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			if stderr, err := order[i%len(order)].cpTo(t, folder); err != nil {
				t.Errorf("cp %d: %v\n%s%s", i, err, stderr, m.Log())
				return
			}
		}
	})
	var mu sync.Mutex
	seen := map[string]int{}
	for i := range 3 {
		dir := t.TempDir()
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				out := filepath.Join(dir, fmt.Sprint(n))
				if said, err := apart(t.Context(), `cp -r "$1" "$2"`, folder+"/oci-layout", out); err != nil {
					t.Errorf("reader %d: %v\n%s%s", i, err, said, m.Log())
					return
				}
				dgst, err := isOne(out, images)
				if err != nil {
					t.Errorf("reader %d, copy %d: %v", i, n, err)
				}
				mu.Lock()
				seen[dgst]++
				mu.Unlock()
				os.RemoveAll(out)
			}
		})
	}
	all.Wait()
	if len(seen) < 2 {
		t.Errorf("the readers have seen %v: nobody has replaced anything", seen)
	}
}

// TestReadersOfWhatIsOverwritten: while somebody has written half of another image over a published one, everybody else reads the
// published one, whole, and the writer reads what was written.
func TestReadersOfWhatIsOverwritten(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{TagTTL: -1})
	old, img := newPushed(t, "published", 1<<18), newPushed(t, "over", 1<<18)
	folder := m.At(r.Host, "team/over/tags/v1")
	old.mustPush(t, folder, m.Log)
	at := folder + "/oci-layout/"
	for _, step := range []struct{ what, command string }{
		{"nothing", "true"},
		{"a blob", "cp " + img.blob(img.config) + " " + at + "blobs/sha256/"},
		{"index.json", "cp " + img.dir + "/index.json " + at},
		{"the manifest", "cp " + img.blob(img.manifest) + " " + at + "blobs/sha256/"},
		{"a removed blob", "rm " + at + "blobs/sha256/" + old.layer},
		{"half a layer", "head -c 1000 " + img.blob(img.layer) + " > " + at + "blobs/sha256/.tmp"},
	} {
		run(t, "sh", "-c", step.command)
		out := filepath.Join(t.TempDir(), "copy")
		if said, err := apart(t.Context(), `cp -r "$1" "$2"`, folder+"/oci-layout", out); err != nil {
			t.Errorf("after %s: %v\n%s%s", step.what, err, said, m.Log())
			continue
		}
		if _, err := isOne(out, map[string]*pushed{old.digest: old}); err != nil {
			t.Errorf("after %s: %v", step.what, err)
		}
	}
	if got := run(t, "cat", at+"index.json"); !strings.Contains(got, img.digest) {
		t.Errorf("who has written index.json reads %s", got)
	}
	old.pulls(t, r.Host+"/team/over:v1")
	run(t, "cp", img.blob(img.layer), at+"blobs/sha256/")
	img.pulls(t, r.Host+"/team/over:v1")
}
