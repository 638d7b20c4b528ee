package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

type fsLayer struct {
	BlobSum digest.Digest `json:"blobSum"`
}

// schema1Layers turns fsLayers, which stand top first and without sizes, into layers.
func (doc *document) schema1Layers() ([]Descriptor, error) {
	var layers []Descriptor
	for _, l := range slices.Backward(doc.FSLayers) {
		if err := l.BlobSum.Validate(); err != nil {
			return nil, fmt.Errorf("digest %q: %v: %w", l.BlobSum, err, ErrInvalid)
		}
		layers = append(layers, Descriptor{MediaType: mediaTypeSchema1Layer, Digest: l.BlobSum, Size: -1})
	}
	return layers, nil
}

// mediaTypeSchema1Layer is what layers of schema 1 are: gzipped tars, though the manifest does not say.
const mediaTypeSchema1Layer = "application/vnd.docker.image.rootfs.diff.tar.gzip"

// DigestManifest computes what a registry names a manifest by. That is the digest of its bytes, but for a signed schema 1
// manifest, whose signatures don't count: there it is the digest of the payload that was signed.
func DigestManifest(alg digest.Algorithm, mediaType string, raw []byte) (digest.Digest, error) {
	if !alg.Available() {
		return "", fmt.Errorf("digest algorithm %q: %w", alg, ErrUnsupported)
	}
	if mediaType != MediaTypeDockerSchema1Signed {
		return alg.FromBytes(raw), nil
	}
	payload, err := schema1Payload(raw)
	if err != nil {
		return "", err
	}
	return alg.FromBytes(payload), nil
}

// schema1Payload undoes the "pretty JWS" form: the payload is the document's first formatLength bytes and then formatTail,
// as the signatures' protected headers say.
func schema1Payload(raw []byte) ([]byte, error) {
	var doc struct {
		Signatures []struct {
			Protected string `json:"protected"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("signed manifest is not JSON: %v: %w", err, ErrInvalid)
	}
	if len(doc.Signatures) == 0 {
		return nil, fmt.Errorf("signed manifest without a signature: %w", ErrInvalid)
	}
	header, err := base64.RawURLEncoding.DecodeString(doc.Signatures[0].Protected)
	if err != nil {
		return nil, fmt.Errorf("signature's protected header: %v: %w", err, ErrInvalid)
	}
	var format struct {
		Length int    `json:"formatLength"`
		Tail   string `json:"formatTail"`
	}
	if err := json.Unmarshal(header, &format); err != nil {
		return nil, fmt.Errorf("signature's protected header: %v: %w", err, ErrInvalid)
	}
	tail, err := base64.RawURLEncoding.DecodeString(format.Tail)
	if err != nil || format.Length < 0 || format.Length > len(raw) {
		return nil, fmt.Errorf("signature's format does not fit the manifest: %w", ErrInvalid)
	}
	return append(slices.Clone(raw[:format.Length]), tail...), nil
}
