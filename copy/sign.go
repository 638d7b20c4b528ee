package copy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// signSchema1 signs a schema 1 manifest as registries want it: the payload with its signatures as one more member ("pretty JWS"). The
// digest is the payload's, and so the same whatever the key was.
func signSchema1(payload []byte) (made, error) {
	length := len(payload) - 1 // what goes before the last brace
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return made{}, err
	}
	protected := base64url(encode(map[string]any{
		"formatLength": length, "formatTail": base64url(payload[length:]),
	}))
	sum := sha256.Sum256([]byte(protected + "." + base64url(payload)))
	x, y, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return made{}, err
	}
	signature := base64url(append(x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))...))
	header, err := jwkHeader(&key.PublicKey)
	if err != nil {
		return made{}, err
	}
	signatures := encode([]any{struct {
		Header    any    `json:"header"`
		Signature string `json:"signature"`
		Protected string `json:"protected"`
	}{header, signature, protected}})
	raw := slices.Concat(payload[:length], []byte(`,"signatures":`), signatures, payload[length:])
	d := image.Descriptor{MediaType: image.MediaTypeDockerSchema1Signed, Digest: digest.FromBytes(payload), Size: int64(len(raw))}
	return made{Descriptor: d, raw: raw}, nil
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwkHeader names the key, whose ID is a fingerprint in the form that libtrust gave it.
func jwkHeader(key *ecdsa.PublicKey) (any, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	point, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	type jwk struct {
		Crv string `json:"crv"`
		Kid string `json:"kid"`
		Kty string `json:"kty"`
		X   string `json:"x"`
		Y   string `json:"y"`
	}
	return struct {
		JWK jwk    `json:"jwk"`
		Alg string `json:"alg"`
	}{jwk{"P-256", fingerprint(der), "EC", base64url(point[1:33]), base64url(point[33:])}, "ES256"}, nil
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	text := base32.StdEncoding.EncodeToString(sum[:30])
	var groups []string
	for len(text) > 0 {
		groups, text = append(groups, text[:4]), text[4:]
	}
	return strings.Join(groups, ":")
}
