//go:build linux

package mount_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

const (
	copiers = 8
	copies  = 6 // by each copier
	moves   = 50 * time.Millisecond
)

// TestMovingTags copies images whose tags move twenty times a second, with eight processes at once: every copy is one
// version, and whole.
func TestMovingTags(t *testing.T) {
	r := registries.Memory(t)
	versions := make([]v1.ImageIndex, 4)
	for i := range versions {
		versions[i] = r.PushIndex(t, fmt.Sprintf("team/app:version%d", i), fmt.Sprint(i))
	}
	for i := range copiers {
		tag(t, r, fmt.Sprintf("team/app:moving%d", i), versions[0])
	}
	m := mounted.New(t, mounted.Options{TagTTL: -1})

	ctx, stop := context.WithCancel(t.Context())
	var movers, workers sync.WaitGroup
	for i := range copiers {
		movers.Go(func() { keepMoving(ctx, t, r, fmt.Sprintf("team/app:moving%d", i), versions) })
		workers.Go(func() {
			for range copies {
				copyAndCheck(t, m.At(r.Host, fmt.Sprintf("team/app/tags/moving%d", i)), m.Log)
			}
		})
	}
	workers.Wait()
	stop()
	movers.Wait()
}

// TestOneMovingTag is the same with all processes on one tag.
func TestOneMovingTag(t *testing.T) {
	r := registries.Memory(t)
	versions := []v1.ImageIndex{r.PushIndex(t, "team/app:a", "a"), r.PushIndex(t, "team/app:b", "b")}
	tag(t, r, "team/app:moving", versions[0])
	m := mounted.New(t, mounted.Options{TagTTL: -1})
	ctx, stop := context.WithCancel(t.Context())
	var mover, workers sync.WaitGroup
	mover.Go(func() { keepMoving(ctx, t, r, "team/app:moving", versions) })
	for range copiers {
		workers.Go(func() {
			for range copies {
				copyAndCheck(t, m.At(r.Host, "team/app/tags/moving"), m.Log)
			}
		})
	}
	workers.Wait()
	stop()
	mover.Wait()
}

func tag(t *testing.T, r *registries.Registry, ref string, idx v1.ImageIndex) {
	t.Helper()
	if err := remote.Put(r.Ref(t, ref), idx, r.Options(t)...); err != nil {
		t.Error(err)
	}
}

func keepMoving(ctx context.Context, t *testing.T, r *registries.Registry, ref string, versions []v1.ImageIndex) {
	tick := time.NewTicker(moves)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			tag(t, r, ref, versions[i%len(versions)])
		}
	}
}

// copyAndCheck copies an image folder, and checks that all of it is the version that its index.json says.
func copyAndCheck(t *testing.T, folder string, log func() string) {
	out, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Error(err)
		return
	}
	if _, stderr, err := try(t, "cp", "-r", folder, out+"/copy"); err != nil {
		t.Errorf("cp: %v\n%s%s", err, stderr, log())
		return
	}
	if err := oneVersion(out + "/copy"); err != nil {
		t.Error(err)
	}
	os.RemoveAll(out)
}

// oneVersion holds everything in a copied image folder against its index.json. The file digest is never pinned.
func oneVersion(dir string) error {
	raw, err := os.ReadFile(dir + "/index.json")
	if err != nil {
		return err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return err
	}
	want := map[string]bool{}
	for _, p := range index.Manifests {
		manifest, err := os.ReadFile(filepath.Join(dir, "platforms", p.Platform.OS, p.Platform.Architecture, p.Platform.Variant, "manifest.json"))
		if err != nil {
			return err
		}
		if got, _, _ := v1.SHA256(bytes.NewReader(manifest)); got != p.Digest {
			return fmt.Errorf("%v: manifest %v under an index that names %v", p.Platform, got, p.Digest)
		}
		var m v1.Manifest
		if err := json.Unmarshal(manifest, &m); err != nil {
			return err
		}
		want[p.Digest.Hex], want[m.Config.Digest.Hex] = true, true
		for _, l := range m.Layers {
			want[l.Digest.Hex] = true
		}
	}
	return sameBlobs(dir, raw, want)
}

func sameBlobs(dir string, index []byte, want map[string]bool) error {
	top, _, err := v1.SHA256(bytes.NewReader(index))
	if err != nil {
		return err
	}
	want[top.Hex] = true
	entries, err := os.ReadDir(dir + "/oci-layout/blobs/sha256")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !want[e.Name()] {
			return fmt.Errorf("blob %s of another version", e.Name())
		}
		delete(want, e.Name())
		b, err := os.ReadFile(filepath.Join(dir, "oci-layout/blobs/sha256", e.Name()))
		if err != nil {
			return err
		}
		if got, _, _ := v1.SHA256(bytes.NewReader(b)); got.Hex != e.Name() {
			return fmt.Errorf("blob %s has the digest %s", e.Name(), got)
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("blobs missing from the layout: %v", want)
	}
	return nil
}
