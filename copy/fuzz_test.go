package copy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

const anyDigest = `"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"`

// FuzzEdit: an object that is edited differs only in what was set, and is read by others as it is read here.
func FuzzEdit(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1,"digest":"x","B":[{"c":null}],"annotations":{"<":"\u003c"}}`, `{"Digest":1}`, `{"digest":1,"digest":2}`, ` { "digest" : "\ud800" } `, `[]`, `{"a":1} {"b":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := parseObject(raw)
		if err != nil {
			if !errors.Is(err, image.ErrInvalid) {
				t.Error(err)
			}
			return
		}
		o.set("digest", "new")
		var was, is map[string]any
		if json.Unmarshal(raw, &was) != nil {
			return // more stands behind the object, which who edits a manifest has parsed before
		}
		if err := json.Unmarshal(o.bytes(), &is); err != nil || is["digest"] != "new" {
			t.Fatalf("%s: %v", o.bytes(), err)
		}
		delete(was, "digest")
		delete(is, "digest")
		if diff := cmp.Diff(was, is); diff != "" {
			t.Errorf("%s\n%s", o.bytes(), diff)
		}
	})
}

// FuzzManifest: whatever a manifest says, one is made of it that can be read, or it is an error.
func FuzzManifest(f *testing.F) {
	for _, seed := range []string{
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":` + anyDigest + `,"size":2},
		"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":` + anyDigest + `,"size":1,"annotations":{"a":"b"}}]}`,
		`{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":` + anyDigest + `,"size":2},
		"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":` + anyDigest + `,"size":1,"urls":["x"]}]}`,
		`{"schemaVersion":1,"fsLayers":[{"blobSum":` + anyDigest + `}],"history":[{"v1Compatibility":"{\"id\":\"` + string(bytes.Repeat([]byte("a"), 64)) + `\"}"}]}`,
	} {
		f.Add([]byte(seed), []byte(`{"architecture":"amd64","rootfs":{"diff_ids":[]},"history":[{"empty_layer":true},{}]}`))
	}
	f.Fuzz(func(t *testing.T, raw, config []byte) {
		m, err := image.ParseManifest("", raw)
		if err != nil || m.IsIndex() {
			return
		}
		d := image.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		s := source{made{Descriptor: d, raw: raw}, m}
		r := &run{}
		for _, to := range []form{{OCI, Zstd}, {Docker, KeepCompression}, {Docker, Uncompressed}, {Schema1, KeepCompression}} {
			p := &plan{source: s, form: to, layers: layersOf(s.Layers), config: config}
			if m.Config == nil && to.format != Schema1 {
				if p.old, err = parseSchema1(raw); err != nil {
					continue
				}
				p.layers = layersOf(p.old.layers())
			}
			for i := range p.layers {
				if err == nil {
					err = r.planLayer(p, i, to)
				}
			}
			if err != nil || !s.isImage() {
				continue
			}
			finish(t, r, p)
		}
	})
}

func finish(t *testing.T, r *run, p *plan) {
	results := p.unchanged()
	for i := range results {
		results[i].Digest = digest.FromString("new")
	}
	m, _, err := r.finished(p, results)
	if err != nil {
		if !errors.Is(err, image.ErrInvalid) && !errors.Is(err, image.ErrUnsupported) {
			t.Error(err)
		}
		return
	}
	got, err := image.ParseManifest(m.MediaType, m.raw)
	if err != nil {
		t.Fatalf("%s: %v", m.raw, err)
	}
	if p.format != Schema1 && len(got.Layers) != len(p.layers) {
		t.Errorf("%d layers became %d", len(p.layers), len(got.Layers))
	}
	name, err := image.DigestManifest(digest.SHA256, m.MediaType, m.raw)
	if err != nil || name != m.Digest {
		t.Errorf("it is called %s, and is %s, %v", m.Digest, name, err)
	}
}

// FuzzLayer: content that claims to be compressed is decompressed, or an error of this package's.
func FuzzLayer(f *testing.F) {
	for _, to := range []Algorithm{Gzip, Zstd, ZstdChunked, Uncompressed} {
		var b bytes.Buffer
		w, err := compress(&b, Compression{To: to}, map[string]string{})
		if err != nil {
			f.Fatal(err)
		}
		w.Write(tarOfFiles(2, 10, 100))
		w.Close()
		f.Add(slices.Clone(b.Bytes()))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		most := &limited{1 << 20}
		err := unpack(t.Context(), bytes.NewReader(raw), most)
		if err != nil && !errors.Is(err, image.ErrInvalid) && !errors.Is(err, image.ErrUnsupported) && !errors.Is(err, io.ErrShortWrite) {
			t.Error(err)
		}
	})
}

// limited takes so many bytes.
type limited struct{ left int }

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}
