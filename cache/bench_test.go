package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"testing"

	"github.com/regfs/regfs/image"
)

// pattern is a Source whose transfers cost next to nothing.
type pattern struct {
	*place
	content []byte
}

func (p pattern) FetchRange(_ context.Context, _ image.Descriptor, off, _ int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(p.content[off:])), nil
}

const benchSize = 256 << 20

// BenchmarkFill is a transfer from memory into the store; compare BenchmarkSHA256, which bounds it.
func BenchmarkFill(b *testing.B) {
	p := newPlace()
	content := random(1, benchSize)
	d := p.add(content)
	b.SetBytes(benchSize)
	for b.Loop() {
		c, err := New(Options{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		blob, err := c.Open(b.Context(), pattern{p, content}, d)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := blob.ReadAt(b.Context(), make([]byte, 1), benchSize-1); err != nil {
			b.Fatal(err)
		}
		blob.Close()
		c.Close()
		b.StopTimer()
		os.RemoveAll(c.dir)
		b.StartTimer()
	}
}

func BenchmarkSHA256(b *testing.B) {
	content := random(1, benchSize)
	b.SetBytes(benchSize)
	for b.Loop() {
		sha256.Sum256(content)
	}
}

// BenchmarkOpenStored is what each open of a blob that is on disk costs.
func BenchmarkOpenStored(b *testing.B) {
	p := newPlace()
	d := p.add(random(1, 1000))
	c, err := New(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		blob, err := c.Open(b.Context(), p, d)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := readAll(b.Context(), blob); err != nil {
			b.Fatal(err)
		}
		blob.Close()
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		c, err := New(Options{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
