package image

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	a = digest.FromString("a")
	b = digest.FromString("b")
)

func desc(mediaType string, d digest.Digest, size int) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, d, size)
}

func TestParseManifest(t *testing.T) {
	config, layer := desc(v1.MediaTypeImageConfig, a, 1), desc(v1.MediaTypeImageLayerGzip, b, 2)
	for name, test := range map[string]struct {
		served, raw string
		want        string // the media type it turns out to be
		children    []digest.Digest
	}{
		"OCI, by its own word":   {"", `{"mediaType":"` + v1.MediaTypeImageManifest + `","config":` + config + `,"layers":[` + layer + `]}`, v1.MediaTypeImageManifest, []digest.Digest{a, b}},
		"OCI, by the server's":   {v1.MediaTypeImageManifest + "; charset=utf-8", `{"config":` + config + `}`, v1.MediaTypeImageManifest, []digest.Digest{a}},
		"OCI, by its shape":      {"text/plain", `{"config":` + config + `,"layers":[` + layer + `]}`, v1.MediaTypeImageManifest, []digest.Digest{a, b}},
		"index, by its shape":    {"application/json", `{"manifests":[` + layer + `]}`, v1.MediaTypeImageIndex, []digest.Digest{b}},
		"own word goes first":    {v1.MediaTypeImageManifest, `{"mediaType":"` + v1.MediaTypeImageIndex + `","manifests":[]}`, v1.MediaTypeImageIndex, nil},
		"Docker's list":          {"", `{"mediaType":"` + MediaTypeDockerList + `","manifests":[` + layer + `]}`, MediaTypeDockerList, []digest.Digest{b}},
		"schema 1, top first":    {MediaTypeDockerSchema1Signed, `{"schemaVersion":1,"fsLayers":[{"blobSum":"` + a.String() + `"},{"blobSum":"` + b.String() + `"}]}`, MediaTypeDockerSchema1Signed, []digest.Digest{b, a}},
		"schema 1, by its shape": {"application/json", `{"schemaVersion":1,"fsLayers":[{"blobSum":"` + a.String() + `"}]}`, MediaTypeDockerSchema1, []digest.Digest{a}},
	} {
		m, err := ParseManifest(test.served, []byte(test.raw))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var children []digest.Digest
		for _, d := range m.Children() {
			children = append(children, d.Digest)
		}
		if m.MediaType != test.want || !cmp.Equal(children, test.children) {
			t.Errorf("%s: %s with %v", name, m.MediaType, children)
		}
	}
}

func TestParseManifestRefuses(t *testing.T) {
	config := desc(v1.MediaTypeImageConfig, a, 1)
	for name, raw := range map[string]string{
		"nothing":          "",
		"text":             "hello",
		"an array":         "[]",
		"a number":         "1",
		"too long":         `{"config":` + config + `,"x":"` + strings.Repeat("x", MaxManifest) + `"}`,
		"no config":        `{"layers":[]}`,
		"both kinds":       `{"mediaType":"` + v1.MediaTypeImageIndex + `","config":` + config + `,"manifests":[]}`,
		"both, by shape":   `{"mediaType":"` + v1.MediaTypeImageManifest + `","config":` + config + `,"manifests":[]}`,
		"negative size":    `{"config":` + config + `,"layers":[` + desc("x", b, -1) + `]}`,
		"no digest":        `{"config":` + config + `,"layers":[{"size":1}]}`,
		"a path as digest": `{"config":` + config + `,"layers":[` + desc("x", "sha256:../../../../etc/passwd", 1) + `]}`,
		"unknown hash":     `{"config":` + config + `,"layers":[` + desc("x", "md5:d41d8cd98f00b204e9800998ecf8427e", 1) + `]}`,
		"bad subject":      `{"config":` + config + `,"subject":{"digest":"x"}}`,
		"another type":     `{"mediaType":"text/plain","config":` + config + `}`,
	} {
		if m, err := ParseManifest("", []byte(raw)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

// FuzzParseManifest: whatever comes, what is let through can be used as it is.
func FuzzParseManifest(f *testing.F) {
	f.Add("", []byte(`{"config":`+desc(v1.MediaTypeImageConfig, a, 1)+`,"layers":[]}`))
	f.Add(MediaTypeDockerSchema1Signed, []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"`+a.String()+`"}],"signatures":[{"protected":"e30"}]}`))
	f.Add("", []byte(`{"manifests":[`+desc(v1.MediaTypeImageManifest, b, 3)+`]}`))
	f.Fuzz(func(t *testing.T, mediaType string, raw []byte) {
		m, err := ParseManifest(mediaType, raw)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
			return
		}
		for _, d := range m.Children() {
			if d.Digest.Validate() != nil || d.Size < 0 && !IsSchema1(m.MediaType) {
				t.Errorf("let %+v through", d)
			}
		}
		if _, err := DigestManifest(digest.SHA256, m.MediaType, raw); err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%v is not ErrInvalid", err)
		}
	})
}

func TestDigestOfSignedManifest(t *testing.T) {
	payload := `{"schemaVersion":1}`
	// {"formatLength":18,"formatTail":"fQ"}: all but the last brace, and that.
	signed := `{"schemaVersion":1,"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOjE4LCJmb3JtYXRUYWlsIjoiZlEifQ"}]}`
	got, err := DigestManifest(digest.SHA256, MediaTypeDockerSchema1Signed, []byte(signed))
	if err != nil || got != digest.FromString(payload) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "{}", `{"signatures":[{"protected":"!"}]}`, `{"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOjk5OTk5fQ"}]}`} {
		if _, err := DigestManifest(digest.SHA256, MediaTypeDockerSchema1Signed, []byte(bad)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
