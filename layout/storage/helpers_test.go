//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"

	"github.com/regfs/regfs/image"
)

var drivers = []string{"vfs", "overlay"}

// place is a store of a driver, on a path that podman does not find too long.
type place struct {
	*Store
	driver, dir string
}

func newPlace(t *testing.T, driver string) *place {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can unpack layers")
	}
	dir, err := os.MkdirTemp("", "")
	must(t, err)
	p := &place{driver: driver, dir: dir}
	p.Store, err = Create(t.Context(), p.spec())
	must(t, err)
	t.Cleanup(func() {
		must(t, p.Close())
		must(t, os.RemoveAll(dir))
	})
	return p
}

func (p *place) spec() string { return p.driver + "@" + p.dir + "/root+" + p.dir + "/run" }

// ref is how skopeo calls an image of the store.
func (p *place) ref(name string) string { return "containers-storage:[" + p.spec() + "]" + name }

// podman runs podman, or buildah, over the store.
func (p *place) podman(t *testing.T, program string, arg ...string) string {
	t.Helper()
	return run(t, program, append([]string{"--root", p.dir + "/root", "--runroot", p.dir + "/run", "--storage-driver", p.driver}, arg...)...)
}

func (p *place) source(t *testing.T, repository string) image.Source {
	t.Helper()
	src, err := p.host(t, repository).Source(t.Context(), within(repository))
	must(t, err)
	return src
}

func (p *place) sink(t *testing.T, repository string) image.Sink {
	t.Helper()
	k, err := p.host(t, repository).Sink(t.Context(), within(repository))
	must(t, err)
	t.Cleanup(func() { must(t, k.Close()) })
	return k
}

func (p *place) host(t *testing.T, repository string) image.Host {
	t.Helper()
	host, _, _ := strings.Cut(repository, "/")
	h, err := p.Host(host)
	must(t, err)
	return h
}

func within(repository string) string {
	_, name, _ := strings.Cut(repository, "/")
	return name
}

// run runs a program, if it is here, and returns what it printed. On CI it must be.
func run(t *testing.T, name string, arg ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), name, arg...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arg, " "), err, complaints.String())
	}
	return string(out)
}

// made is an image, in memory.
type made struct {
	image.Descriptor
	raw    []byte
	config []byte
	blobs  map[digest.Digest][]byte
	m      v1.Manifest
	plain  []digest.Digest
}

// makeImage makes an image of layers, each of which is a tar.
func makeImage(t *testing.T, command string, layers ...[]byte) *made {
	t.Helper()
	i := &made{blobs: map[digest.Digest][]byte{}}
	created := time.Unix(1e9, 0).UTC()
	config := v1.Image{
		Created: &created, Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		Config: v1.ImageConfig{Cmd: []string{"/bin/sh", "-c", command}}, RootFS: v1.RootFS{Type: "layers"},
	}
	i.m = v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(layer))
		config.History = append(config.History, v1.History{Created: &created, CreatedBy: "a test"})
		i.m.Layers = append(i.m.Layers, i.blob(v1.MediaTypeImageLayerGzip, zipped(layer)))
	}
	i.plain = config.RootFS.DiffIDs
	i.config = encode(t, config)
	i.m.Config = i.blob(v1.MediaTypeImageConfig, i.config)
	i.describe(t)
	return i
}

// describe writes the manifest.
func (i *made) describe(t *testing.T) {
	t.Helper()
	i.raw = encode(t, i.m)
	i.Descriptor = describe(i.m.MediaType, i.raw)
}

func (i *made) blob(mediaType string, content []byte) image.Descriptor {
	d := describe(mediaType, content)
	i.blobs[d.Digest] = content
	return d
}

func describe(mediaType string, content []byte) image.Descriptor {
	return image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// children are config and layers, in this order.
func (i *made) children() []image.Descriptor {
	return append([]image.Descriptor{i.m.Config}, i.m.Layers...)
}

// push pushes what an image is made of, without telling the sink before.
func (i *made) push(t *testing.T, k image.Sink) (hows []image.How) {
	t.Helper()
	for _, d := range i.children() {
		how, err := k.Push(t.Context(), d, bring(i.blobs[d.Digest]))
		must(t, err)
		hows = append(hows, how)
	}
	return hows
}

// store pushes and tags.
func (i *made) store(t *testing.T, k image.Sink, tag string) []image.How {
	t.Helper()
	must(t, k.Expect(t.Context(), i.Descriptor, i.raw))
	hows := i.push(t, k)
	must(t, k.Tag(t.Context(), i.Descriptor, i.raw, tag))
	return hows
}

func bring(content []byte) image.Content {
	return image.Content{Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content[off:])), nil
	}}
}

// file is what a layer has: a name, and a file's content or another type with its link.
type file struct {
	name, content, link string
	kind                byte
	mode                int64
}

func layer(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: f.name, Linkname: f.link, Mode: max(f.mode, 0o644), Size: int64(len(f.content)),
			ModTime: time.Unix(1e9, 0), Uid: 12, Gid: 34,
		}
		if f.kind != 0 {
			h.Typeflag = f.kind
		}
		must(t, w.WriteHeader(h))
		_, err := w.Write([]byte(f.content))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func zipped(plain []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	w.Write(plain)
	w.Close()
	return b.Bytes()
}

// hello is an image of two layers that differs with its version.
func hello(t *testing.T, version string) *made {
	t.Helper()
	etc := file{name: "etc/", kind: tar.TypeDir, mode: 0o755}
	return makeImage(t, "cat /etc/hello",
		layer(t, etc, file{name: "etc/old", content: "old"}, file{name: "etc/hello", content: "base"}),
		layer(t, etc, file{name: "etc/.wh.old"}, file{name: "etc/hello", content: "hello " + version}, file{name: "etc/link", kind: tar.TypeLink, link: "etc/hello"}),
	)
}

func read(t *testing.T, src image.Source, d image.Descriptor) []byte {
	t.Helper()
	r, err := src.Fetch(t.Context(), d)
	must(t, err)
	defer r.Close()
	got, err := io.ReadAll(r)
	must(t, err)
	return got
}

func collect[T any](t *testing.T, items iter.Seq2[T, error]) []T {
	t.Helper()
	var all []T
	for item, err := range items {
		must(t, err)
		all = append(all, item)
	}
	return all
}

// resolves tells that a tag names an image, or with nil that it names none.
func resolves(t *testing.T, src image.Source, tag string, want *made) {
	t.Helper()
	d, raw, err := src.Manifest(t.Context(), tag)
	if want == nil {
		is(t, tag, err, image.ErrNotFound)
		return
	}
	must(t, err)
	equal(t, tag, d, want.Descriptor)
	equal(t, tag, string(raw), string(want.raw))
}

func encode(t *testing.T, value any) []byte {
	t.Helper()
	raw, err := json.MarshalIndent(value, "", "  ")
	must(t, err)
	return raw
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return value
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// left is what lies in the store's folder for what is on its way.
func (p *place) left(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"/root/tmp/*", "/root/*-layers/tmp/temp-dir-*", "/root/overlay/tempdirs/temp-dir-*", "/root/vfs/tempdirs/temp-dir-*"} {
		found, err := filepath.Glob(p.dir + pattern)
		must(t, err)
		names = append(names, found...)
	}
	return names
}

// layers are the IDs of all layers of the store.
func (p *place) layers(t *testing.T) []string {
	t.Helper()
	layers, err := p.lib.Layers()
	must(t, err)
	var ids []string
	for _, l := range layers {
		ids = append(ids, l.ID)
	}
	slices.Sort(ids)
	return ids
}

// sound tells that the library finds nothing wrong with the store, in its records or in the content of its layers.
func (p *place) sound(t *testing.T) {
	t.Helper()
	report, err := p.lib.Check(storage.CheckEverything())
	must(t, err)
	for _, damaged := range []map[string][]error{report.Layers, report.Images} {
		for id, errs := range damaged {
			if !imageID.MatchString(id) {
				continue // a folder in which the driver tried what the kernel can do, and was killed over it
			}
			t.Errorf("%s is damaged: %v", id, errs)
		}
	}
}
