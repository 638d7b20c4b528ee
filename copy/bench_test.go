package copy_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/oci"
)

// mixed is a tar of words and of what does not compress, in files of all sizes.
func mixed(size int) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	random := rand.NewChaCha8([32]byte{1})
	numbers := rand.New(random)
	for i := 0; b.Len() < size; i++ {
		content := make([]byte, 1<<(8+numbers.IntN(10)))
		random.Read(content)
		if i%4 > 0 {
			var words strings.Builder
			for words.Len() < len(content) {
				fmt.Fprintf(&words, "word%d ", numbers.IntN(5000))
			}
			content = []byte(words.String())
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint(i), Mode: 0o644, Size: int64(len(content))}); err != nil {
			panic(err)
		}
		w.Write(content)
	}
	w.Close()
	return b.Bytes()
}

// BenchmarkConvert counts bytes of the tar.
func BenchmarkConvert(b *testing.B) {
	plain := mixed(64 << 20)
	from, err := oci.Create(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close()
	push := func(mediaType string, raw []byte) image.Descriptor {
		d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		if _, err := from.Push(b.Context(), d, mem(raw)); err != nil {
			b.Fatal(err)
		}
		return d
	}
	config, err := json.Marshal(v1.Image{RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain)}}})
	if err != nil {
		b.Fatal(err)
	}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: push(v1.MediaTypeImageConfig, config)}
	m.Layers = []image.Descriptor{push(v1.MediaTypeImageLayerGzip, gzipped(plain))}
	raw, err := json.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	root := push(v1.MediaTypeImageManifest, raw)
	for _, to := range []copy.Algorithm{copy.Zstd, copy.ZstdChunked, copy.Uncompressed, copy.Gzip} {
		b.Run(string(to), func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				l, err := oci.Create(b.TempDir())
				if err != nil {
					b.Fatal(err)
				}
				o := copy.Options{Compression: copy.Compression{To: to, Force: true}, TempDir: b.TempDir()}
				if _, err := copy.Run(b.Context(), l, copy.From(from, image.Repository{}), root, o); err != nil {
					b.Fatal(err)
				}
				l.Close()
			}
		})
	}
}
