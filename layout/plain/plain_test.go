package plain

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

func TestMediaTypes(t *testing.T) {
	for mediaType, want := range map[string]string{
		v1.MediaTypeImageLayerGzip:                                     v1.MediaTypeImageLayer,
		v1.MediaTypeImageLayerZstd:                                     v1.MediaTypeImageLayer,
		v1.MediaTypeImageLayer:                                         v1.MediaTypeImageLayer,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":            "application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    "application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": v1.MediaTypeImageLayer,
		"application/vnd.oci.image.layer.v1.tar+gzip+encrypted":        "",
		"application/vnd.oci.image.layer.v1.tar2":                      "",
		"application/vnd.docker.plugin.v1+json":                        "",
		"text/plain":                                                   "",
	} {
		if got := IsLayer(mediaType); got != (want != "") {
			t.Errorf("%s is a layer: %v", mediaType, got)
		}
		if got := MediaType(mediaType); want != "" && got != want {
			t.Errorf("%s is plainly %s, want %s", mediaType, got, want)
		}
	}
}

// place has manifests under tags, and knows of layers in another form.
type place struct {
	image.Source
	tags  map[string]string
	forms map[digest.Digest]image.Descriptor
}

func (p *place) Manifest(_ context.Context, ref string) (image.Descriptor, []byte, error) {
	for tag, raw := range p.tags {
		if tag == ref || digest.FromString(raw).String() == ref {
			m, err := image.ParseManifest("", []byte(raw))
			if err != nil {
				return image.Descriptor{}, nil, err
			}
			return image.Descriptor{MediaType: m.MediaType, Digest: digest.FromString(raw), Size: int64(len(raw))}, []byte(raw), nil
		}
	}
	return image.Descriptor{}, nil, image.ErrNotFound
}

func (p *place) Stat(_ context.Context, dgst digest.Digest) (image.Descriptor, error) {
	have, ok := p.forms[dgst]
	if !ok {
		return image.Descriptor{}, image.ErrNotFound
	}
	if have.Digest == dgst {
		return have, nil
	}
	return image.Descriptor{}, &image.FormError{Want: image.Descriptor{Digest: dgst}, Have: have}
}

func (p *place) Tags(context.Context, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for tag := range p.tags {
			if !yield(tag, nil) {
				return
			}
		}
	}
}

// The digests of layers, of what they are plainly, and of a config.
var (
	one, two, plain1, plain2 = digest.FromString("1"), digest.FromString("2"), digest.FromString("one"), digest.FromString("two")
	config                   = digest.FromString("config")
)

const manifest = `{
 "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "annotations": {"a": "<&>"}, "future": {"b":  1.50 },
 "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, "digest": "CONFIG"},
 "layers": [
  {"size": 10, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "ONE", "annotations": {"io.github.containers.zstd-chunked.x": "y"}},
  {"digest": "TWO", "size": 20, "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "annotations": {"keep": "this", "io.containers.estargz.x": "y"}, "x": 1},
  {"digest": "PLAIN", "size": 20, "mediaType": "application/vnd.oci.image.layer.v1.tar", "annotations": {"io.containers.estargz.x": "y"}}
 ]
}`

const shown = `{"annotations":{"a":"<&>"},"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"CONFIG"},"future":{"b":1.50},` +
	`"layers":[{"digest":"PLAIN","mediaType":"application/vnd.oci.image.layer.v1.tar","size":100},` +
	`{"annotations":{"keep":"this"},"digest":"PLAN2","mediaType":"application/vnd.docker.image.rootfs.diff.tar","size":200,"x":1},` +
	`{"annotations":{"io.containers.estargz.x":"y"},"digest":"PLAIN","mediaType":"application/vnd.oci.image.layer.v1.tar","size":20}],` +
	`"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}`

func fill(text string) string {
	return strings.NewReplacer("ONE", one.String(), "TWO", two.String(), "PLAIN", plain1.String(), "PLAN2", plain2.String(), "CONFIG", config.String()).Replace(text)
}

func newPlace() *place {
	return &place{tags: map[string]string{"v1": fill(manifest)}, forms: map[digest.Digest]image.Descriptor{
		one: {Digest: plain1, Size: 100, MediaType: v1.MediaTypeImageLayer}, two: {Digest: plain2, Size: 200, MediaType: v1.MediaTypeImageLayer},
		plain1: {Digest: plain1, Size: 20},
	}}
}

// TestShows an image with the layers that there are, found by tag and by digest, also by who has not asked for the tag before.
func TestShows(t *testing.T) {
	p := newPlace()
	s := New(p)
	d, raw, err := s.Manifest(t.Context(), "v1")
	if diff := cmp.Diff(fill(shown), string(raw)); diff != "" || err != nil {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	if want := digest.FromBytes(raw); d.Digest != want || d.Size != int64(len(raw)) || d.MediaType != v1.MediaTypeImageManifest {
		t.Errorf("it is described as %+v", d)
	}
	for _, s := range []*Source{s, New(p), New(p), New(p)} {
		for what, ask := range map[string]func() (image.Descriptor, error){
			"resolve": func() (image.Descriptor, error) { return s.Resolve(t.Context(), d.Digest.String()) },
			"stat":    func() (image.Descriptor, error) { return s.Stat(t.Context(), d.Digest) },
			"tag":     func() (image.Descriptor, error) { return s.Resolve(t.Context(), "v1") },
			"fetch": func() (image.Descriptor, error) {
				r, err := s.Fetch(t.Context(), d)
				if err != nil {
					return d, err
				}
				got, err := io.ReadAll(r)
				if string(got) != string(raw) {
					t.Errorf("fetched %s", got)
				}
				return d, err
			},
		} {
			if got, err := ask(); err != nil || got.Digest != d.Digest || got.Size != d.Size {
				t.Errorf("%s: %+v, %v", what, got, err)
			}
		}
	}
	_, raw, err = s.Manifest(t.Context(), digest.FromString(p.tags["v1"]).String())
	if string(raw) != p.tags["v1"] || err != nil {
		t.Errorf("by the place's own digest: %s, %v", raw, err)
	}
	if _, err := s.Stat(t.Context(), one); !errors.As(err, new(*image.FormError)) {
		t.Errorf("stat of what is in another form: %v", err)
	}
	if _, err := s.Resolve(t.Context(), plain2.String()); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("what is nowhere: %v", err)
	}
}

// TestIndex names the manifests as they are shown, and what is not here as it was.
func TestIndex(t *testing.T) {
	p := newPlace()
	index := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []image.Descriptor{
		{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString(p.tags["v1"]), Size: int64(len(p.tags["v1"])), Platform: &image.Platform{OS: "linux", Architecture: "arm"}},
		{MediaType: v1.MediaTypeImageManifest, Digest: two, Size: 7},
	}}
	raw, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	p.tags["multi"] = string(raw)
	s := New(p)
	d, err := s.Resolve(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	_, raw, err = s.Manifest(t.Context(), "multi")
	if err != nil {
		t.Fatal(err)
	}
	index.Manifests[0].Digest, index.Manifests[0].Size = d.Digest, d.Size
	m, err := image.ParseManifest("", raw)
	if diff := cmp.Diff(index.Manifests, m.Manifests); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestUntouched: what has nothing in another form is as it was, byte for byte.
func TestUntouched(t *testing.T) {
	p := newPlace()
	p.forms = nil
	p.tags["old"] = `{"schemaVersion":1,"fsLayers":[{"blobSum":"` + one.String() + `"}]}`
	for tag, want := range p.tags {
		d, raw, err := New(p).Manifest(t.Context(), tag)
		if string(raw) != want || d.Digest != digest.FromString(want) || err != nil {
			t.Errorf("%s: %s, %v", tag, raw, err)
		}
	}
}

// FuzzRewrite: a manifest that could be read can be read when it was rewritten, and names what it should.
func FuzzRewrite(f *testing.F) {
	f.Add([]byte(fill(manifest)))
	f.Add([]byte(fill(shown)))
	f.Add([]byte(`{"Config":{"digest":"` + config.String() + `"},"LAYERS":[{"Digest":"` + one.String() + `"}],"layers":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p := newPlace()
		p.tags["v1"] = string(raw)
		before, err := image.ParseManifest("", raw)
		if err != nil {
			return
		}
		_, got, err := New(p).Manifest(t.Context(), "v1")
		if err != nil {
			return
		}
		m, err := image.ParseManifest("", got)
		if err != nil || len(m.Layers) != len(before.Layers) || m.MediaType != before.MediaType {
			t.Fatalf("%s became %s: %v", raw, got, err)
		}
		for i, layer := range m.Layers {
			want := before.Layers[i]
			if have, ok := p.forms[want.Digest]; ok && !image.IsSchema1(m.MediaType) && have.Digest != want.Digest {
				want.Digest = have.Digest
			}
			if layer.Digest != want.Digest {
				t.Errorf("layer %d of %s is %s, want %s", i, got, layer.Digest, want.Digest)
			}
		}
	})
}
