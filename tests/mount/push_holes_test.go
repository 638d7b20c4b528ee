//go:build linux

package mount_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// holedLayer is a tar as it is, with noise, more of it than an upload waits for, zeros and noise again.
func holedLayer(t *testing.T) []byte {
	t.Helper()
	content := make([]byte, 5<<20)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(content[:2<<20])
	random.Read(content[4<<20:])
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "disk", Mode: 0o644, Size: int64(len(content)), ModTime: registries.Created})
	_, err2 := w.Write(content)
	if err := errors.Join(err, err2, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestHoles: programs that leave zeros out, write a file's parts in another order or twice, or set its length before, push what they
// wrote, at once: an upload that began with the first part does not hold it up.
func TestHoles(t *testing.T) {
	raw := holedLayer(t)
	img := registries.BuildImage(t, registries.Platforms[0], "1", static.NewLayer(raw, types.OCIUncompressedLayer))
	local := layoutOf(t, img)
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{Timeout: 30 * time.Second})
	for name, script := range map[string]string{
		"cp-sparse":     `cp --sparse=always "$1" "$2"`,
		"rsync-sparse":  `rsync -S "$1" "$2"`,
		"rsync-inplace": `rsync --inplace "$1" "$2"`,
		"tar-sparse":    `tar -C "$(dirname "$1")" -cSf - "$(basename "$1")" | tar -C "$(dirname "$2")" -xSf -`,
		"dd-sparse":     `dd if="$1" of="$2" bs=64k conv=sparse status=none`,
		"length-first":  `truncate -s "$(stat -c %s "$1")" "$2" || true; dd if="$1" of="$2" bs=64k conv=notrunc status=none`,
		"twice":         `dd if=/dev/zero of="$2" bs=1M count=3 status=none || true; cp "$1" "$2"`,
		"last-first": `dd if="$1" of="$2" bs=1M skip=3 seek=3 conv=notrunc status=none || true
			dd if="$1" of="$2" bs=1M count=3 conv=notrunc status=none`,
	} {
		t.Run(name, func(t *testing.T) {
			registries.Program(t, strings.SplitN(script, " ", 2)[0])
			folder := m.At(r.Host, "holes", name, "tags/v1")
			run(t, "mkdir", folder)
			layer := digest.FromBytes(raw).Encoded()
			inShell(t, `mkdir "$2/oci-layout"; cp "$1/index.json" "$2/oci-layout"; mkdir -p "$2/oci-layout/blobs/sha256"
				for f in "$1"/blobs/sha256/*; do test "${f##*/}" = "$3" || cp "$f" "$2/oci-layout/blobs/sha256"; done`, local, folder, layer)
			begin := time.Now()
			inShell(t, script, filepath.Join(local, "blobs/sha256", layer), folder+"/oci-layout/blobs/sha256/"+layer)
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			isPublished(t, r, "holes/"+name+":v1", onlyManifest(t, local))
			if got, err := os.ReadFile(folder + "/layers/00/blob"); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("the layer in the registry is another one: %v", err)
			}
			wantNothingStaged(t, m, r, "holes/"+name)
			wantState(t, m, r.Host, "holes/"+name, "v1", stage.Pushed)
		})
	}
}
