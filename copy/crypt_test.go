package copy_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/helpers"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
)

// tool runs a program.
func tool(t *testing.T, name string, arg ...string) {
	t.Helper()
	need(t, name)
	if out, err := exec.CommandContext(t.Context(), name, arg...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arg, " "), err, out)
	}
}

// keys are how skopeo and ocicrypt name keys: one to encrypt for, one to decrypt with.
type keys struct {
	recipient string
	secrets   []string
}

func jweKeys(t *testing.T) keys {
	secret, public := filepath.Join(t.TempDir(), "secret.pem"), filepath.Join(t.TempDir(), "public.pem")
	tool(t, "openssl", "genrsa", "-out", secret, "2048")
	tool(t, "openssl", "rsa", "-in", secret, "-pubout", "-out", public)
	return keys{"jwe:" + public, []string{secret}}
}

// ecKeys are made in no time.
func ecKeys(t *testing.T) keys {
	secret, public := filepath.Join(t.TempDir(), "secret.pem"), filepath.Join(t.TempDir(), "public.pem")
	tool(t, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", secret)
	tool(t, "openssl", "ec", "-in", secret, "-pubout", "-out", public)
	return keys{"jwe:" + public, []string{secret}}
}

func pkcs7Keys(t *testing.T) keys {
	secret, cert := filepath.Join(t.TempDir(), "secret.pem"), filepath.Join(t.TempDir(), "cert.pem")
	tool(t, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout", secret, "-out", cert)
	return keys{"pkcs7:" + cert, []string{secret, cert}}
}

func pgpKeys(t *testing.T) keys {
	need(t, "gpg")
	home, err := os.MkdirTemp("", "gpg") // a socket's path is short
	must(t, err)
	t.Setenv("GNUPGHOME", home)
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	secret := filepath.Join(t.TempDir(), "secret.gpg")
	tool(t, "gpg", "--batch", "--passphrase", "", "--quick-gen-key", "Test <test@example.com>", "rsa2048", "cert,sign,encr", "never")
	tool(t, "gpg", "--batch", "--output", secret, "--export-secret-keys", "test@example.com")
	return keys{"pgp:test@example.com", []string{secret}}
}

// encryption reads the key to encrypt for.
func (k keys) encryption(t *testing.T) *config.EncryptConfig {
	t.Helper()
	c, err := helpers.CreateCryptoConfig([]string{k.recipient}, nil)
	must(t, err)
	return c.EncryptConfig
}

// decryption reads the key to decrypt with.
func (k keys) decryption(t *testing.T) *config.DecryptConfig {
	t.Helper()
	c, err := helpers.CreateDecryptCryptoConfig(k.secrets, nil)
	must(t, err)
	return c.DecryptConfig
}

// TestEncryption: what is encrypted here is decrypted by skopeo, and the other way round, with each kind of key.
func TestEncryption(t *testing.T) {
	from := newPlace(t)
	root := anImage(t, from, "amd64", "single")
	_, was := manifest(t, from, root)
	for name, k := range map[string]keys{"jwe": jweKeys(t), "pkcs7": pkcs7Keys(t), "pgp": pgpKeys(t)} {
		t.Run(name, func(t *testing.T) {
			ours, theirs, dir, back := newPlace(t), newPlace(t), t.TempDir(), newPlace(t)
			d := run(t, from, ours, root, copy.Options{Encrypt: k.encryption(t), EncryptLayers: []int{0, -1}})
			_, m := manifest(t, ours, d)
			types := []string{m.Layers[0].MediaType, m.Layers[1].MediaType, m.Layers[2].MediaType}
			if diff := cmp.Diff([]string{v1.MediaTypeImageLayerGzip + "+encrypted", v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerGzip + "+encrypted"}, types); diff != "" {
				t.Error(diff)
			}
			if bytes.Equal(content(t, ours, m.Layers[0]), content(t, from, was.Layers[0])) || m.Layers[0].Annotations["org.example"] == "" {
				t.Errorf("the layer is %+v", m.Layers[0])
			}
			skopeo(t, "copy", "--decryption-key", strings.Join(k.secrets, ","), "oci:"+ours.dir+":x", "dir:"+dir)
			isDecrypted(t, was, dirOf(t, dir))

			skopeo(t, "copy", "--encryption-key", k.recipient, "oci:"+from.dir+":single", "oci:"+theirs.dir+":x")
			d, err := theirs.Resolve(t.Context(), "x")
			must(t, err)
			raw, _ := manifest(t, back, run(t, theirs, back, d, copy.Options{Decrypt: k.decryption(t)}))
			isDecrypted(t, was, raw)
		})
	}
}

// isDecrypted compares layers with what they were.
func isDecrypted(t *testing.T, was *image.Manifest, raw []byte) {
	t.Helper()
	m, err := image.ParseManifest("", raw)
	must(t, err)
	for i, l := range m.Layers {
		if l.Digest != was.Layers[i].Digest || l.MediaType != was.Layers[i].MediaType || strings.Contains(string(raw), "image.enc") {
			t.Errorf("layer %d is %+v, and was %+v", i, l, was.Layers[i])
		}
	}
}

// TestWrongKey: what can't be decrypted is denied; without a key it is copied as it is; and with a new one it is encrypted anew.
func TestWrongKey(t *testing.T) {
	from, sealed, to := newPlace(t), newPlace(t), newPlace(t)
	right, wrong := ecKeys(t), ecKeys(t)
	root := anImage(t, from, "amd64", "")
	d := run(t, from, sealed, root, copy.Options{Encrypt: right.encryption(t), Compression: copy.Compression{To: copy.Zstd}})
	_, m := manifest(t, sealed, d)
	if m.Layers[0].MediaType != v1.MediaTypeImageLayerZstd+"+encrypted" {
		t.Errorf("it is %s", m.Layers[0].MediaType)
	}
	_, err := copy.Run(t.Context(), to, copy.From(sealed, image.Repository{}), d, copy.Options{Decrypt: wrong.decryption(t)})
	if !errors.Is(err, image.ErrDenied) || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	if got := run(t, sealed, to, d, copy.Options{Compression: copy.Compression{To: copy.Gzip}, Encrypt: wrong.encryption(t)}); got.Digest != d.Digest {
		t.Error("what was encrypted was changed without a key")
	}
	_, err = copy.Run(t.Context(), to, copy.From(sealed, image.Repository{}), d, copy.Options{Format: copy.Docker})
	if !errors.Is(err, image.ErrUnsupported) {
		t.Error(err)
	}
	again := run(t, sealed, to, d, copy.Options{Decrypt: right.decryption(t), Encrypt: wrong.encryption(t)})
	plain := run(t, to, newPlace(t), again, copy.Options{Decrypt: wrong.decryption(t), Compression: copy.Compression{To: copy.Gzip}})
	if plain.Digest == d.Digest {
		t.Error("it was not decrypted")
	}
}

// TestNotEncrypted: nothing goes out as it is that was to be encrypted.
func TestNotEncrypted(t *testing.T) {
	from, to, c := layouts(t)
	k := ecKeys(t).encryption(t)
	for name, test := range map[string]struct {
		root   image.Descriptor
		layers []int
		want   error
	}{
		"an artifact": {c.Artifact, nil, image.ErrUnsupported}, "no such layer": {c.Image, []int{0, 1}, image.ErrInvalid}, "nor from the top": {c.Image, []int{-2}, image.ErrInvalid},
	} {
		o := copy.Options{Encrypt: k, EncryptLayers: test.layers}
		if _, err := copy.Run(t.Context(), to, copy.From(from, image.Repository{}), test.root, o); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForgedLayer: a byte that was changed in an encrypted layer is found, though whoever changed it changed the manifest, too.
func TestForgedLayer(t *testing.T) {
	from, sealed, to := newPlace(t), newPlace(t), newPlace(t)
	k := ecKeys(t)
	d := run(t, from, sealed, anImage(t, from, "amd64", ""), copy.Options{Encrypt: k.encryption(t)})
	raw, m := manifest(t, sealed, d)
	layer := content(t, sealed, m.Layers[1])
	layer[len(layer)/2] ^= 1
	forged := put(t, sealed, m.Layers[1].MediaType, layer)
	raw = bytes.Replace(raw, []byte(m.Layers[1].Digest), []byte(forged.Digest), 1)
	d = put(t, sealed, d.MediaType, raw)
	_, err := copy.Run(t.Context(), to, copy.From(sealed, image.Repository{}), d, copy.Options{Decrypt: k.decryption(t)})
	if !errors.Is(err, image.ErrInvalid) && !errors.Is(err, image.ErrDigest) {
		t.Error(err)
	}
}
