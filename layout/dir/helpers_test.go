package dir

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func create(t *testing.T, path string) *Dir {
	t.Helper()
	x, err := Create(path)
	must(t, err)
	t.Cleanup(func() { x.Close() })
	return x
}

func bring(raw []byte) image.Content {
	return image.Content{Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw[off:])), nil
	}}
}

// picture is an image that can be pushed: its manifest last.
type picture struct {
	alg   digest.Algorithm
	d     image.Descriptor
	raw   []byte
	parts []part
	below []picture
}

// part is a config or a layer.
type part struct {
	image.Descriptor
	raw []byte
}

func (p *picture) part(mediaType string, raw []byte) image.Descriptor {
	d := image.Descriptor{MediaType: mediaType, Digest: p.alg.FromBytes(raw), Size: int64(len(raw))}
	p.parts = append(p.parts, part{d, raw})
	return d
}

func (p *picture) manifest(mediaType string, m any) {
	p.raw, _ = json.MarshalIndent(m, "", "   ")
	p.d = image.Descriptor{MediaType: mediaType, Digest: p.alg.FromBytes(p.raw), Size: int64(len(p.raw))}
}

// paint makes an image of an architecture with a layer of each text.
func paint(alg digest.Algorithm, arch string, layers ...string) picture {
	p := picture{alg: alg}
	config, _ := json.Marshal(v1.Image{Platform: v1.Platform{OS: "linux", Architecture: arch}})
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: p.part(v1.MediaTypeImageConfig, config),
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, p.part(v1.MediaTypeImageLayer, []byte(l)))
	}
	p.manifest(v1.MediaTypeImageManifest, m)
	return p
}

// several makes an index of images.
func several(below ...picture) picture {
	p := picture{alg: below[0].alg, below: below}
	x := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, b := range below {
		d := b.d
		d.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
		x.Manifests = append(x.Manifests, d)
	}
	p.manifest(v1.MediaTypeImageIndex, x)
	return p
}

// push pushes all but the manifest itself.
func (p picture) push(ctx context.Context, x *Dir) error {
	for _, part := range p.parts {
		if _, err := x.Push(ctx, part.Descriptor, bring(part.raw)); err != nil {
			return err
		}
	}
	for _, b := range p.below {
		if err := b.push(ctx, x); err != nil {
			return err
		}
		if _, err := x.Push(ctx, b.d, bring(b.raw)); err != nil {
			return err
		}
	}
	return nil
}

func (p picture) write(ctx context.Context, x *Dir) error {
	if err := p.push(ctx, x); err != nil {
		return err
	}
	return x.Tag(ctx, p.d, p.raw, "")
}

// names are the files that a folder has with the image in it, but for "version".
func (p picture) names() []string {
	names := []string{manifestFile}
	for _, part := range p.parts {
		names = append(names, blobFile(part.Digest))
	}
	for _, b := range p.below {
		names = append(names, instanceFile(b.d.Digest))
		names = append(names, slices.DeleteFunc(b.names(), func(name string) bool { return name == manifestFile })...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// holds tests that the folder has the image and nothing else.
func holds(t *testing.T, what, path string, p picture) {
	t.Helper()
	var names []string
	entries, err := os.ReadDir(path)
	must(t, err)
	for _, e := range entries {
		if e.Name() != versionFile {
			names = append(names, e.Name())
		}
	}
	want(t, what, names, p.names())
	reads(t, what, path, p)
}

// reads tests that the image can be read, whole.
func reads(t *testing.T, what, path string, p picture) {
	t.Helper()
	x, err := Open(path)
	must(t, err)
	defer x.Close()
	d, raw, err := x.Manifest(t.Context(), "")
	if err != nil || string(raw) != string(p.raw) {
		t.Errorf("%s: the image is %s, %v; want %s", what, d.Digest, err, p.d.Digest)
	}
	p.whole(t, what, x)
}

func (p picture) whole(t *testing.T, what string, x *Dir) {
	t.Helper()
	for _, part := range p.parts {
		got, err := read(t, x, part.Descriptor)
		if err != nil || got != string(part.raw) {
			t.Errorf("%s: %s is %.100q, %v", what, part.Digest, got, err)
		}
	}
	for _, b := range p.below {
		got, err := read(t, x, b.d)
		if err != nil || got != string(b.raw) {
			t.Errorf("%s: %s is %q, %v", what, b.d.Digest, got, err)
		}
		b.whole(t, what, x)
	}
}

func read(t *testing.T, x *Dir, d image.Descriptor) (string, error) {
	r, err := x.Fetch(t.Context(), d)
	if err != nil {
		return "", err
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	return string(raw), err
}

func writeFile(t *testing.T, content string, name ...string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(name...), []byte(content), 0o644))
}

func readFile(t *testing.T, name ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(name...))
	must(t, err)
	return string(raw)
}

// run runs a client of images, if it is here, and returns what it printed. On CI it must be.
func run(t *testing.T, name string, arg ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	out, err := exec.Command(name, arg...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arg, " "), err, out)
	}
	return string(out)
}
