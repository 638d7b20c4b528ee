package copy

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/regfs/regfs/image"
)

// TestTableOfContents: a layer whose table of contents would fill the memory is refused.
func TestTableOfContents(t *testing.T) {
	const most = 1 << 20
	for name, test := range map[string]struct {
		files, length, size int
		want                error
	}{
		"few":        {100, 10, 0, nil},
		"many":       {3000, 10, 0, image.ErrTooLarge},
		"long names": {100, 10_000, 0, image.ErrTooLarge},
		"chunks":     {1, 20_000, 4 << 20, image.ErrTooLarge},
	} {
		var b bytes.Buffer
		level := 1
		w, err := newChunkedWriter(&b, &level, map[string]string{}, most)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(tarOfFiles(test.files, test.length, test.size))
		if err := errors.Join(err, w.Close()); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func tarOfFiles(n, length, size int) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range n {
		name := fmt.Sprintf("%d-%s", i, strings.Repeat("x", length))
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
			panic(err)
		}
		if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{}), int64(size)); err != nil {
			panic(err)
		}
	}
	w.Close()
	return b.Bytes()
}
