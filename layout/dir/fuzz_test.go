package dir

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// FuzzVersion: what is let through is what somebody writes, and known.
func FuzzVersion(f *testing.F) {
	for _, text := range []string{
		version1_1.String(), version1_2.String(), "", "1.1", "Directory Transport Version: 01.1\n", "Directory Transport Version: 1.1",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parseVersion(text)
		if err == nil && (v.String() != text || v.major != 1 || v.minor > 2) {
			t.Errorf("let %q through", text)
		}
		if err != nil && !errors.Is(err, image.ErrInvalid) && !errors.Is(err, image.ErrUnsupported) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// FuzzNames: a file that is removed for the digest in its name is one that was named by a digest.
func FuzzNames(f *testing.F) {
	for _, dgst := range []digest.Digest{digest.FromString(""), digest.SHA512.FromString("")} {
		f.Add(blobFile(dgst))
		f.Add(instanceFile(dgst))
		f.Add(signatureFile(blobFile(dgst)+".", 12))
	}
	for _, name := range []string{
		"version", manifestFile, "signature-1", "sha512-", strings.Repeat("a", 63), "../" + strings.Repeat("a", 64),
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		dgst, ok := digestOf(name)
		if ok && (dgst.Validate() != nil || !strings.HasPrefix(name, blobFile(dgst)) || strings.ContainsAny(name, "/\\\x00")) {
			t.Errorf("%q has %s in it", name, dgst)
		}
	})
}

// FuzzManifest: whatever manifest.json is, what is let through is what its descriptor says.
func FuzzManifest(f *testing.F) {
	p := paint(digest.SHA256, "amd64", "a")
	f.Add(p.raw, "")
	f.Add(several(p).raw, image.MediaTypeDockerManifest)
	for _, raw := range []string{"", "{", "null", `{"schemaVersion":1,"signatures":[{}]}`, `{"manifests":[],"config":{}}`} {
		f.Add([]byte(raw), image.MediaTypeDockerSchema1Signed)
	}
	f.Fuzz(func(t *testing.T, raw []byte, mediaType string) {
		d, err := describe(mediaType, raw, digest.SHA256)
		if err != nil {
			if !errors.Is(err, image.ErrInvalid) && !errors.Is(err, image.ErrUnsupported) {
				t.Errorf("%q: %v", raw, err)
			}
			return
		}
		if d.Size != int64(len(raw)) || d.Digest.Validate() != nil || !image.IsManifest(d.MediaType) {
			t.Errorf("%q is %+v", raw, d)
		}
		if err := matches(d, raw); err != nil {
			t.Errorf("%q is not what it was found to be: %v", raw, err)
		}
		if err := matches(d, append(raw, ' ')); !errors.Is(err, image.ErrDigest) {
			t.Errorf("%q with a space is taken for the same: %v", raw, err)
		}
	})
}
