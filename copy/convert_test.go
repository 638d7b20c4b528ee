package copy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
)

// TestFormatsAsSkopeo: what is converted is, byte for byte, what skopeo makes.
func TestFormatsAsSkopeo(t *testing.T) {
	from := newPlace(t)
	roots := map[string]image.Descriptor{"single": anImage(t, from, "amd64", "single"), "multi": anIndex(t, from, "multi")}
	for _, test := range []struct {
		name, tag string
		arg       []string
		o         copy.Options
	}{
		{"v2s2", "single", []string{"--format", "v2s2"}, copy.Options{Format: copy.Docker}},
		{"oci is kept", "single", []string{"--format", "oci"}, copy.Options{Format: copy.OCI}},
		{"v2s2 list", "multi", []string{"--all", "--format", "v2s2"}, copy.Options{Format: copy.Docker}},
		{"all", "multi", []string{"--all"}, copy.Options{}},
		{"system", "multi", nil, copy.Options{Parts: copy.System, Platforms: []image.Platform{{OS: "linux", Architecture: "amd64"}}}},
		{"index only", "multi", []string{"--multi-arch", "index-only"}, copy.Options{Parts: copy.IndexOnly}},
		{"decompressed v2s2", "single", []string{"--format", "v2s2", "--dest-decompress"}, copy.Options{Format: copy.Docker, Compression: copy.Compression{To: copy.Uncompressed}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			to, dir := newPlace(t), t.TempDir()
			got, _ := manifest(t, to, run(t, from, to, roots[test.tag], test.o))
			skopeo(t, append(append([]string{"copy"}, test.arg...), "oci:"+from.dir+":"+test.tag, "dir:"+dir)...)
			if diff := cmp.Diff(string(dirOf(t, dir)), string(got)); diff != "" {
				t.Errorf("skopeo makes another manifest:\n%s", diff)
			}
		})
	}
}

// TestDockerToOCI: the config is the one that skopeo makes, too.
func TestDockerToOCI(t *testing.T) {
	from, docker, to := newPlace(t), newPlace(t), newPlace(t)
	d := run(t, from, docker, anImage(t, from, "amd64", "single"), copy.Options{Format: copy.Docker})
	raw, m := manifest(t, to, run(t, docker, to, d, copy.Options{Format: copy.OCI}))
	if bytes.Contains(content(t, to, *m.Config), []byte("Healthcheck")) {
		t.Error("the config says what OCI has no name for")
	}
	dir, back := t.TempDir(), t.TempDir()
	skopeo(t, "copy", "--format", "v2s2", "oci:"+from.dir+":single", "dir:"+dir)
	skopeo(t, "copy", "--format", "oci", "dir:"+dir, "dir:"+back)
	if diff := cmp.Diff(string(dirOf(t, back)), string(raw)); diff != "" {
		t.Errorf("skopeo makes another manifest:\n%s", diff)
	}
}

// TestCompression: layers get the form that was asked for, their tars stay what they were, and so does all else in the manifest.
func TestCompression(t *testing.T) {
	from := newPlace(t)
	root := anImage(t, from, "amd64", "single")
	was, _ := manifest(t, from, root)
	want := diffIDs(t, from, root)
	level, fast := 19, 1
	for _, test := range []struct {
		c         copy.Compression
		mediaType string
	}{
		{copy.Compression{To: copy.Zstd}, v1.MediaTypeImageLayerZstd},
		{copy.Compression{To: copy.Zstd, Level: &level}, v1.MediaTypeImageLayerZstd},
		{copy.Compression{To: copy.ZstdChunked, Level: &fast}, v1.MediaTypeImageLayerZstd},
		{copy.Compression{To: copy.Uncompressed}, v1.MediaTypeImageLayer},
		{copy.Compression{To: copy.Gzip, Force: true}, v1.MediaTypeImageLayerGzip},
	} {
		t.Run(string(test.c.To), func(t *testing.T) {
			to, again := newPlace(t), newPlace(t)
			d := run(t, from, to, root, copy.Options{Compression: test.c})
			raw, m := manifest(t, to, d)
			if diff := cmp.Diff(want, diffIDs(t, to, d)); diff != "" {
				t.Error(diff)
			}
			for i, l := range m.Layers {
				_, old := manifest(t, from, root)
				if l.MediaType != test.mediaType || l.Digest == old.Layers[i].Digest || l.Annotations["org.example"] == "" {
					t.Errorf("layer %d is %+v", i, l)
				}
				if chunked := l.Annotations["io.github.containers.zstd-chunked.manifest-checksum"] != ""; chunked != (test.c.To == copy.ZstdChunked) {
					t.Errorf("layer %d has the annotations %v", i, l.Annotations)
				}
			}
			if !bytes.HasPrefix(raw, []byte(`{"x-unknown":[1,"<"],`)) || m.Annotations["org.example"] == "" || bytes.Equal(raw, was) {
				t.Errorf("the manifest became %s", raw)
			}
			if back := run(t, to, again, d, copy.Options{Compression: copy.Compression{To: test.c.To}}); back.Digest != d.Digest {
				t.Error("what has the form already was changed")
			}
			skopeo(t, "copy", "oci:"+to.dir+":x", "dir:"+t.TempDir())
		})
	}
}

// TestZstdAsSkopeo: skopeo recompresses into an image of the same meaning.
func TestZstdAsSkopeo(t *testing.T) {
	from, to, theirs := newPlace(t), newPlace(t), t.TempDir()
	anIndex(t, from, "multi")
	root, err := from.Resolve(t.Context(), "multi")
	must(t, err)
	_, ours := manifest(t, to, run(t, from, to, root, copy.Options{Compression: copy.Compression{To: copy.Zstd}}))
	skopeo(t, "copy", "--all", "--dest-compress-format", "zstd", "--dest-compress", "oci:"+from.dir+":multi", "dir:"+theirs)
	index, err := image.ParseManifest("", dirOf(t, theirs))
	must(t, err)
	for i, d := range ours.Manifests {
		_, m := manifest(t, to, d)
		raw, err := os.ReadFile(filepath.Join(theirs, index.Manifests[i].Digest.Encoded()+".manifest.json"))
		must(t, err)
		other, err := image.ParseManifest("", raw)
		must(t, err)
		if d.Annotations["io.github.containers.compression.zstd"] != "true" || d.Platform.Architecture != index.Manifests[i].Platform.Architecture {
			t.Errorf("entry %d is %+v", i, d)
		}
		if m.Config.Digest != other.Config.Digest || len(m.Layers) != len(other.Layers) {
			t.Fatalf("config and layers are %+v, %+v", m, other)
		}
		for n, l := range m.Layers {
			blob, err := os.ReadFile(filepath.Join(theirs, other.Layers[n].Digest.Encoded()))
			must(t, err)
			if l.MediaType != other.Layers[n].MediaType || !bytes.Equal(unpacked(t, content(t, to, l)), unpacked(t, blob)) {
				t.Errorf("layer %d is %s, skopeo's %s", n, l.MediaType, other.Layers[n].MediaType)
			}
		}
	}
}

// TestZstdNeedsOCI: Docker's manifests have no zstd.
func TestZstdNeedsOCI(t *testing.T) {
	from, docker, to, back := newPlace(t), newPlace(t), newPlace(t), newPlace(t)
	d := run(t, from, docker, anImage(t, from, "amd64", ""), copy.Options{Format: copy.Docker})
	d = run(t, docker, to, d, copy.Options{Compression: copy.Compression{To: copy.Zstd}})
	if d.MediaType != v1.MediaTypeImageManifest {
		t.Errorf("it is %s", d.MediaType)
	}
	_, m := manifest(t, back, run(t, to, back, d, copy.Options{Format: copy.Docker}))
	if m.MediaType != image.MediaTypeDockerManifest || m.Layers[0].MediaType != image.MediaTypeDockerLayerGzip {
		t.Errorf("it became %+v", m)
	}
	_, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), d, copy.Options{Format: copy.Docker, Compression: copy.Compression{To: copy.Zstd}})
	if !errors.Is(err, image.ErrUnsupported) {
		t.Error(err)
	}
}

// TestPlatforms: an index is cut to what was copied.
func TestPlatforms(t *testing.T) {
	from := newPlace(t)
	root := anIndex(t, from, "multi")
	_, whole := manifest(t, from, root)
	arm := image.Platform{OS: "linux", Architecture: "arm64"}
	to := newPlace(t)
	raw, m := manifest(t, to, run(t, from, to, root, copy.Options{Parts: copy.Listed, Platforms: []image.Platform{arm}}))
	if diff := cmp.Diff(whole.Manifests[1:], m.Manifests); diff != "" || !bytes.Contains(raw, []byte("of the index")) {
		t.Errorf("%s\n%s", raw, diff)
	}
	if _, _, err := to.Manifest(t.Context(), whole.Manifests[0].Digest.String()); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("the other platform: %v", err)
	}
	both := copy.Options{Parts: copy.Listed, Platforms: []image.Platform{arm, {OS: "linux", Architecture: "amd64"}}}
	if d := run(t, from, newPlace(t), root, both); d.Digest != root.Digest {
		t.Error("an index of which nothing was cut changed")
	}
	if d := run(t, from, newPlace(t), root, copy.Options{Parts: copy.System, Platforms: []image.Platform{arm}}); d.Digest != whole.Manifests[1].Digest {
		t.Error("it is not the platform's image")
	}
	for _, parts := range []copy.Parts{copy.System, copy.Listed} {
		o := copy.Options{Parts: parts, Platforms: []image.Platform{{OS: "plan9", Architecture: "mips"}}}
		_, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), root, o)
		if !errors.Is(err, image.ErrNotFound) || !strings.Contains(err.Error(), "plan9/mips") || !strings.Contains(err.Error(), "linux/arm64/v8") {
			t.Errorf("%s: %v", parts, err)
		}
	}
}

// TestNested: an index of indexes is converted down to its layers, each once; of its images, one is chosen.
func TestNested(t *testing.T) {
	from, to := newPlace(t), newPlace(t)
	inner := anIndex(t, from, "multi")
	inner.Platform = &image.Platform{OS: "linux", Architecture: "amd64"}
	raw, err := json.Marshal(v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []image.Descriptor{inner, inner}})
	must(t, err)
	root := put(t, from, v1.MediaTypeImageIndex, raw)
	_, m := manifest(t, to, run(t, from, to, root, copy.Options{Format: copy.Docker, Compression: copy.Compression{To: copy.Uncompressed}}))
	if m.MediaType != image.MediaTypeDockerList || m.Manifests[0].MediaType != image.MediaTypeDockerList || m.Manifests[0].Digest != m.Manifests[1].Digest {
		t.Errorf("it is %+v", m)
	}
	_, m = manifest(t, to, m.Manifests[1])
	_, m = manifest(t, to, m.Manifests[0])
	if m.MediaType != image.MediaTypeDockerManifest || m.Layers[2].MediaType != "application/vnd.docker.image.rootfs.diff.tar" {
		t.Errorf("it is %+v", m)
	}
	_, was := manifest(t, from, inner)
	o := copy.Options{Parts: copy.System, Platforms: []image.Platform{{OS: "linux", Architecture: "amd64"}}}
	if d := run(t, from, to, root, o); d.Digest != was.Manifests[0].Digest || d.Platform != nil {
		t.Errorf("it is %+v", d)
	}
}

// TestPreserveDigests: what would change a digest is refused; what is of the form already passes.
func TestPreserveDigests(t *testing.T) {
	from, to := newPlace(t), newPlace(t)
	root := anIndex(t, from, "multi")
	for name, o := range map[string]copy.Options{
		"format":      {Format: copy.Docker},
		"compression": {Compression: copy.Compression{To: copy.Zstd}},
		"platforms":   {Parts: copy.Listed},
	} {
		o.PreserveDigests, o.Platforms = true, []image.Platform{{OS: "linux", Architecture: "arm64"}}
		if _, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), root, o); !errors.Is(err, image.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if d := run(t, from, to, root, copy.Options{PreserveDigests: true, Format: copy.OCI, Compression: copy.Compression{To: copy.Gzip}}); d.Digest != root.Digest {
		t.Error("it changed")
	}
}

// TestArtifacts are not converted, and pass where nothing has to be.
func TestArtifacts(t *testing.T) {
	from, to, content := layouts(t)
	a := copy.From(from, image.Repository{})
	d, err := copy.Run(t.Context(), to, a, content.Artifact, copy.Options{Compression: copy.Compression{To: copy.Zstd}})
	if err != nil || d.Digest != content.Artifact.Digest {
		t.Errorf("%s, %v", d.Digest, err)
	}
	if _, err := copy.Run(t.Context(), to, a, content.Artifact, copy.Options{Format: copy.Docker}); !errors.Is(err, image.ErrUnsupported) {
		t.Error(err)
	}
}

// TestWrongContent: layers are not what the config or their media types say.
func TestWrongContent(t *testing.T) {
	for name, raw := range map[string][]byte{
		"another tar": gzipped([]byte("another")), "cut short": gzipped(tarOf("x", 100_000))[:200], "garbage behind": append(gzipped(tarOf("amd64-0", 100)), 'x'),
		"a window of a gigabyte": []byte("\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00"), "xz": []byte("\xfd7zXZ\x00\x00\x00"),
	} {
		from, to, temp := newPlace(t), newPlace(t), t.TempDir()
		_, m := manifest(t, from, anImage(t, from, "amd64", ""))
		m.Layers[0] = put(t, from, v1.MediaTypeImageLayerGzip, raw)
		doc, err := json.Marshal(v1.Manifest{MediaType: m.MediaType, Config: *m.Config, Layers: m.Layers})
		must(t, err)
		root := put(t, from, v1.MediaTypeImageManifest, doc)
		o := copy.Options{Tags: []string{"x"}, Compression: copy.Compression{To: copy.Zstd}, TempDir: temp}
		_, err = copy.Run(t.Context(), to, copy.From(from, image.Repository{}), root, o)
		if !errors.Is(err, image.ErrDigest) && !errors.Is(err, image.ErrInvalid) && !errors.Is(err, image.ErrUnsupported) || !strings.Contains(err.Error(), m.Layers[0].Digest.String()) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", name, left, err)
		}
		if _, err := to.Resolve(t.Context(), "x"); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("%s: the tag: %v", name, err)
		}
	}
}
