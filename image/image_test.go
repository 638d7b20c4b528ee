package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestVerify(t *testing.T) {
	content := bytes.Repeat([]byte("regfs "), 1000)
	good := Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
	for name, test := range map[string]struct {
		d    Descriptor
		sent []byte
		want error
	}{
		"as it should be": {good, content, nil},
		"size not known":  {Descriptor{Digest: good.Digest, Size: -1}, content, nil},
		"too short":       {good, content[:len(content)-1], ErrDigest},
		"nothing":         {good, nil, ErrDigest},
		"too long":        {good, append(bytes.Clone(content), 'x'), ErrDigest},
		"another":         {good, bytes.Repeat([]byte("x"), len(content)), ErrDigest},
		"sha512":          {Descriptor{Digest: digest.SHA512.FromBytes(content), Size: good.Size}, content, nil},
	} {
		for how, reader := range map[string]func(io.Reader) io.Reader{"at once": func(r io.Reader) io.Reader { return r }, "by bytes": iotest.OneByteReader, "with the end": iotest.DataErrReader} {
			r, err := Verify(io.NopCloser(reader(bytes.NewReader(test.sent))), test.d)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if !errors.Is(err, test.want) || err == nil && !bytes.Equal(got, content) || int64(len(got)) > good.Size {
				t.Errorf("%s, %s: %d bytes, %v", name, how, len(got), err)
			}
		}
	}
	if _, err := Verify(io.NopCloser(strings.NewReader("")), Descriptor{Digest: "sha256:x"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a digest that is none: %v", err)
	}
}

func TestSelect(t *testing.T) {
	entry := func(s string) Descriptor {
		p, err := ParsePlatform(s)
		if err != nil {
			t.Fatal(err)
		}
		return Descriptor{Digest: digest.FromString(s), Platform: &p}
	}
	for _, test := range []struct{ want, has, picks string }{
		{"linux/amd64", "linux/arm64 linux/amd64", "linux/amd64"},
		{"linux/amd64", "windows/amd64", ""},
		{"linux/amd64/v3", "linux/amd64 linux/amd64/v2", "linux/amd64/v2"},
		{"linux/amd64", "linux/amd64/v2", ""},
		{"linux/arm64", "linux/arm64/v8", "linux/arm64/v8"},
		{"linux/arm64/v8", "linux/arm64", "linux/arm64"},
		{"linux/arm", "linux/arm/v6 linux/arm/v7", "linux/arm/v7"},
		{"linux/arm/v6", "linux/arm/v7 linux/arm/v5", "linux/arm/v5"},
		{"linux/riscv64", "linux/amd64 linux/riscv64", "linux/riscv64"},
	} {
		var manifests []Descriptor
		for s := range strings.FieldsSeq(test.has) {
			manifests = append(manifests, entry(s))
		}
		want, _ := ParsePlatform(test.want)
		d, ok := Select(manifests, want)
		if ok != (test.picks != "") || ok && d.Digest != digest.FromString(test.picks) {
			t.Errorf("of %s for %s: %v %v", test.has, test.want, d.Platform, ok)
		}
	}
	if _, ok := Select([]Descriptor{{Digest: a}}, Platform{OS: "linux", Architecture: "amd64"}); !ok {
		t.Error("the only entry, without a platform, is not for all")
	}
	for _, bad := range []string{"", "linux", "linux/", "/amd64", "linux/arm/v7/x"} {
		if _, err := ParsePlatform(bad); err == nil {
			t.Errorf("%q is a platform", bad)
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"quay.io": true, "localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "registry:5000": true, "[::1]:5000": true,
		"xn--bcher-kva.example": true, "a.b-c.d": true, "EXAMPLE.com": true,
		"": false, ".git": false, ".Trash-1000": false, "registry": false, "a..b": false, "a.": false, "-a.b": false, "a_b.c": false,
		"a.b:": false, "a.b:x": false, "a.b:123456": false, "a.b:65536": false, "a.b:0": false, "a.b:65535": true, "a.b/c": false, "a b.c": false, "@usb": false, strings.Repeat("a.", 128) + "b": false,
	} {
		if ValidHost(name) != want {
			t.Errorf("host %q: %v", name, !want)
		}
	}
	for name, want := range map[string]bool{
		"alpine": true, "library/alpine": true, "a/b/c/d": true, "a-b__c.d_e": true, "a--b": true,
		"": false, "A": false, "a/": false, "/a": false, "a//b": false, "a..b": false, "a___b": false, ".git": false, "@tags": false, strings.Repeat("a", 256): false,
	} {
		if ValidRepository(name) != want {
			t.Errorf("repository %q: %v", name, !want)
		}
	}
	for name, want := range map[string]bool{
		"latest": true, "v1.0": true, "_x": true, "V-1": true, strings.Repeat("x", 128): true,
		"": false, ".x": false, "-x": false, "a/b": false, "a:b": false, strings.Repeat("x", 129): false,
	} {
		if ValidTag(name) != want {
			t.Errorf("tag %q: %v", name, !want)
		}
	}
}

// shelf is a Source of manifests and nothing else.
type shelf map[digest.Digest]string

func (s shelf) put(raw string) digest.Digest {
	d := digest.FromString(raw)
	s[d] = raw
	return d
}

func (s shelf) Manifest(_ context.Context, ref string) (Descriptor, []byte, error) {
	raw, ok := s[digest.Digest(ref)]
	if !ok {
		return Descriptor{}, nil, ErrNotFound
	}
	return Descriptor{Digest: digest.Digest(ref), Size: int64(len(raw))}, []byte(raw), nil
}

func (shelf) Resolve(context.Context, string) (Descriptor, error) {
	return Descriptor{}, ErrUnsupported
}
func (shelf) Stat(context.Context, digest.Digest) (Descriptor, error) {
	return Descriptor{}, ErrUnsupported
}
func (shelf) Fetch(context.Context, Descriptor) (io.ReadCloser, error) { return nil, ErrUnsupported }
func (shelf) Tags(context.Context, string) iter.Seq2[string, error]    { return nil }
func (shelf) Close() error                                             { return nil }
func (shelf) FetchRange(context.Context, Descriptor, int64, int64) (io.ReadCloser, error) {
	return nil, ErrUnsupported
}
func (shelf) Referrers(context.Context, Descriptor, string) iter.Seq2[Descriptor, error] { return nil }

func TestWalk(t *testing.T) {
	s := shelf{}
	m := s.put(`{"config":` + desc(v1.MediaTypeImageConfig, a, 1) + `,"layers":[` + desc(v1.MediaTypeImageLayer, b, 2) + `,` + desc(v1.MediaTypeImageLayer, b, 2) + `]}`)
	missing := digest.FromString("missing")
	top := s.put(`{"manifests":[` + desc(v1.MediaTypeImageManifest, m, 5) + `,` + desc(v1.MediaTypeImageManifest, missing, 5) + `,` + desc(v1.MediaTypeImageManifest, m, 5) + `]}`)
	var got []digest.Digest
	walk := func(onMissing error) error {
		got = nil
		return Walk(t.Context(), s, Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: top}, func(d Descriptor, _ *Manifest, err error) error {
			got = append(got, d.Digest)
			if errors.Is(err, ErrNotFound) {
				return onMissing
			}
			return err
		})
	}
	if err := walk(nil); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]digest.Digest{top, m, a, b, missing}, got); diff != "" {
		t.Error(diff)
	}
	if err := walk(ErrNotFound); !errors.Is(err, ErrNotFound) {
		t.Errorf("the walk went on: %v", err)
	}
}

// TestWalkIsBounded: indexes in indexes, without an end.
func TestWalkIsBounded(t *testing.T) {
	s := shelf{}
	d := s.put(`{"manifests":[]}`)
	for range 3 * maxDepth {
		d = s.put(fmt.Sprintf(`{"manifests":[%s]}`, desc(v1.MediaTypeImageIndex, d, 5)))
	}
	err := Walk(t.Context(), s, Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: d}, func(_ Descriptor, _ *Manifest, err error) error { return err })
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("%v", err)
	}
}
