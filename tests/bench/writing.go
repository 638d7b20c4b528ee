package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/regfs/regfs/tests/daemon"
	"github.com/regfs/regfs/tests/registries"
)

// newRepository is one that nothing was pushed to: a push to it finds nothing of the image there.
func (b *bench) newRepository() string {
	b.pushes++
	return fmt.Sprintf("bench/pushed%d", b.pushes)
}

// newTag makes an image folder in a new repository of a registry.
func (b *bench) newTag(d *daemon.Daemon, r *registries.Registry) string {
	dir := filepath.Join(d.Path, r.Host, b.newRepository(), "tags", "v1")
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.t.Fatalf("%v", err)
	}
	return dir
}

// pushing is a contestant that measures a command with a new mount and an empty cache.
func (b *bench) pushing(name string, command func(d *daemon.Daemon) *exec.Cmd) contestant {
	return contestant{name, func() sample {
		return b.fresh(func(d *daemon.Daemon, _ string) sample { return b.measure(d, command(d)) })
	}}
}

// peer is a contestant that pushes without a mount.
func (b *bench) peer(name string, command func() *exec.Cmd) contestant {
	return contestant{name, func() sample {
		return b.scratch(func(string) sample { return b.measure(nil, command()) })
	}}
}

// betweenRegistries copies the image from one registry to another one.
func (b *bench) betweenRegistries() contest {
	to := func() string { return b.other.Host + "/" + b.newRepository() + ":v1" }
	return contest{
		name: "copy between two registries", goal: 1.05, bytes: b.size, end: func() {},
		contestants: []contestant{
			b.pushing("cp -r within one mount", func(d *daemon.Daemon) *exec.Cmd {
				return b.command("cp", "-r", b.layoutAt(d), b.newTag(d, b.other)+"/oci-layout")
			}),
			b.peer("crane copy", func() *exec.Cmd { return b.command("crane", "copy", b.ref(), to()) }),
			b.peer("regfs copy", func() *exec.Cmd {
				return b.command(b.program, "copy", "-q", "docker://"+b.ref(), "docker://"+to())
			}),
		},
	}
}

// withinRegistry copies the image to another repository of its registry.
func (b *bench) withinRegistry() contest {
	to := func() string { return b.registry.Host + "/" + b.newRepository() + ":v1" }
	return contest{
		name: "copy within one registry", goal: 3, end: func() {},
		contestants: []contestant{
			b.pushing("cp -r within one mount", func(d *daemon.Daemon) *exec.Cmd {
				return b.command("cp", "-r", b.layoutAt(d), b.newTag(d, b.registry)+"/oci-layout")
			}),
			b.peer("crane copy", func() *exec.Cmd { return b.command("crane", "copy", b.ref(), to()) }),
			b.peer("regfs copy", func() *exec.Cmd {
				return b.command(b.program, "copy", "-q", "docker://"+b.ref(), "docker://"+to())
			}),
		},
	}
}

// fromDisk pushes a layout that lies on the disk.
func (b *bench) fromDisk() contest {
	return contest{
		name: "layout on disk to a registry", goal: 1.5, bytes: b.size, end: func() {},
		contestants: []contestant{
			b.pushing("cp -r into the mount", func(d *daemon.Daemon) *exec.Cmd {
				return b.command("cp", "-r", b.local, b.newTag(d, b.other)+"/oci-layout")
			}),
			b.peer("crane push", func() *exec.Cmd {
				return b.command("crane", "push", b.local, b.other.Host+"/"+b.newRepository()+":v1")
			}),
			b.peer("regfs copy", func() *exec.Cmd {
				return b.command(b.program, "copy", "-q", "oci:"+b.local, "docker://"+b.other.Host+"/"+b.newRepository()+":v1")
			}),
		},
	}
}

// bySkopeo copies with skopeo into the mount, and to the disk and from there to the registry.
func (b *bench) bySkopeo() contest {
	from := "docker://" + b.ref()
	return contest{
		name: "skopeo copy to a registry through a layout", goal: 1, bytes: b.size, end: func() {},
		contestants: []contestant{
			b.pushing("skopeo copy into the mount", func(d *daemon.Daemon) *exec.Cmd {
				cmd := b.command("skopeo", "copy", "-q", "--src-tls-verify=false", from, "oci:oci-layout:v1")
				cmd.Dir = b.newTag(d, b.other) // a name of skopeo's ends at the first colon
				return cmd
			}),
			{"skopeo copy to a folder, crane push", func() sample {
				return b.scratch(func(dir string) sample {
					script := `skopeo copy -q --src-tls-verify=false "$1" "oci:$2:v1" && crane push "$2" "$3"`
					return b.measure(nil, b.command("sh", "-c", script, "sh", from, filepath.Join(dir, "out"), b.other.Host+"/"+b.newRepository()+":v1"))
				})
			}},
		},
	}
}

// largeLayer is how large the blob is that is pushed to see how much memory that takes, in bytes.
const largeLayer = 5 << 30

// largePush tells the most memory that a daemon has while it pushes an image of one large layer.
func (b *bench) largePush() string {
	const limit = 150e6
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	defer os.RemoveAll(dir)
	b.writeLayout(filepath.Join(dir, "local"))
	d := b.mount(filepath.Join(dir, "cache"))
	b.peak = 0
	b.must(b.command("cp", "-r", filepath.Join(dir, "local"), b.newTag(d, b.other)+"/oci-layout"))
	b.unmount(d)
	return row("most memory resident while an image of 5 GiB is pushed", "cp -r into the mount", megabytes(b.peak), "≤ 150 MB", b.peak <= limit)
}

// writeLayout makes an OCI layout of an image with one layer of what looks like noise.
func (b *bench) writeLayout(dir string) {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		b.t.Fatalf("%v", err)
	}
	layer := b.writeBlob(blobs, "application/vnd.oci.image.layer.v1.tar", io.LimitReader(noise{}.reader(), largeLayer))
	config := b.writeJSON(blobs, "application/vnd.oci.image.config.v1+json", map[string]any{"os": "linux", "architecture": "amd64"})
	manifest := b.writeJSON(blobs, "application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []any{layer},
	})
	b.writeIndex(dir, []any{manifest})
}

// writeIndex makes a layout of what is in its blobs.
func (b *bench) writeIndex(dir string, manifests []any) {
	b.write(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": manifests})
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	b.write(filepath.Join(dir, "index.json"), index)
}

func (b *bench) write(path string, content []byte) {
	if err := os.WriteFile(path, content, 0o644); err != nil {
		b.t.Fatalf("%v", err)
	}
}

func (b *bench) writeJSON(blobs, mediaType string, document any) map[string]any {
	raw, err := json.Marshal(document)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(raw))
	b.write(filepath.Join(blobs, digest), raw)
	return map[string]any{"mediaType": mediaType, "digest": "sha256:" + digest, "size": len(raw)}
}

// writeBlob writes a blob of any size, and returns its descriptor.
func (b *bench) writeBlob(blobs, mediaType string, content io.Reader) map[string]any {
	f, err := os.CreateTemp(blobs, "")
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), content)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	digest := fmt.Sprintf("%x", sum.Sum(nil))
	if err := os.Rename(f.Name(), filepath.Join(blobs, digest)); err != nil {
		b.t.Fatalf("%v", err)
	}
	return map[string]any{"mediaType": mediaType, "digest": "sha256:" + digest, "size": n}
}

// noise is endless, the same each time, and does not compress.
type noise struct{}

func (noise) reader() io.Reader {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		panic(err) // a key of 16 bytes is one
	}
	return cipher.StreamReader{S: cipher.NewCTR(block, make([]byte, aes.BlockSize)), R: zeros{}}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
