package sif

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// need skips the test where a program is missing, but on CI, where none may be.
func need(t *testing.T, program string) {
	t.Helper()
	_, err := exec.LookPath(program)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
}

// part is an object to be written.
type part struct {
	kind, fs, number int32
	content          []byte
}

// build makes a SIF of objects, as singularity lays it out.
func build(parts ...part) []byte {
	const room, offset = 48, 4096
	b := make([]byte, offset+room*descriptorSize)
	copy(b, "#!/usr/bin/env run-singularity\n")
	copy(b[32:], "SIF_MAGIC\x0001\x0002\x00")
	copy(b[48:], "\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef")
	for i, n := range []int64{1_000_000_000, 1_200_000_000, room - int64(len(parts)), room, offset, room * descriptorSize, int64(len(b)), 0} {
		binary.LittleEndian.PutUint64(b[64+8*i:], uint64(n))
	}
	for i, p := range parts {
		d := b[offset+i*descriptorSize:]
		binary.LittleEndian.PutUint32(d, uint32(p.kind))
		d[4] = 1
		binary.LittleEndian.PutUint32(d[5:], uint32(i+1))
		binary.LittleEndian.PutUint64(d[17:], uint64(len(b)))
		binary.LittleEndian.PutUint64(d[25:], uint64(len(p.content)))
		binary.LittleEndian.PutUint64(d[33:], uint64(len(p.content)))
		binary.LittleEndian.PutUint32(d[201:], uint32(p.fs))
		binary.LittleEndian.PutUint32(d[205:], uint32(p.number))
		copy(d[209:], "02")
		b = append(b, p.content...)
	}
	return b
}

func definition(text string) part { return part{kind: typeDefinition, content: []byte(text)} }

func partition(content []byte) part { return part{typePartition, squashfs, primary, content} }

// squash makes a squashfs of a tar.
func squash(t *testing.T, raw []byte) []byte {
	t.Helper()
	need(t, "tar2sqfs")
	name := filepath.Join(t.TempDir(), "squashfs")
	cmd := exec.Command("tar2sqfs", "--quiet", name)
	cmd.Stdin = bytes.NewReader(raw)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar2sqfs: %v\n%s", err, out)
	}
	content, err := os.ReadFile(name)
	must(t, err)
	return content
}

// archive makes a tar of files by name; those that end in "/" are folders.
func archive(names ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640, Size: int64(len(name)), ModTime: time.Unix(1, 0), Uid: 7, Gid: 8}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Size, h.Mode = tar.TypeDir, 0, 0o750
		}
		w.WriteHeader(h)
		io.WriteString(w, name[:h.Size])
	}
	w.Close()
	return b.Bytes()
}

func write(t *testing.T, raw []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.sif")
	must(t, os.WriteFile(path, raw, 0o644))
	return path
}

func open(t *testing.T, path string, o Options) image.Source {
	t.Helper()
	src, err := Open(path, o)
	must(t, err)
	t.Cleanup(func() { src.Close() })
	return src
}

// all reads an image.
func all(t *testing.T, src image.Source) (raw string, config v1.Image, layer []byte) {
	t.Helper()
	_, b, err := src.Manifest(t.Context(), "")
	must(t, err)
	m, err := image.ParseManifest("", b)
	must(t, err)
	must(t, json.Unmarshal(fetch(t, src, *m.Config), &config))
	return string(b), config, fetch(t, src, m.Layers[0])
}

func fetch(t *testing.T, src image.Source, d image.Descriptor) []byte {
	t.Helper()
	r, err := src.Fetch(t.Context(), d)
	must(t, err)
	defer r.Close()
	raw, err := io.ReadAll(r)
	must(t, err)
	return raw
}

// list are the entries of a tar, one line each.
func list(t *testing.T, raw []byte) []string {
	t.Helper()
	var lines []string
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return lines
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		lines = append(lines, fmt.Sprintf("%s %o %d:%d %d %q", h.Name, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), content))
	}
}
