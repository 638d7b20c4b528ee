package conformance_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/sif"
	"github.com/regfs/regfs/tests/conformance"
)

// singularity makes a SIF of a squashfs, without anything that is not looked at.
func singularity(squashfs []byte) []byte {
	const header, descriptor = 128, 585
	b := make([]byte, header+descriptor)
	copy(b[32:], "SIF_MAGIC\x0001\x0002\x00")
	binary.LittleEndian.PutUint64(b[88:], 1) // one object,
	binary.LittleEndian.PutUint64(b[96:], header)
	d := b[header:]
	binary.LittleEndian.PutUint32(d, 0x4004) // a partition
	d[4] = 1                                 // that is used
	binary.LittleEndian.PutUint64(d[17:], uint64(len(b)))
	binary.LittleEndian.PutUint64(d[25:], uint64(len(squashfs)))
	binary.LittleEndian.PutUint32(d[201:], 1) // as a squashfs,
	binary.LittleEndian.PutUint32(d[205:], 2) // and the primary one
	return append(b, squashfs...)
}

// squash makes a squashfs of one large file.
func squash(t *testing.T) []byte {
	t.Helper()
	if _, err := exec.LookPath("tar2sqfs"); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	content := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{}).Read(content)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Mode: 0o644, Size: int64(len(content))})
	w.Write(content)
	w.Close()
	path := filepath.Join(t.TempDir(), "squashfs")
	cmd := exec.Command("tar2sqfs", "--quiet", path)
	cmd.Stdin = &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar2sqfs: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestSIF(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image.sif")
	if err := os.WriteFile(path, singularity(squash(t)), 0o644); err != nil {
		t.Fatal(err)
	}
	open := func(t *testing.T) image.Source {
		src, err := sif.Open(path, sif.Options{TempDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	src := open(t)
	defer src.Close()
	conformance.SourceOf(t, made(t, src), func(t *testing.T, _ conformance.Content) image.Source { return open(t) })
}
