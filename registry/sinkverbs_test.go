package registry

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/tests/registries"
	"github.com/regfs/regfs/tests/registries/distribution"
)

func TestDelete(t *testing.T) {
	eachKind(t, registries.Config{Delete: true}, func(t *testing.T, kind string, p *registries.Proxy) {
		sink, src := writable(t, Options{}, p.Host, "foo", small)
		blob, b := content(1000)
		mustPush(t, sink, b, of(blob), image.Uploaded)
		raw, m := manifest(b, "")
		for _, tag := range []string{"v1", "v2"} {
			if err := sink.Tag(t.Context(), m, raw, tag); err != nil {
				t.Fatal(err)
			}
		}
		never, want := sink.Delete(t.Context(), "no-such-tag-b7f1"), image.ErrNotFound
		if kind == "docker" {
			want = image.ErrUnsupported
		}
		if !errors.Is(never, want) {
			t.Errorf("no such tag: %v; want %v", never, want)
		}
		err := sink.Delete(t.Context(), "v1")
		if (err == nil) != (kind != "docker") || err != nil && !errors.Is(err, image.ErrUnsupported) {
			t.Errorf("a tag: %v", err)
		}
		if got, err := src.Resolve(t.Context(), "v2"); err != nil || got.Digest != m.Digest {
			t.Errorf("the other tag: %v, %v", got, err)
		}
		if kind == "memory" {
			return // its tags keep what is deleted by digest
		}
		if err := sink.Delete(t.Context(), m.Digest.String()); err != nil {
			t.Error(err)
		}
		if _, err := src.Resolve(t.Context(), "v2"); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("a tag of what was deleted: %v", err)
		}
		if err := sink.Delete(t.Context(), m.Digest.String()); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("again: %v; want ErrNotFound", err)
		}
	})
}

func TestDeleteDisabled(t *testing.T) {
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		sink, _ := writable(t, Options{}, p.Host, "foo", small)
		for _, ref := range []string{"v1", digest.FromString("").String()} {
			if err := sink.Delete(t.Context(), ref); !errors.Is(err, image.ErrUnsupported) {
				t.Errorf("%s: %v; want ErrUnsupported", ref, err)
			}
		}
	}, "memory")
}

func TestPushWithSubject(t *testing.T) {
	eachKind(t, registries.Config{}, func(t *testing.T, kind string, p *registries.Proxy) {
		sink, src := writable(t, Options{}, p.Host, "foo", small)
		blob, b := content(1000)
		mustPush(t, sink, b, of(blob), image.Uploaded)
		raw, m := manifest(b, "")
		if err := sink.Tag(t.Context(), m, raw, "v1"); err != nil {
			t.Fatal(err)
		}
		var want []digest.Digest
		var group sync.WaitGroup
		for i := range 4 {
			raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"test/%d","config":{"mediaType":"x/y","digest":%q,"size":%d},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d},"annotations":{"n":"%d"}}`,
				v1.MediaTypeImageManifest, i, b.Digest, b.Size, m.MediaType, m.Digest, m.Size, i)
			d := describe(v1.MediaTypeImageManifest, raw)
			want = append(want, d.Digest)
			group.Go(func() {
				if i == 0 {
					if err := sink.Tag(t.Context(), d, raw, "signature"); err != nil {
						t.Error(err)
					}
					return
				}
				for range 2 { // the second is skipped
					if _, err := sink.Push(t.Context(), d, of(raw)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		found, err := collect(src.Referrers(t.Context(), m, ""))
		if err != nil || len(found) != len(want) {
			t.Fatalf("%v, %v; want %d", found, err, len(want))
		}
		found, err = collect(src.Referrers(t.Context(), m, "test/2"))
		// go-containerregistry goes by the config's media type alone.
		if kind != "memory" && (err != nil || len(found) != 1 || found[0].Digest != want[2] || found[0].Annotations["n"] != "2") {
			t.Errorf("one type: %v, %v", found, err)
		}
	})
}

// TestDeleteOfWhatIsThere: an answer that is lost, and a registry that knows no tags when it deletes.
func TestDeleteOfWhatIsThere(t *testing.T) {
	t.Parallel()
	isDelete := registries.Method(http.MethodDelete)
	for what, test := range map[string]struct {
		ref   string
		fault registries.Fault
		want  error
		left  bool
	}{
		"lost":        {"v1", registries.Swallow, nil, false},
		"not there":   {"v2", registries.Swallow, image.ErrNotFound, true},
		"404":         {"v1", registries.Answer(404, nil, ""), image.ErrUnsupported, true},
		"404 unknown": {"v2", registries.Answer(404, nil, ""), image.ErrNotFound, true},
		"400":         {"v1", registries.Answer(400, nil, `{"errors":[{"code":"DIGEST_INVALID"}]}`), image.ErrUnsupported, true},
		"405":         {"v1", registries.Answer(405, nil, ""), image.ErrUnsupported, true},
		"403":         {"v1", registries.Answer(403, nil, ""), image.ErrDenied, true},
		"500":         {"v1", registries.Status(500, ""), nil, false},
	} {
		p := registries.NewProxy(t, distribution.Start(t, registries.Config{Delete: true}))
		sink, src := writable(t, Options{}, p.Host, "foo", small)
		blob, b := content(1000)
		mustPush(t, sink, b, of(blob), image.Uploaded)
		raw, m := manifest(b, "")
		if err := sink.Tag(t.Context(), m, raw, "v1"); err != nil {
			t.Fatal(err)
		}
		p.Fault(1, isDelete, test.fault)
		if err := sink.Delete(t.Context(), test.ref); !errors.Is(err, test.want) {
			t.Errorf("%s: %v; want %v", what, err, test.want)
		}
		if _, err := src.Resolve(t.Context(), "v1"); (err == nil) != test.left {
			t.Errorf("%s: the tag: %v", what, err)
		}
		if _, err := src.Resolve(t.Context(), m.Digest.String()); err != nil {
			t.Errorf("%s: the manifest: %v", what, err)
		}
	}
}

// TestReferrersIndexStays: what others wrote into the index stays there, and what is no index is not written over.
func TestReferrersIndexStays(t *testing.T) {
	t.Parallel()
	base := "http://" + distribution.Start(t, registries.Config{}).Host
	blob, _ := content(10)
	b := pushBlob(t, base, "foo", blob)
	raw, m := manifest(b, "")
	pushManifest(t, base, "foo", m.Digest.String(), raw, m.MediaType)
	mine := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":10},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d}}`,
		v1.MediaTypeImageManifest, b.Digest, m.MediaType, m.Digest, m.Size)
	d := describe(v1.MediaTypeImageManifest, mine)
	tag := referrersTag(m.Digest)
	sink, src := writable(t, Options{}, strings.TrimPrefix(base, "http://"), "foo", small)

	pushManifest(t, base, "foo", tag, raw, m.MediaType)
	if _, err := sink.Push(t.Context(), d, of(mine)); !errors.Is(err, image.ErrInvalid) {
		t.Errorf("the tag is a manifest: %v; want ErrInvalid", err)
	}
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"more":"kept"}],"subject":{"mediaType":%q,"digest":%q,"size":%d},"x":[1]}`,
		v1.MediaTypeImageIndex, m.MediaType, m.Digest, m.Size, m.MediaType, m.Digest, m.Size)
	pushManifest(t, base, "foo", tag, index, v1.MediaTypeImageIndex)
	for range 2 {
		if _, err := sink.Push(t.Context(), d, of(mine)); err != nil {
			t.Fatal(err)
		}
	}
	_, got, err := src.Manifest(t.Context(), tag)
	if err != nil || strings.Count(string(got), `"digest"`) != 3 || !strings.Contains(string(got), `"more":"kept"`) ||
		!strings.Contains(string(got), `"x":[1]`) || !strings.Contains(string(got), d.Digest.String()) {
		t.Errorf("the index: %s, %v", got, err)
	}
}
