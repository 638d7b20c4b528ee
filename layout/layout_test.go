package layout

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// memory is a repository in memory. Its blobs open as they are, without a cache between.
type memory map[digest.Digest]content

type content struct {
	mediaType string
	data      []byte
}

func (s memory) put(mediaType string, data []byte) image.Descriptor {
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	s[d.Digest] = content{mediaType, data}
	return d
}

func (s memory) putJSON(mediaType string, v any) image.Descriptor {
	return s.put(mediaType, marshal(v))
}

func (s memory) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	return s.Stat(ctx, digest.Digest(ref))
}

func (s memory) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	d, err := s.Stat(ctx, digest.Digest(ref))
	return d, s[d.Digest].data, err
}

func (s memory) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	c, ok := s[dgst]
	if !ok {
		return image.Descriptor{}, fmt.Errorf("stat %s: %w", dgst, image.ErrNotFound)
	}
	return image.Descriptor{MediaType: c.mediaType, Digest: dgst, Size: int64(len(c.data))}, ctx.Err()
}

func (s memory) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	return s.FetchRange(ctx, d, 0, d.Size)
}

func (s memory) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	_, err := s.Stat(ctx, d.Digest)
	return io.NopCloser(io.NewSectionReader(bytes.NewReader(s[d.Digest].data), off, n)), err
}

func (s memory) Tags(context.Context, string) iter.Seq2[string, error] {
	return func(func(string, error) bool) {}
}

func (s memory) Referrers(context.Context, image.Descriptor, string) iter.Seq2[image.Descriptor, error] {
	return func(func(image.Descriptor, error) bool) {}
}

func (s memory) Close() error { return nil }

// open counts the blobs of a memory that are open.
type open struct{ now, most int }

func (o *open) Open(ctx context.Context, src image.Source, d image.Descriptor) (image.Blob, error) {
	r, err := src.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	o.now++
	o.most = max(o.most, o.now)
	return &blob{bytes.NewReader(data), o}, err
}

type blob struct {
	*bytes.Reader
	open *open
}

func (b *blob) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return b.Reader.ReadAt(p, off)
}

func (b *blob) Ready(context.Context, int64, int) (*os.File, error) { return nil, nil }

func (b *blob) File() *os.File { return nil }

func (b *blob) Close() error {
	b.open.now--
	return nil
}

// layer is a gzipped tar with one file.
func (s memory) layer(t *testing.T, name, text string) (layer image.Descriptor, diffID digest.Digest) {
	t.Helper()
	var plain, zipped bytes.Buffer
	w := tar.NewWriter(&plain)
	must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}))
	_, err := io.WriteString(w, text)
	must(t, errors.Join(err, w.Close()))
	z := gzip.NewWriter(&zipped)
	_, err = z.Write(plain.Bytes())
	must(t, errors.Join(err, z.Close()))
	return s.put(v1.MediaTypeImageLayerGzip, zipped.Bytes()), digest.FromBytes(plain.Bytes())
}

// image puts an image for linux/arch with three layers, of which the first and the last are the same.
func (s memory) image(t *testing.T, arch string) image.Descriptor {
	t.Helper()
	base, baseID := s.layer(t, "base", "the base of all")
	top, topID := s.layer(t, "top", "made for "+arch)
	config := s.putJSON(v1.MediaTypeImageConfig, v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: arch},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{baseID, topID, baseID}},
	})
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []image.Descriptor{base, top, base}}
	m.SchemaVersion = 2
	d := s.putJSON(m.MediaType, m)
	d.Platform = &image.Platform{OS: "linux", Architecture: arch}
	return d
}

// index puts an index of manifests.
func (s memory) index(manifests ...image.Descriptor) image.Descriptor {
	index := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: manifests}
	index.SchemaVersion = 2
	return s.putJSON(index.MediaType, index)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(files []File) []string {
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	return names
}

func TestIndex(t *testing.T) {
	arm := &image.Platform{OS: "linux", Architecture: "arm64"}
	got := Index([]Root{
		{image.Descriptor{MediaType: "m", Digest: "sha256:1", Size: 3, Platform: arm, Annotations: map[string]string{"a": "b"}}, "v1"},
		{image.Descriptor{MediaType: "m", Digest: "sha256:2", Size: 4, ArtifactType: "t", URLs: []string{"u"}}, ""},
	})
	want := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` +
		`{"mediaType":"m","digest":"sha256:1","size":3,"annotations":{"org.opencontainers.image.ref.name":"v1"},` +
		`"platform":{"architecture":"arm64","os":"linux"}},{"mediaType":"m","digest":"sha256:2","size":4,"artifactType":"t"}]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if got := string(Index(nil)); got != `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}` {
		t.Errorf("the index of nothing is %s", got)
	}
}

func TestOCIHoldsAllOnce(t *testing.T) {
	s := memory{}
	amd, arm := s.image(t, "amd64"), s.image(t, "arm64")
	index := s.index(amd, arm)
	s.put("unrelated", []byte("nobody names this"))
	files, err := OCI(t.Context(), s, []Root{{index, "v1"}, {amd, "amd"}, {index, "latest"}})
	must(t, err)
	reached := map[string]int64{"index.json": int64(len(files[len(files)-2].Data)), "oci-layout": 30}
	for dgst, c := range s {
		if c.mediaType != "unrelated" {
			reached["blobs/sha256/"+dgst.Encoded()] = int64(len(c.data))
		}
	}
	got := map[string]int64{}
	for i, f := range files {
		got[f.Name] = f.Size()
		if i > 0 && files[i-1].Name >= f.Name {
			t.Errorf("%s stands before %s", files[i-1].Name, f.Name)
		}
	}
	if diff := cmp.Diff(reached, got); diff != "" {
		t.Error(diff)
	}
}

func TestOCILeavesOutWhatIsNotHere(t *testing.T) {
	s := memory{}
	amd, arm := s.image(t, "amd64"), s.image(t, "arm64")
	attached := image.Descriptor{MediaType: "application/x-cache", Digest: digest.FromString("not here"), Size: 8}
	here := s.put("application/x-cache", []byte("here"))
	index := s.index(amd, arm, attached, here)
	delete(s, arm.Digest)
	files, err := OCI(t.Context(), s, []Root{{index, ""}})
	must(t, err)
	want, err := OCI(t.Context(), s, []Root{{amd, ""}})
	must(t, err)
	if len(files) != len(want)+2 {
		t.Errorf("the sparse index has %q, its only image %q", names(files), names(want))
	}
}

func TestOCIForeignLayers(t *testing.T) {
	s := memory{}
	config := s.putJSON(v1.MediaTypeImageConfig, v1.Image{})
	layer := s.put("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", []byte("windows"))
	layer.URLs = []string{"https://example.com/windows"}
	d := s.putJSON(v1.MediaTypeImageManifest, v1.Manifest{Config: config, Layers: []image.Descriptor{layer}})
	for _, want := range []int{5, 4} {
		files, err := OCI(t.Context(), s, []Root{{d, ""}})
		if err != nil || len(files) != want {
			t.Errorf("%q, %v; want %d files", names(files), err, want)
		}
		delete(s, layer.Digest)
	}
	if _, err := Docker(t.Context(), s, d, ""); !errors.Is(err, image.ErrUnsupported) {
		t.Errorf("a docker archive without its layer: %v", err)
	}
}

func TestErrors(t *testing.T) {
	s := memory{}
	schema1 := s.put(image.MediaTypeDockerSchema1, []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"`+digest.FromString("x")+`"}]}`))
	broken := s.put(v1.MediaTypeImageManifest, []byte(`{`))
	artifact := s.putJSON(v1.MediaTypeImageManifest, v1.Manifest{Config: s.put(v1.MediaTypeEmptyJSON, []byte("{}"))})
	img := s.image(t, "amd64")
	sizeless := img
	sizeless.Size = -1
	missing := image.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("missing"), Size: 1}
	for _, test := range []struct {
		name        string
		d           image.Descriptor
		oci, docker error
	}{
		{"schema 1", schema1, image.ErrUnsupported, image.ErrUnsupported},
		{"index of schema 1", s.index(schema1), image.ErrUnsupported, image.ErrUnsupported},
		{"index", s.index(img), nil, image.ErrUnsupported},
		{"artifact", artifact, nil, image.ErrUnsupported},
		{"not JSON", broken, image.ErrInvalid, image.ErrInvalid},
		{"index of not JSON", s.index(broken), image.ErrInvalid, image.ErrUnsupported},
		{"no size", sizeless, image.ErrInvalid, nil},
		{"missing", missing, image.ErrNotFound, image.ErrNotFound},
		{"image", img, nil, nil},
	} {
		if _, err := OCI(t.Context(), s, []Root{{test.d, "t"}}); !errors.Is(err, test.oci) {
			t.Errorf("OCI of %s: %v, want %v", test.name, err, test.oci)
		}
		if _, err := Docker(t.Context(), s, test.d, ""); !errors.Is(err, test.docker) {
			t.Errorf("Docker of %s: %v, want %v", test.name, err, test.docker)
		}
	}
}

func TestDocker(t *testing.T) {
	s := memory{}
	d := s.image(t, "amd64")
	files, err := Docker(t.Context(), s, d, "example.com/a:v1")
	must(t, err)
	var manifest []dockerManifest
	must(t, json.Unmarshal(files[0].Data, &manifest))
	e := manifest[0]
	want := []string{"manifest.json", e.Config, e.Layers[0], e.Layers[1]}
	if diff := cmp.Diff(want, names(files)); diff != "" {
		t.Error(diff)
	}
	if len(e.Layers) != 3 || e.Layers[0] != e.Layers[2] || !cmp.Equal(e.RepoTags, []string{"example.com/a:v1"}) {
		t.Errorf("manifest.json is %s", files[0].Data)
	}
}
