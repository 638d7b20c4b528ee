package copy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
)

// picky is a Sink that holds only what holds tells.
type picky struct {
	place
	holds func(m *image.Manifest) bool
	mu    sync.Mutex
	asked []string
}

func (p *picky) Expect(ctx context.Context, d image.Descriptor, raw []byte) error {
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, m.MediaType)
	if !p.holds(m) {
		return fmt.Errorf("no %s here: %w", m.MediaType, image.ErrUnsupported)
	}
	return nil
}

func isDocker(m *image.Manifest) bool {
	return m.MediaType == image.MediaTypeDockerManifest || m.MediaType == image.MediaTypeDockerList
}

func plain(m *image.Manifest) bool {
	return !slices.ContainsFunc(m.Layers, func(l image.Descriptor) bool {
		t, ok := image.ParseLayerType(l.MediaType)
		return !ok || t.Compression != image.Uncompressed
	})
}

// TestFallback: a place gets what it can hold.
func TestFallback(t *testing.T) {
	from := newPlace(t)
	single, multi := anImage(t, from, "amd64", ""), anIndex(t, from, "multi")
	amd64 := []image.Platform{{OS: "linux", Architecture: "amd64"}}
	for name, test := range map[string]struct {
		holds func(m *image.Manifest) bool
		root  image.Descriptor
		parts copy.Parts
		want  string // the media type; "" for an error
		plain bool
	}{
		"docker":            {isDocker, single, copy.All, image.MediaTypeDockerManifest, false},
		"list":              {isDocker, multi, copy.All, image.MediaTypeDockerList, false},
		"plain":             {plain, single, copy.All, v1.MediaTypeImageManifest, true},
		"plain docker":      {func(m *image.Manifest) bool { return isDocker(m) && plain(m) }, single, copy.All, image.MediaTypeDockerManifest, true},
		"no index":          {func(m *image.Manifest) bool { return !m.IsIndex() }, multi, copy.Fitting, v1.MediaTypeImageManifest, false},
		"no index, not fit": {func(m *image.Manifest) bool { return !m.IsIndex() }, multi, copy.All, "", false},
		"fits":              {func(*image.Manifest) bool { return true }, multi, copy.Fitting, v1.MediaTypeImageIndex, false},
		"nothing":           {func(*image.Manifest) bool { return false }, single, copy.Fitting, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			to := &picky{place: newPlace(t), holds: test.holds}
			d, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), test.root, copy.Options{Parts: test.parts, Platforms: amd64})
			if test.want == "" {
				if !errors.Is(err, image.ErrUnsupported) || err.Error() != "no "+test.root.MediaType+" here: "+image.ErrUnsupported.Error() {
					t.Error(err)
				}
				return
			}
			must(t, err)
			_, m := manifest(t, to, d)
			if m.MediaType != test.want || !m.IsIndex() && plain(m) != test.plain {
				t.Errorf("it is %+v", m)
			}
			whole(t, to, d)
			strict := copy.Options{Parts: copy.All, PreserveDigests: true}
			_, err = copy.Run(t.Context(), to, copy.From(from, image.Repository{}), test.root, strict)
			if (err == nil) != (d.Digest == test.root.Digest) {
				t.Errorf("with digests preserved: %v", err)
			}
		})
	}
}

// late refuses a manifest only when it comes.
type late struct {
	place
	takes func(m *image.Manifest) bool
}

func (l *late) judge(d image.Descriptor, raw []byte) error {
	if m, err := image.ParseManifest(d.MediaType, raw); err != nil || !l.takes(m) {
		return fmt.Errorf("push %s: manifest invalid: %w", d.MediaType, image.ErrRefused)
	}
	return nil
}

func (l *late) Push(ctx context.Context, d image.Descriptor, c image.Content) (image.How, error) {
	if image.IsManifest(d.MediaType) {
		r, err := c.Open(ctx, 0)
		if err != nil {
			return "", err
		}
		raw, err := io.ReadAll(r)
		if err := errors.Join(err, l.judge(d, raw)); err != nil {
			return "", err
		}
	}
	return l.place.Push(ctx, d, c)
}

func (l *late) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if err := l.judge(d, raw); err != nil {
		return err
	}
	return l.place.Tag(ctx, d, raw, tag)
}

// TestRefusedLate: a registry says only when a manifest comes that it takes none of the kind.
func TestRefusedLate(t *testing.T) {
	from := newPlace(t)
	single, multi := anImage(t, from, "amd64", ""), anIndex(t, from, "multi")
	o := copy.Options{Tags: []string{"x"}, Jobs: 1, Parts: copy.Fitting, Platforms: []image.Platform{{OS: "linux", Architecture: "amd64"}}}
	for name, test := range map[string]struct {
		takes func(m *image.Manifest) bool
		root  image.Descriptor
		want  string
	}{
		"docker":   {isDocker, single, image.MediaTypeDockerManifest},
		"list":     {isDocker, multi, image.MediaTypeDockerList},
		"no index": {func(m *image.Manifest) bool { return m.MediaType == image.MediaTypeDockerManifest }, multi, image.MediaTypeDockerManifest},
		"nothing":  {func(*image.Manifest) bool { return false }, multi, ""},
	} {
		to := &late{newPlace(t), test.takes}
		d, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), test.root, o)
		if test.want == "" {
			if !errors.Is(err, image.ErrRefused) || !strings.Contains(err.Error(), "oci") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || d.MediaType != test.want {
			t.Errorf("%s: %s, %v", name, d.MediaType, err)
			continue
		}
		if got, err := to.Resolve(t.Context(), "x"); err != nil || got.Digest != d.Digest {
			t.Errorf("%s: the tag is %s, %v", name, got.Digest, err)
		}
		whole(t, to, d)
		strict := o
		strict.PreserveDigests = true
		if _, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), single, strict); !errors.Is(err, image.ErrRefused) {
			t.Errorf("%s, with digests preserved: %v", name, err)
		}
	}
}

// unpacking is a Source that has layers uncompressed, whatever its manifests say.
type unpacking struct {
	image.Source
	have map[digest.Digest][]byte
	sent sync.Map
}

// newUnpacking unpacks an image's layers.
func newUnpacking(t *testing.T, src image.Source, root image.Descriptor) *unpacking {
	u := &unpacking{Source: src, have: map[digest.Digest][]byte{}}
	_, m := manifest(t, src, root)
	for _, l := range m.Layers {
		u.have[l.Digest] = unpacked(t, content(t, src, l))
	}
	return u
}

func (u *unpacking) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	if tar, ok := u.have[d.Digest]; ok {
		return nil, fmt.Errorf("fetch: %w", &image.FormError{Want: d, Have: image.Descriptor{
			MediaType: v1.MediaTypeImageLayer, Digest: digest.FromBytes(tar), Size: int64(len(tar)),
		}})
	}
	for _, tar := range u.have {
		if digest.FromBytes(tar) == d.Digest {
			u.sent.Store(d.Digest, true)
			return io.NopCloser(bytes.NewReader(tar)), nil
		}
	}
	return u.Source.Fetch(ctx, d)
}

func (u *unpacking) FetchRange(_ context.Context, d image.Descriptor, _, _ int64) (io.ReadCloser, error) {
	return nil, image.ErrUnsupported
}

// TestOtherForm: layers that are there only unpacked are compressed again, unless the destination has them as they were.
func TestOtherForm(t *testing.T) {
	from := newPlace(t)
	root := anImage(t, from, "amd64", "")
	want := diffIDs(t, from, root)
	for name, test := range map[string]struct {
		o     copy.Options
		holds func(*image.Manifest) bool
		want  string
	}{
		"gzip":     {copy.Options{}, nil, v1.MediaTypeImageLayerGzip},
		"zstd":     {copy.Options{Compression: copy.Compression{To: copy.Zstd}}, nil, v1.MediaTypeImageLayerZstd},
		"none":     {copy.Options{Compression: copy.Compression{To: copy.Uncompressed}}, nil, v1.MediaTypeImageLayer},
		"docker":   {copy.Options{Format: copy.Docker}, nil, image.MediaTypeDockerLayerGzip},
		"fallback": {copy.Options{}, plain, v1.MediaTypeImageLayer},
	} {
		t.Run(name, func(t *testing.T) {
			u, to := newUnpacking(t, from, root), &picky{place: newPlace(t), holds: test.holds}
			if test.holds == nil {
				to.holds = func(*image.Manifest) bool { return true }
			}
			test.o.Events = func(e copy.Event) {
				if e.State == copy.Failed {
					t.Errorf("%s failed: %v", e.Descriptor.Digest, e.Err)
				}
			}
			d, err := copy.Run(t.Context(), to, copy.From(u, image.Repository{}), root, test.o)
			must(t, err)
			_, m := manifest(t, to, d)
			if m.Layers[0].MediaType != test.want {
				t.Errorf("the layers are %s", m.Layers[0].MediaType)
			}
			if diff := cmp.Diff(want, diffIDs(t, to, d)); diff != "" {
				t.Error(diff)
			}
			_, err = copy.Run(t.Context(), newPlace(t), copy.From(u, image.Repository{}), root, copy.Options{PreserveDigests: true})
			var other *image.FormError
			if !errors.As(err, &other) || !errors.Is(err, image.ErrRefused) {
				t.Errorf("with digests preserved: %v", err)
			}
		})
	}
	t.Run("there", func(t *testing.T) {
		u, to := newUnpacking(t, from, root), newPlace(t)
		run(t, from, to, root, copy.Options{})
		if d := run(t, from, to, root, copy.Options{PreserveDigests: true}); d.Digest != root.Digest {
			t.Error("it changed")
		}
		d, err := copy.Run(t.Context(), to, copy.From(u, image.Repository{}), root, copy.Options{})
		if err != nil || d.Digest != root.Digest {
			t.Errorf("%s, %v", d.Digest, err)
		}
		u.sent.Range(func(key, _ any) bool {
			t.Errorf("%s was read", key)
			return true
		})
	})
}

// corrupting is a Source whose layers are damaged on the way.
type corrupting struct{ image.Source }

func (c corrupting) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	r, err := c.Source.Fetch(ctx, d)
	if err != nil || d.Size < 1000 {
		return r, err
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	raw[len(raw)/2] ^= 0xff
	return io.NopCloser(bytes.NewReader(raw)), err
}

func (corrupting) FetchRange(context.Context, image.Descriptor, int64, int64) (io.ReadCloser, error) {
	return nil, image.ErrUnsupported
}

// TestDamaged: a layer that came damaged is said to be that, and not to be compressed wrongly.
func TestDamaged(t *testing.T) {
	from, to := newPlace(t), newPlace(t)
	root := anImage(t, from, "amd64", "")
	o := copy.Options{Compression: copy.Compression{To: copy.Zstd}}
	if _, err := copy.Run(t.Context(), to, copy.From(corrupting{from}, image.Repository{}), root, o); !errors.Is(err, image.ErrDigest) {
		t.Error(err)
	}
}

// TestConvertingEvents: the events call layers what they were, count what was read of them, and end for all.
func TestConvertingEvents(t *testing.T) {
	from, to := newPlace(t), newPlace(t)
	root := anImage(t, from, "amd64", "")
	_, m := manifest(t, from, root)
	most, done := map[digest.Digest]int64{}, map[digest.Digest]image.How{}
	o := copy.Options{Compression: copy.Compression{To: copy.Zstd}, Events: locked(func(e copy.Event) {
		most[e.Descriptor.Digest] = max(most[e.Descriptor.Digest], e.Sent)
		if e.State == copy.Done {
			done[e.Descriptor.Digest] = e.How
		}
	})}
	run(t, from, to, root, o)
	for _, d := range append(m.Children(), root) {
		if done[d.Digest] == "" {
			t.Errorf("%s is not done", d.Digest)
		}
	}
	for _, l := range m.Layers {
		if most[l.Digest] != l.Size {
			t.Errorf("of %d bytes of a layer, %d were read", l.Size, most[l.Digest])
		}
	}
	if len(done) != 5 {
		t.Errorf("done are %v", done)
	}
}

// TestInterruptedConversion leaves no file behind, and no tag.
func TestInterruptedConversion(t *testing.T) {
	from, to, temp := newPlace(t), newPlace(t), t.TempDir()
	root := anImage(t, from, "amd64", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := copy.Options{Tags: []string{"x"}, TempDir: temp, Compression: copy.Compression{To: copy.Zstd}, Events: func(e copy.Event) {
		if e.Sent > 0 {
			cancel()
		}
	}}
	if _, err := copy.Run(ctx, to, copy.From(from, image.Repository{}), root, o); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	if _, err := to.Resolve(t.Context(), "x"); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("the tag: %v", err)
	}
}

// TestOptions that contradict themselves are refused before anything is done.
func TestOptions(t *testing.T) {
	low, high := -1, 23
	for name, o := range map[string]copy.Options{
		"parts": {Parts: "some"}, "format": {Format: "v3"}, "compression": {Compression: copy.Compression{To: "lz4"}},
		"gzip level": {Compression: copy.Compression{To: copy.Gzip, Level: &low}}, "zstd level": {Compression: copy.Compression{To: copy.Zstd, Level: &high}},
		"platforms": {Parts: copy.System, Platforms: make([]image.Platform, 2)},
	} {
		if _, err := copy.Run(t.Context(), nil, nil, image.Descriptor{}, o); !errors.Is(err, image.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
