package stage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"path"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/registry"
	"github.com/regfs/regfs/tests/registries"
)

const tag = "v1"

// bench is a store in front of a registry in this process, seen by one writer.
type bench struct {
	*testing.T
	proxy *registries.Proxy
	store *stage.Store
	src   image.Source
	site  stage.Site
	dir   string
	host  func(string) (image.Host, error)
	blobs image.Blobs
	log   *bytes.Buffer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, proxy: registries.NewProxy(t, registries.Memory(t)), dir: t.TempDir(), log: &bytes.Buffer{}}
	client := registry.New(registry.Options{Timeout: 10 * time.Second})
	c, err := cache.New(cache.Options{Dir: t.TempDir(), TTL: 0, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); client.Close() })
	inner, err := client.Host(b.proxy.Host)
	if err != nil {
		t.Fatal(err)
	}
	host := c.Host(b.proxy.Host, inner)
	b.host, b.blobs = func(string) (image.Host, error) { return host, nil }, c
	b.site = stage.Site{Repository: image.Repository{Host: b.proxy.Host, Name: "team/app"}, Tag: tag}
	if b.src, err = host.Source(t.Context(), b.site.Name); err != nil {
		t.Fatal(err)
	}
	b.open()
	return b
}

// open opens the store, as a new mount does.
func (b *bench) open() {
	b.Helper()
	var err error
	b.store, err = stage.Open(stage.Options{
		Dir: b.dir, Host: b.host, Blobs: b.blobs, Log: slog.New(slog.NewTextHandler(b.log, nil)), Silence: time.Hour,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(sync.OnceFunc(func() { b.store.Close() }))
}

// Now and Saw make the bench a View that remembers nothing.
func (b *bench) Now(ctx context.Context, tag string) (image.Descriptor, error) {
	return b.src.Resolve(ctx, tag)
}

func (b *bench) Saw(string, image.Descriptor) {}

func (b *bench) staging() *stage.Staging {
	b.Helper()
	l, err := b.store.Begin(b.site)
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// write writes a file, as cp does, and returns what its close says.
func (b *bench) write(at string, content []byte) error {
	b.Helper()
	l := b.staging()
	e, ok := l.Lookup(at)
	f := e.File
	if !ok {
		var err error
		if f, err = l.Create(at, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	h, err := f.Open()
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	if err := h.Truncate(b.Context(), 0); err != nil {
		b.Fatal(err)
	}
	if err := h.WriteAt(b.Context(), content, 0); err != nil {
		b.Fatal(err)
	}
	return h.Flush(b.Context(), b)
}

// add writes a blob that has to be taken, and returns what it is.
func (b *bench) add(mediaType string, content []byte) image.Descriptor {
	b.Helper()
	d := describe(mediaType, content)
	if err := b.write(path.Join("blobs/sha256", d.Digest.Encoded()), content); err != nil {
		b.Fatal(err)
	}
	return d
}

func describe(mediaType string, content []byte) image.Descriptor {
	return image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// files are the blobs of an image, by the encoded digest, and its manifest.
type files struct {
	d    image.Descriptor
	blob map[string][]byte
}

// newImage is a manifest with a config and a layer of its own.
func newImage(name string, subject *image.Descriptor) files {
	f := files{blob: map[string][]byte{}}
	config := f.put(v1.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64","author":"`+name+`"}`))
	layer := f.put(v1.MediaTypeImageLayer, []byte("layer of "+name))
	f.d = f.put(v1.MediaTypeImageManifest, marshal(v1.Manifest{
		MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []image.Descriptor{layer}, Subject: subject,
	}))
	return f
}

func (f files) put(mediaType string, content []byte) image.Descriptor {
	d := describe(mediaType, content)
	f.blob[d.Digest.Encoded()] = content
	return d
}

func marshal(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

// addAll writes all blobs of an image.
func (b *bench) addAll(f files) {
	b.Helper()
	for hex, content := range f.blob {
		if err := b.write("blobs/sha256/"+hex, content); err != nil {
			b.Fatal(err)
		}
	}
}

// named is an entry of an index with a name.
func named(d image.Descriptor, name string) image.Descriptor {
	d.Annotations = map[string]string{v1.AnnotationRefName: name}
	return d
}

// index writes index.json, and returns what its close says.
func (b *bench) index(entries ...image.Descriptor) error {
	b.Helper()
	return b.write("index.json", marshal(v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: entries}))
}

// wantTag: the tag is that image in the registry.
func (b *bench) wantTag(tag string, want digest.Digest) {
	b.Helper()
	d, err := b.src.Resolve(b.Context(), tag)
	if err != nil && want != "" || d.Digest != want {
		b.Errorf("%s is %q, %v; want %q", tag, d.Digest, err, want)
	}
}

// wantState: the push is at that point.
func (b *bench) wantState(want stage.State) stage.Status {
	b.Helper()
	s, _ := b.store.Status(b.site)
	if s.State != want {
		b.Errorf("the state is %q, want %q: %+v", s.State, want, s)
	}
	return s
}
