//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// TestLayersInAnyOrder: layers may come in any order, and before the config.
func TestLayersInAnyOrder(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			p := newPlace(t, driver)
			var layers [][]byte
			for _, n := range []string{"a", "b", "a"} { // one of them twice
				layers = append(layers, layer(t, file{name: n, content: n}))
			}
			img := makeImage(t, driver, layers...)
			k := p.sink(t, repository)
			if driver == "overlay" {
				must(t, k.Expect(t.Context(), img.Descriptor, img.raw))
			}
			for _, d := range slices.Backward(img.children()) {
				_, err := k.Push(t.Context(), d, bring(img.blobs[d.Digest]))
				must(t, err)
			}
			must(t, k.Tag(t.Context(), img.Descriptor, img.raw, "v1"))
			resolves(t, p.source(t, repository), "v1", img)
			equal(t, "layers", len(p.layers(t)), 3)
			equal(t, "what is left", len(p.left(t)), 0)
			must(t, k.Delete(t.Context(), "v1"))
			equal(t, "layers without an image", len(p.layers(t)), 0)
		})
	}
}

// TestSkips what the store has, whichever image it is of, and in whichever compression it came.
func TestSkips(t *testing.T) {
	p := newPlace(t, "overlay")
	k := p.sink(t, repository)
	base, a, b := layer(t, file{name: "base", content: "x"}), layer(t, file{name: "a"}), layer(t, file{name: "b"})
	first := makeImage(t, "1", base, a)
	equal(t, "first", first.store(t, k, "v1"), []image.How{image.Uploaded, image.Uploaded, image.Uploaded})
	second := makeImage(t, "2", base, b)
	equal(t, "shared base", second.store(t, k, "v2"), []image.How{image.Uploaded, image.Skipped, image.Uploaded})
	moved := makeImage(t, "3", a, base) // where they were not before
	equal(t, "other order", moved.store(t, k, "v3"), []image.How{image.Uploaded, image.Skipped, image.Skipped})

	again := makeImage(t, "1", base, a)
	again.m.Layers[0] = again.blob(v1.MediaTypeImageLayerZstd, zstded(t, base))
	again.m.Config = again.blob(v1.MediaTypeImageConfig, again.config)
	again.describe(t)
	equal(t, "other compression", again.store(t, k, "v4"), []image.How{image.Skipped, image.Skipped, image.Skipped})
	src := p.source(t, repository)
	for tag, img := range map[string]*made{"v2": second, "v3": moved, "v4": again} {
		resolves(t, src, tag, img)
		resolves(t, src, img.Digest.String(), img)
	}
	resolves(t, src, first.Digest.String(), first) // though v1 is of the same ID as v4, and so names what that does
	resolves(t, src, "v1", again)
	formed(t, src, again.m.Layers[0], again, 0)
	p.sound(t)
	equal(t, "layers", len(p.layers(t)), 5)
}

func zstded(t *testing.T, plain []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return w.EncodeAll(plain, nil)
}

// TestWrongImages: what is not what it says, or not well, is refused at the latest when it is tagged, and leaves nothing.
func TestWrongImages(t *testing.T) {
	good := layer(t, file{name: "a", content: strings.Repeat("a", 1e6)})
	for what, test := range map[string]struct {
		wrong   func(*made)
		want    error
		drivers int
	}{
		"another tar":         {func(i *made) { i.setLayer(zipped(layer(t, file{name: "b"}))) }, image.ErrDigest, 2},
		"no tar":              {func(i *made) { i.setLayer([]byte(strings.Repeat("no tar", 1e5))) }, image.ErrDigest, 1},
		"cut short":           {func(i *made) { z := zipped(good); i.setLayer(z[:len(z)/2]) }, io.ErrUnexpectedEOF, 1},
		"something behind it": {func(i *made) { i.setLayer(append(zipped(good), "something"...)) }, nil, 1},
		"a wrong size":        {func(i *made) { i.m.Layers[0].Size++ }, image.ErrDigest, 1},
		"too few diff IDs":    {func(i *made) { i.setConfig(`{"rootfs":{"diff_ids":[]}}`) }, image.ErrInvalid, 1},
		"a wrong diff ID":     {func(i *made) { i.setConfig(`{"rootfs":{"diff_ids":["sha256:../../x"]}}`) }, image.ErrInvalid, 1},
		"a config of no JSON": {func(i *made) { i.setConfig(`x`) }, image.ErrInvalid, 1},
	} {
		for _, driver := range drivers[:test.drivers] {
			t.Run(what+"/"+driver, func(t *testing.T) {
				p := newPlace(t, driver)
				img := makeImage(t, what, good)
				test.wrong(img)
				img.describe(t)
				k := p.sink(t, repository)
				must(t, k.Expect(t.Context(), img.Descriptor, img.raw))
				for _, d := range img.children() {
					_, err := k.Push(t.Context(), image.Descriptor{Digest: d.Digest, Size: -1}, bring(img.blobs[d.Digest]))
					must(t, err)
				}
				err := k.Tag(t.Context(), img.Descriptor, img.raw, "v1")
				if err == nil || test.want != nil && !errors.Is(err, test.want) {
					t.Errorf("tag: %v, want %v", err, test.want)
				}
				equal(t, "layers", len(p.layers(t)), 0)
				equal(t, "images", len(p.podman(t, "podman", "images", "--all", "--quiet")), 0)
				equal(t, "what is left", len(p.left(t)), 0)
			})
		}
	}
}

func (i *made) setLayer(content []byte) {
	i.m.Layers[0] = i.blob(v1.MediaTypeImageLayerGzip, content)
}

func (i *made) setConfig(content string) {
	i.m.Config = i.blob(v1.MediaTypeImageConfig, []byte(content))
}

// TestHostileTars: nothing is written outside of a layer, and what is there is not read in its place.
func TestHostileTars(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "out")
	must(t, os.WriteFile(outside, []byte("secret"), 0o600))
	for what, files := range map[string][]file{
		"dots":            {{name: strings.Repeat("../", 20) + outside, content: "public"}},
		"absolute":        {{name: outside, content: "public"}},
		"symlink":         {{name: "l", kind: tar.TypeSymlink, link: filepath.Dir(outside)}, {name: "l/out", content: "public"}},
		"hard link":       {{name: "l", kind: tar.TypeLink, link: strings.Repeat("../", 20) + outside}},
		"whiteout of all": {{name: strings.Repeat("../", 20) + filepath.Dir(outside) + "/.wh.out"}},
	} {
		t.Run(what, func(t *testing.T) {
			p := newPlace(t, "overlay")
			tar := layer(t, files...)
			img := makeImage(t, what, tar)
			k := p.sink(t, repository)
			must(t, k.Expect(t.Context(), img.Descriptor, img.raw))
			img.push(t, k)
			if err := k.Tag(t.Context(), img.Descriptor, img.raw, "v1"); err != nil {
				equal(t, "layers", len(p.layers(t)), 0)
			}
			r, err := p.source(t, repository).Fetch(t.Context(), image.Descriptor{Digest: img.plain[0], Size: -1})
			if err == nil {
				got, err := io.ReadAll(r)
				must(t, errors.Join(err, r.Close()))
				equal(t, "what is read", bytes.Equal(got, tar), true)
			}
			content, err := os.ReadFile(outside)
			must(t, err)
			equal(t, "what is outside", string(content), "secret")
		})
	}
}

// TestRefuses what a store can't hold, before anything of it comes.
func TestRefuses(t *testing.T) {
	p := newPlace(t, "overlay")
	k := p.sink(t, repository)
	for what, change := range map[string]func(*made){
		"an artifact":        func(i *made) { i.m.Config.MediaType = "application/vnd.example" },
		"layers of no tar":   func(i *made) { i.m.Layers[0].MediaType = "text/plain" },
		"an encrypted layer": func(i *made) { i.m.Layers[0].MediaType += "+encrypted" },
		"another algorithm":  func(i *made) { i.m.Layers[0].Digest = digest.SHA512.FromString("x") },
	} {
		img := hello(t, what)
		change(img)
		img.describe(t)
		is(t, "expect "+what, k.Expect(t.Context(), img.Descriptor, img.raw), image.ErrUnsupported)
		is(t, "tag "+what, k.Tag(t.Context(), img.Descriptor, img.raw, "v1"), image.ErrUnsupported)
	}
	img := hello(t, "1")
	is(t, "expect another manifest", k.Expect(t.Context(), img.Descriptor, append(img.raw, ' ')), image.ErrDigest)
	is(t, "tag without layers", k.Tag(t.Context(), img.Descriptor, img.raw, "v1"), image.ErrNotFound)
}

// TestIndexIsKept: an index is refused, but stays with the image of it that comes, as podman keeps it.
func TestIndexIsKept(t *testing.T) {
	p := newPlace(t, "overlay")
	k, src := p.sink(t, repository), p.source(t, repository)
	img, other := hello(t, "amd64"), hello(t, "arm64")
	raw := encode(t, v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []image.Descriptor{img.Descriptor, other.Descriptor}})
	index := describe(v1.MediaTypeImageIndex, raw)
	is(t, "expect an index", k.Expect(t.Context(), index, raw), image.ErrUnsupported)
	img.store(t, k, "v1")
	resolves(t, src, "v1", img)
	d, got, err := src.Manifest(t.Context(), index.Digest.String())
	must(t, err)
	equal(t, "index", d.Digest, index.Digest)
	equal(t, "index", string(got), string(raw))
	equal(t, "podman finds it by the index", p.podman(t, "podman", "image", "inspect", "--format", "{{.Id}}", repository+"@"+index.Digest.String()),
		img.m.Config.Digest.Encoded()+"\n")
}

// TestNames: tags move and go, and the last one of an image takes it along.
func TestNames(t *testing.T) {
	p := newPlace(t, "overlay")
	k, src := p.sink(t, repository), p.source(t, repository)
	first, second := hello(t, "1"), hello(t, "2")
	first.store(t, k, "a")
	must(t, k.Tag(t.Context(), first.Descriptor, first.raw, "b"))
	second.store(t, k, "a")
	resolves(t, src, "a", second)
	resolves(t, src, "b", first)
	must(t, p.sink(t, "registry.test/other").Tag(t.Context(), first.Descriptor, first.raw, "a"))
	must(t, k.Delete(t.Context(), "b"))
	resolves(t, src, "b", nil)
	resolves(t, src, first.Digest.String(), nil)
	resolves(t, p.source(t, "registry.test/other"), "a", first)

	first.push(t, k)
	_, err := k.Push(t.Context(), first.Descriptor, bring(first.raw))
	must(t, err)
	resolves(t, src, first.Digest.String(), first)
	equal(t, "tags", collect(t, src.Tags(t.Context(), "")), []string{"a"})
	must(t, k.Delete(t.Context(), first.Digest.String()))
	resolves(t, src, first.Digest.String(), nil)
	must(t, k.Delete(t.Context(), second.Digest.String()))
	equal(t, "layers", len(p.layers(t)), 2)
	equal(t, "hosts", collect(t, p.Hosts(t.Context())), []string{"registry.test"})
	equal(t, "repositories", collect(t, p.host(t, repository).Repositories(t.Context(), "")), []string{"other"})
	is(t, "no images", func() error { _, err := src.Resolve(t.Context(), ""); return err }(), image.ErrNotFound)
}

// TestNameless: images without names are found by their IDs.
func TestNameless(t *testing.T) {
	p := newPlace(t, "overlay")
	k, src := p.sink(t, ""), p.source(t, "")
	first, second := hello(t, "1"), hello(t, "2")
	first.store(t, k, "")
	resolves(t, src, "", first)
	second.store(t, k, "")
	_, err := src.Resolve(t.Context(), "")
	is(t, "one of two", err, image.ErrNotFound)
	id := second.m.Config.Digest.Encoded()
	for _, ref := range []string{"@" + id, "@" + id[:12], second.Digest.String()} {
		resolves(t, src, ref, second)
	}
	for _, ref := range []string{"@", "@x", "@" + id + "0", "@" + strings.Repeat("0", 64), "v1"} {
		resolves(t, src, ref, nil)
	}
	_, err = p.source(t, repository).Resolve(t.Context(), "@"+id)
	is(t, "an ID of another repository", err, image.ErrNotFound)
	must(t, k.Delete(t.Context(), "@"+id[:12]))
	resolves(t, src, "", first)
	equal(t, "hosts", len(collect(t, p.Hosts(t.Context()))), 0)
}

// TestUnpacksWhileItComes: a layer is being unpacked before all of it is here. One that breaks off leaves nothing, and can come again.
func TestUnpacksWhileItComes(t *testing.T) {
	p := newPlace(t, "overlay")
	k := p.sink(t, repository).(*sink)
	img := makeImage(t, "x", layer(t, file{name: "a", content: strings.Repeat("a", 5e6)}))
	must(t, k.Expect(t.Context(), img.Descriptor, img.raw))
	_, err := k.Push(t.Context(), img.m.Config, bring(img.config))
	must(t, err)
	packed := img.m.Layers[0]
	fault := errors.New("a fault of the test's making")
	_, err = k.Push(t.Context(), packed, image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(img.blobs[packed.Digest][:packed.Size-10]), &waiting{func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.coming[img.Digest].running && len(p.left(t)) > 0
		}, fault})), nil
	}})
	is(t, "push what breaks off", err, fault)
	equal(t, "layers", len(p.layers(t)), 0)
	img.push(t, k)
	must(t, k.Tag(t.Context(), img.Descriptor, img.raw, "v1"))
	resolves(t, p.source(t, repository), "v1", img)
	equal(t, "what is left", len(p.left(t)), 0)
}

// waiting fails once something has come about, or, in other words, after a while.
type waiting struct {
	about func() bool
	err   error
}

func (w *waiting) Read([]byte) (int, error) {
	for range 1000 {
		if w.about() {
			return 0, w.err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, errors.New("it did not come about")
}

// TestFullDisk: what does not fit is refused for that reason, and leaves nothing.
func TestFullDisk(t *testing.T) {
	p := newPlace(t, "overlay")
	must(t, p.Close())
	dir := mkdir(t, p.dir, "small")
	must(t, unix.Mount("none", dir, "tmpfs", 0, "size=16m"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	small, err := Create(t.Context(), "overlay@"+dir+"/root+"+dir+"/run")
	must(t, err)
	defer small.Close()
	p = &place{Store: small, driver: "overlay", dir: dir}
	k := p.sink(t, repository)
	img := makeImage(t, "x", layer(t, file{name: "a", content: strings.Repeat("a", 20e6)}))
	must(t, k.Expect(t.Context(), img.Descriptor, img.raw))
	img.push(t, k)
	is(t, "tag", k.Tag(t.Context(), img.Descriptor, img.raw, "v1"), unix.ENOSPC)
	random := make([]byte, 20e6)
	rand.NewChaCha8([32]byte{}).Read(random)
	_, err = k.Push(t.Context(), describe(v1.MediaTypeImageLayer, random), bring(random))
	is(t, "push", err, unix.ENOSPC)
	equal(t, "layers", len(p.layers(t)), 0)
	equal(t, "what is left", p.left(t), []string(nil))
	less := hello(t, "1")
	less.store(t, k, "v1")
	resolves(t, p.source(t, repository), "v1", less)
}

// TestOldIsDropped: what was pushed and never became an image does not stay for ever.
func TestOldIsDropped(t *testing.T) {
	p := newPlace(t, "overlay")
	k := p.sink(t, repository).(*sink)
	img := hello(t, "1")
	must(t, k.Expect(t.Context(), img.Descriptor, img.raw))
	_, err := k.Push(t.Context(), img.m.Layers[1], bring(img.blobs[img.m.Layers[1].Digest]))
	must(t, err)
	for _, step := range []struct {
		age  time.Duration
		want int
	}{{0, 1}, {oldAge / 2, 1}, {2 * oldAge, 0}} {
		k.mu.Lock()
		k.dropOld(time.Now().Add(step.age))
		equal(t, "images", len(k.coming), step.want)
		equal(t, "blobs", len(k.blobs), step.want)
		k.mu.Unlock()
	}
	img.store(t, k, "v1")
	equal(t, "blobs of a finished image", len(k.blobs), 0)
	img.store(t, k, "v2")
	equal(t, "blobs of an image that was there", len(k.blobs), 0)
}
