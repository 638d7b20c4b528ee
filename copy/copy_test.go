package copy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/oci"
	"github.com/regfs/regfs/tests/conformance"
)

// layouts are an OCI layout with the conformance suite's content, and an empty one.
func layouts(t *testing.T) (from, to *oci.Layout, content conformance.Content) {
	t.Helper()
	content = conformance.NewContent()
	from, to = create(t), create(t)
	conformance.Fill(t, from, content)
	return from, to, content
}

func create(t *testing.T) *oci.Layout {
	t.Helper()
	l, err := oci.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestRun: all that an image reaches arrives, under its tags, and what is there is skipped the next time.
func TestRun(t *testing.T) {
	from, to, content := layouts(t)
	for _, root := range []image.Descriptor{content.Index, content.Image, content.Artifact, content.Referrer} {
		tags := []string{"a-" + root.Digest.Encoded()[:8], "b-" + root.Digest.Encoded()[:8]}
		if _, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), root, copy.Options{Tags: tags}); err != nil {
			t.Fatal(err)
		}
		for _, tag := range tags {
			if d, err := to.Resolve(t.Context(), tag); err != nil || d.Digest != root.Digest {
				t.Errorf("%s is %s, %v", tag, d.Digest, err)
			}
		}
		whole(t, to, root)
		hows := map[image.How]int{}
		count := func(e copy.Event) {
			if e.State == copy.Done && !image.IsManifest(e.Descriptor.MediaType) {
				hows[e.How]++
			}
		}
		events := locked(count)
		if _, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), root, copy.Options{Tags: tags[:1], Events: events}); err != nil {
			t.Fatal(err)
		}
		if len(hows) != 1 || hows[image.Skipped] == 0 {
			t.Errorf("the second time blobs were %v", hows)
		}
	}
}

func locked(fn func(copy.Event)) func(copy.Event) {
	var mu sync.Mutex
	return func(e copy.Event) {
		mu.Lock()
		defer mu.Unlock()
		fn(e)
	}
}

// whole reads all that root reaches.
func whole(t *testing.T, src image.Source, root image.Descriptor) {
	t.Helper()
	err := image.Walk(t.Context(), src, root, func(d image.Descriptor, _ *image.Manifest, err error) error {
		if err != nil {
			return err
		}
		r, err := src.Fetch(t.Context(), d)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
		return err
	})
	if err != nil {
		t.Errorf("%s: %v", root.Digest, err)
	}
}

// recorder is a Sink that remembers in which order things were stored, and fails with what it is told to.
type recorder struct {
	image.Sink
	mu     sync.Mutex
	order  []digest.Digest
	fail   digest.Digest
	err    error
	tagged []string
}

func (r *recorder) Push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	if d.Digest == r.fail {
		return "", r.err
	}
	how, err := r.Sink.Push(ctx, d, content)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order = append(r.order, d.Digest)
	return how, err
}

func (r *recorder) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	r.order = append(r.order, d.Digest)
	r.tagged = append(r.tagged, tag)
	return r.Sink.Tag(ctx, d, raw, tag)
}

// TestOrder: children go before parents, each digest once, and the tag last.
func TestOrder(t *testing.T) {
	from, to, content := layouts(t)
	r := &recorder{Sink: to}
	if _, err := copy.Run(t.Context(), r, copy.From(from, image.Repository{}), content.Index, copy.Options{Tags: []string{"x"}, Jobs: 3}); err != nil {
		t.Fatal(err)
	}
	if last := r.order[len(r.order)-1]; last != content.Index.Digest {
		t.Errorf("the last was %s", last)
	}
	sorted := slices.Sorted(slices.Values(r.order))
	if diff := cmp.Diff(slices.Compact(slices.Clone(sorted)), sorted); diff != "" {
		t.Errorf("not each once:\n%s", diff)
	}
	err := image.Walk(t.Context(), from, content.Index, func(d image.Descriptor, m *image.Manifest, err error) error {
		if m == nil {
			return err
		}
		for _, child := range m.Children() {
			if slices.Index(r.order, child.Digest) > slices.Index(r.order, d.Digest) {
				t.Errorf("%s came before its child %s", d.Digest, child.Digest)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestFailure: the first failure ends the copy, no tag moves, and nothing that lacks a child is stored.
func TestFailure(t *testing.T) {
	from, to, content := layouts(t)
	failure := errors.New("no room")
	var failed []digest.Digest
	r := &recorder{Sink: to, fail: content.Blobs[0].Digest, err: failure}
	events := locked(func(e copy.Event) {
		if e.State == copy.Failed && errors.Is(e.Err, failure) {
			failed = append(failed, e.Descriptor.Digest)
		}
	})
	_, err := copy.Run(t.Context(), r, copy.From(from, image.Repository{}), content.Index, copy.Options{Tags: []string{"x"}, Events: events})
	if !errors.Is(err, failure) {
		t.Errorf("the copy ends with %v", err)
	}
	if len(r.tagged) > 0 || slices.Contains(r.order, content.Platforms[0].Digest) {
		t.Errorf("tagged %v, stored %v", r.tagged, r.order)
	}
	if !slices.Contains(failed, r.fail) {
		t.Errorf("the events tell of the failures of %v", failed)
	}
}

// TestCancel: a cancelled copy ends, and moves no tag.
func TestCancel(t *testing.T) {
	from, to, content := layouts(t)
	ctx, cancel := context.WithCancel(t.Context())
	events := func(e copy.Event) {
		if e.State == copy.Moving {
			cancel()
		}
	}
	r := &recorder{Sink: to}
	_, err := copy.Run(ctx, r, copy.From(from, image.Repository{}), content.Index, copy.Options{Tags: []string{"x"}, Events: events})
	if !errors.Is(err, context.Canceled) || len(r.tagged) > 0 {
		t.Errorf("%v, tagged %v", err, r.tagged)
	}
}

// TestForeignLayers: a layer with URLs that the source does not have is left where it is; any other is missed.
func TestForeignLayers(t *testing.T) {
	from, to := create(t), create(t)
	config := put(t, from, v1.MediaTypeImageConfig, []byte("{}"))
	layer := image.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: digest.FromString("far away"), Size: 8}
	for _, urls := range [][]string{{"https://example.com/layer"}, nil} {
		layer.URLs = urls
		raw, _ := json.Marshal(v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []image.Descriptor{layer}})
		m := put(t, from, v1.MediaTypeImageManifest, raw)
		_, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), m, copy.Options{Tags: []string{"x"}})
		if (err == nil) != (urls != nil) || err != nil && !errors.Is(err, image.ErrNotFound) {
			t.Errorf("with the URLs %v: %v", urls, err)
		}
	}
}

// TestHostileIndexes: indexes in indexes without an end cost a bounded copy.
func TestHostileIndexes(t *testing.T) {
	from, to := create(t), create(t)
	d := put(t, from, v1.MediaTypeImageIndex, []byte(`{"manifests":[]}`))
	for range 20 {
		raw, _ := json.Marshal(v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []image.Descriptor{d}})
		d = put(t, from, v1.MediaTypeImageIndex, raw)
	}
	_, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), d, copy.Options{Tags: []string{"x"}})
	if !errors.Is(err, image.ErrInvalid) {
		t.Errorf("%v", err)
	}
}

func put(t *testing.T, to image.Sink, mediaType string, content []byte) image.Descriptor {
	t.Helper()
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	_, err := to.Push(t.Context(), d, image.Content{Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content[off:])), nil
	}})
	if err != nil {
		t.Fatal(fmt.Errorf("put: %w", err))
	}
	return d
}

// TestStream reads from anywhere, whether the source has ranges or not.
func TestStream(t *testing.T) {
	from, _, content := layouts(t)
	for name, src := range map[string]image.Source{"with ranges": from, "without": rangeless{from}} {
		for _, b := range content.Blobs {
			stream := copy.Stream(src, image.Repository{}, b.Descriptor)
			for _, off := range []int64{0, 1, b.Size / 2, b.Size} {
				r, err := stream.Open(t.Context(), off)
				if err != nil {
					t.Fatalf("%s at %d: %v", name, off, err)
				}
				got, err := io.ReadAll(r)
				r.Close()
				if err != nil || !bytes.Equal(got, b.Bytes[off:]) {
					t.Errorf("%s at %d of %d: %d bytes, %v", name, off, b.Size, len(got), err)
				}
			}
		}
	}
}

type rangeless struct{ image.Source }

func (rangeless) FetchRange(context.Context, image.Descriptor, int64, int64) (io.ReadCloser, error) {
	return nil, image.ErrUnsupported
}
