package stage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/tests/registries"
)

// TestReferences: content by reference reads as it is, moves no byte until it is pushed, and can be changed like any other.
func TestReferences(t *testing.T) {
	b := newBench(t)
	content := bytes.Repeat([]byte("referred to "), 1000)
	d := describe(v1.MediaTypeImageLayer, content)
	from := image.Repository{Host: b.site.Host, Name: "team/other"}
	host, _ := b.host("")
	sink, err := host.Sink(t.Context(), from.Name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Push(t.Context(), d, image.Content{Open: reader(content)}); err != nil {
		t.Fatal(err)
	}
	f, err := b.staging().Create("some", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	b.proxy.Reset()
	half := d.Size / 2
	for _, step := range []struct{ off, n, at, want int64 }{{0, half, 0, half}, {half, 1 << 40, half, d.Size - half}, {d.Size, 10, d.Size, 0}} {
		if n, err := f.Refer(from, d, step.off, step.n, step.at); err != nil || n != step.want {
			t.Errorf("refer to %d bytes at %d: %d, %v", step.n, step.off, n, err)
		}
	}
	if _, err := f.Refer(from, d, 0, 10, 5); !errors.Is(err, image.ErrUnsupported) {
		t.Errorf("a reference into the middle: %v", err)
	}
	if n := len(b.proxy.Requests()); n != 0 {
		t.Errorf("%d requests for references", n)
	}
	wantContent(t, f, content)
	if err := errors.Join(f.WriteAt(t.Context(), []byte("CHANGED"), 3), f.Truncate(t.Context(), 5000)); err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(content[:5000])
	copy(changed[3:], "CHANGED")
	wantContent(t, f, changed)
}

func reader(content []byte) func(context.Context, int64) (io.ReadCloser, error) {
	return func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content[off:])), nil
	}
}

func wantContent(t *testing.T, f *stage.File, want []byte) {
	t.Helper()
	got := make([]byte, f.Size()+10)
	n, err := f.ReadAt(t.Context(), got, 0)
	if err != io.EOF && err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("%d bytes, %v; want %d", n, err, len(want))
	}
}

// TestFrozen: what is written to a file while it is pushed is in the file afterwards, and not in what was pushed.
func TestFrozen(t *testing.T) {
	b := newBench(t)
	one := newImage("one", nil)
	b.addAll(one)
	var layer string
	for hex, content := range one.blob {
		if bytes.HasPrefix(content, []byte("layer")) {
			layer = "blobs/sha256/" + hex
		}
	}
	e, _ := b.staging().Lookup(layer)
	late := []byte("written while it was pushed")
	b.proxy.Fault(1, registries.Both(registries.Method(http.MethodPut), registries.Path("/manifests/")), func(x *registries.Exchange) (*http.Response, error) {
		if err := e.File.WriteAt(t.Context(), late, 0); err != nil {
			t.Error(err)
		}
		return x.Send()
	})
	if err := b.index(one.d); err != nil {
		t.Fatal(err)
	}
	b.wantTag(tag, one.d.Digest)
	if after, ok := b.staging().Lookup(layer); !ok || after.File != e.File {
		t.Error("what was written meanwhile is gone")
	}
	wantContent(t, e.File, late)
}

// TestUploadBesideWriting: a large blob that is written in order is on its way before it is closed; one that turns out to be something
// else is not stored.
func TestUploadBesideWriting(t *testing.T) {
	for name, right := range map[string]bool{"right": true, "wrong": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			content := make([]byte, 9<<20)
			rand.NewChaCha8([32]byte{1}).Read(content)
			d := describe(v1.MediaTypeImageLayer, content)
			f, err := b.staging().Create("blobs/sha256/"+d.Digest.Encoded(), 0o644)
			if err != nil {
				t.Fatal(err)
			}
			h, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			began := make(chan struct{})
			b.proxy.Fault(1, registries.Method(http.MethodPatch), func(x *registries.Exchange) (*http.Response, error) {
				close(began)
				return x.Send()
			})
			if !right {
				content[len(content)-1]++
			}
			for off := 0; off < len(content); off += 100_000 {
				if err := h.WriteAt(t.Context(), content[off:min(off+100_000, len(content))], int64(off)); err != nil {
					t.Fatal(err)
				}
			}
			<-began // before the flush
			err = h.Flush(t.Context(), b)
			if right != (err == nil) || !right && !errors.Is(err, image.ErrRefused) {
				t.Errorf("the close says %v", err)
			}
			if !right {
				b.wantState(stage.Broken)
				b.store.Close()
			} else if err := b.finishWith(d); err != nil {
				t.Fatal(err)
			}
			if _, err := b.src.Stat(t.Context(), d.Digest); (err == nil) != right {
				t.Errorf("the registry has it: %v", err)
			}
		})
	}
}

// finishWith writes the rest of an image with that layer.
func (b *bench) finishWith(layer image.Descriptor) error {
	config := b.add(v1.MediaTypeImageConfig, []byte("{}"))
	m := b.add(v1.MediaTypeImageManifest, marshal(v1.Manifest{
		MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []image.Descriptor{layer},
	}))
	if err := b.index(m); err != nil {
		return err
	}
	b.wantTag(tag, m.Digest)
	return nil
}
