package copy_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/types"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/registry"
	"github.com/regfs/regfs/tests/registries"
)

// repository opens one of a registry's.
func repository(t *testing.T, r *registries.Registry, name string) (image.Sink, image.Source) {
	t.Helper()
	c := registry.New(registry.Options{Insecure: []string{r.Host}, System: &types.SystemContext{AuthFilePath: filepath.Join(t.TempDir(), "auth.json")}})
	t.Cleanup(func() { c.Close() })
	h, err := c.Host(r.Host)
	must(t, err)
	to, err := h.Sink(t.Context(), name)
	must(t, err)
	src, err := h.Source(t.Context(), name)
	must(t, err)
	return to, src
}

// TestSchema1: a registry takes the schema 1 image that is made here, so its signature is good; it says what skopeo's says; and
// what is read back is what skopeo reads of it.
func TestSchema1(t *testing.T) {
	reg := registries.Docker(t, registries.Config{Schema1: true})
	from, theirs := newPlace(t), t.TempDir()
	root := anImage(t, from, "amd64", "single")
	to, src := repository(t, reg, "a/b")
	o := copy.Options{Tags: []string{"old"}, Name: "a/b", Format: copy.Schema1}
	d, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), root, o)
	must(t, err)
	got, raw, err := src.Manifest(t.Context(), "old")
	must(t, err)
	if got.Digest != d.Digest || got.MediaType != image.MediaTypeDockerSchema1Signed {
		t.Errorf("it is %s %s, and not %s", got.MediaType, got.Digest, d.Digest)
	}
	skopeo(t, "copy", "--format", "v2s1", "oci:"+from.dir+":single", "dir:"+theirs)
	if diff := cmp.Diff(schema1Of(t, dirOf(t, theirs)), schema1Of(t, raw)); diff != "" {
		t.Errorf("skopeo says something else:\n%s", diff)
	}
	for format, arg := range map[copy.Format]string{copy.Docker: "v2s2", copy.OCI: "oci"} {
		back, dir := newPlace(t), t.TempDir()
		m, err := copy.Run(t.Context(), back, copy.From(src, image.Repository{}), d, copy.Options{Format: format})
		must(t, err)
		skopeo(t, "copy", "--src-tls-verify=false", "--format", arg, "docker://"+reg.Host+"/a/b:old", "dir:"+dir)
		raw, _ := manifest(t, back, m)
		if diff := cmp.Diff(string(dirOf(t, dir)), string(raw)); diff != "" {
			t.Errorf("%s: skopeo makes another manifest:\n%s", format, diff)
		}
		if diff := cmp.Diff(diffIDs(t, from, root), diffIDs(t, back, m)); diff != "" {
			t.Error(diff)
		}
	}
}

// schema1Of is what a schema 1 manifest says, but for names and signatures.
func schema1Of(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	var m map[string]any
	must(t, json.Unmarshal(raw, &m))
	for _, name := range []string{"signatures", "name", "tag"} {
		delete(m, name)
	}
	return m
}

// oldImages is a Source of one schema 1 image, whose layers are a layout's.
type oldImages struct {
	place
	d   image.Descriptor
	raw []byte
}

func (o *oldImages) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	if ref == o.d.Digest.String() {
		return o.d, o.raw, nil
	}
	return o.place.Manifest(ctx, ref)
}

// anOldImage is a signed schema 1 image as Docker 1.9 made them: of entries is one of a step, top first, "throwaway" or the layer's number.
func anOldImage(t *testing.T, entries ...string) *oldImages {
	t.Helper()
	o := &oldImages{place: newPlace(t)}
	var layers, history []any
	for i, entry := range entries {
		layer := put(t, o.place, image.MediaTypeDockerLayerGzip, gzipped(tarOf("old-"+entry, 5000)))
		layers = append(layers, map[string]any{"blobSum": layer.Digest})
		compat := map[string]any{"id": id(len(entries) - i), "created": "2015-01-02T03:04:05.123456789Z", "container_config": map[string]any{"Cmd": []string{"run", entry}}}
		if i < len(entries)-1 {
			compat["parent"] = id(len(entries) - i - 1)
		}
		if entry == "throwaway" {
			compat["throwaway"] = true
		}
		if i == 0 {
			compat["architecture"], compat["os"], compat["Size"], compat["config"] = "amd64", "linux", 7, map[string]any{"Env": []string{"A=<b>"}}
		}
		raw, err := json.Marshal(compat)
		must(t, err)
		history = append(history, map[string]any{"v1Compatibility": string(raw)})
	}
	payload, err := json.MarshalIndent(map[string]any{
		"schemaVersion": 1, "name": "old/image", "tag": "x", "architecture": "amd64", "fsLayers": layers, "history": history,
	}, "", "   ")
	must(t, err)
	end := bytes.LastIndexByte(payload, '\n')
	protected := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"formatLength":%d,"formatTail":"Cn0"}`, end))
	o.raw = fmt.Appendf(nil, "%s,\n   \"signatures\": [{\"signature\": \"none\", \"protected\": %q}]\n}", payload[:end], protected)
	o.d = image.Descriptor{MediaType: image.MediaTypeDockerSchema1Signed, Digest: digest.FromBytes(payload), Size: int64(len(o.raw))}
	return o
}

func id(n int) string { return fmt.Sprintf("%064x", n) }

// TestOldImages: what an image's history says goes into its config; steps without files have no layer any more.
func TestOldImages(t *testing.T) {
	old, to, dir, theirs := anOldImage(t, "2", "throwaway", "1", "throwaway", "0"), newPlace(t), t.TempDir(), t.TempDir()
	d, err := copy.Run(t.Context(), to, copy.From(old, image.Repository{}), old.d, copy.Options{Format: copy.OCI})
	must(t, err)
	_, m := manifest(t, to, d)
	var config v1.Image
	must(t, json.Unmarshal(content(t, to, *m.Config), &config))
	if diff := cmp.Diff(diffIDs(t, to, d), config.RootFS.DiffIDs); diff != "" || len(m.Layers) != 3 || len(config.History) != 5 {
		t.Errorf("%+v, %+v\n%s", m, config, diff)
	}
	for i, l := range m.Layers {
		if l.MediaType != v1.MediaTypeImageLayerGzip || !bytes.Equal(unpacked(t, content(t, to, l)), tarOf(fmt.Sprint("old-", i), 5000)) {
			t.Errorf("layer %d is %+v", i, l)
		}
	}
	// skopeo reads a dir: of the same.
	must(t, os.WriteFile(filepath.Join(dir, "manifest.json"), bytes.Replace(old.raw, []byte(`"signature": "none"`), []byte(`"header": {}, "signature": ""`), 1), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "version"), []byte("Directory Transport Version: 1.1\n"), 0o644))
	_, was := manifest(t, old, old.d)
	for _, l := range was.Layers {
		l.Size = -1
		must(t, os.WriteFile(filepath.Join(dir, l.Digest.Encoded()), content(t, old.place, l), 0o644))
	}
	skopeo(t, "copy", "--format", "oci", "dir:"+dir, "dir:"+theirs)
	raw, _ := manifest(t, to, d)
	if diff := cmp.Diff(string(dirOf(t, theirs)), string(raw)); diff != "" {
		t.Errorf("skopeo makes another manifest:\n%s", diff)
	}
	zstd := copy.Options{Compression: copy.Compression{To: copy.Zstd}}
	d, err = copy.Run(t.Context(), to, copy.From(old, image.Repository{}), old.d, zstd)
	must(t, err)
	if _, m := manifest(t, to, d); m.Layers[0].MediaType != v1.MediaTypeImageLayerZstd {
		t.Errorf("it is %+v", m)
	}
}

// TestOldImagesFallBack: a place without schema 1 gets Docker's second.
func TestOldImagesFallBack(t *testing.T) {
	old := anOldImage(t, "1", "0")
	to := &picky{place: newPlace(t), holds: func(m *image.Manifest) bool { return !image.IsSchema1(m.MediaType) }}
	d, err := copy.Run(t.Context(), to, copy.From(old, image.Repository{}), old.d, copy.Options{})
	if err != nil || d.MediaType != image.MediaTypeDockerManifest {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestBadSchema1: what does not fit together is refused.
func TestBadSchema1(t *testing.T) {
	for name, change := range map[string][2]string{
		"no history":  {`"history"`, `"story"`},
		"an ID":       {id(1), "../../etc"},
		"a loop":      {`\"parent\":\"` + id(1), `\"parent\":\"` + id(2)},
		"no JSON":     {`{\"Size`, `\"Size`},
		"a parent":    {`\"parent\":\"` + id(1) + `\"`, `\"parent\":\"\"`},
		"wrong types": {`\"throwaway\":true`, `\"throwaway\":\"yes\"`},
	} {
		old, to := anOldImage(t, "1", "throwaway", "0"), newPlace(t)
		old.raw = []byte(strings.ReplaceAll(string(old.raw), change[0], change[1]))
		old.d.Size = int64(len(old.raw))
		_, err := copy.Run(t.Context(), to, copy.From(old, image.Repository{}), old.d, copy.Options{Format: copy.OCI})
		if !errors.Is(err, image.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
