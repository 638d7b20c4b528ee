package conformance_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/dockerarchive"
	"github.com/regfs/regfs/layout/oci"
	"github.com/regfs/regfs/tests/conformance"
)

// openArchive opens an OCI archive for writing, too.
func openArchive(t *testing.T, file string) *oci.Layout {
	t.Helper()
	l, err := oci.CreateArchive(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestOCIArchive reads what was pushed.
func TestOCIArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "archive.tar")
	l := openArchive(t, file)
	conformance.Fill(t, l, conformance.NewContent())
	conformance.Source(t, func(t *testing.T, _ conformance.Content) image.Source {
		l, err := oci.OpenArchive(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		return l
	})
}

// TestOCIArchiveSink reads what is not in the archive yet, too, as only who writes it can.
func TestOCIArchiveSink(t *testing.T) {
	conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
		l := openArchive(t, filepath.Join(t.TempDir(), "archive.tar"))
		return l, l
	})
}

// TestSharedBlobs is a layout whose blobs are elsewhere.
func TestSharedBlobs(t *testing.T) {
	conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
		l, err := oci.Create(t.TempDir(), oci.SharedBlobs(t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		return l, l
	})
}

// dockerArchive opens one repository of a docker archive for writing, too.
func dockerArchive(t *testing.T, file string) interface {
	image.Sink
	image.Source
} {
	t.Helper()
	a, err := dockerarchive.Create(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	host, err := a.Host("docker.io")
	if err != nil {
		t.Fatal(err)
	}
	sink, err := host.Sink(t.Context(), "library/conformance")
	if err != nil {
		t.Fatal(err)
	}
	return sink.(interface {
		image.Sink
		image.Source
	})
}

func TestDockerArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "archive.tar")
	conformance.Fill(t, dockerArchive(t, file), conformance.NewContent())
	conformance.Source(t, func(t *testing.T, _ conformance.Content) image.Source { return dockerArchive(t, file) })
}

func TestDockerArchiveSink(t *testing.T) {
	conformance.Sink(t, func(t *testing.T) (image.Sink, image.Source) {
		both := dockerArchive(t, filepath.Join(t.TempDir(), "archive.tar"))
		return both, both
	})
}

// dockerSource opens one repository of a docker archive for reading.
func dockerSource(t *testing.T, file, host, repository string) image.Source {
	t.Helper()
	a, err := dockerarchive.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	h, err := a.Host(host)
	if err != nil {
		t.Fatal(err)
	}
	src, err := h.Source(t.Context(), repository)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// TestOldDockerArchive reads what skopeo writes, which is what docker did before version 25: as it is, with its layers compressed, all
// of it compressed, and by name or as the only image there is. Its manifest is the one that skopeo makes.
func TestOldDockerArchive(t *testing.T) {
	needProgram(t, "skopeo")
	images := conformance.Images("v1", true)
	dir := t.TempDir()
	in, plain := filepath.Join(dir, "in"), filepath.Join(dir, "plain.tar")
	conformance.Fill(t, ociLayout(t, in), images)
	runProgram(t, "skopeo", "--insecure-policy", "--override-os=linux", "--override-arch=amd64", "copy", "oci:"+in+":multi", "docker-archive:"+plain+":example.com/a/b:v1")
	content := unpacked(t, images, []byte(runProgram(t, "skopeo", "inspect", "--raw", "docker-archive:"+plain)))
	packedLayers, packed := filepath.Join(dir, "layers.tar"), filepath.Join(dir, "plain.tar.gz")
	compressLayers(t, plain, packedLayers)
	compress(t, plain, packed)
	for name, file := range map[string]string{"plain": plain, "compressed layers": packedLayers} {
		if raw := runProgram(t, "skopeo", "inspect", "--raw", "docker-archive:"+file); raw != string(content.Manifests[0].Bytes) {
			t.Errorf("%s: skopeo makes another manifest: %s", name, raw)
		}
		t.Run(name, func(t *testing.T) {
			conformance.SourceOf(t, content, func(t *testing.T, _ conformance.Content) image.Source {
				return dockerSource(t, file, "example.com", "a/b")
			})
		})
	}
	sameContent(t, dockerSource(t, packed, "example.com", "a/b"), "v1", content)
	sameContent(t, dockerSource(t, plain, "", ""), "", content)
}

// sameContent reads all that an image has.
func sameContent(t *testing.T, src image.Source, ref string, content conformance.Content) {
	t.Helper()
	if d, err := src.Resolve(t.Context(), ref); err != nil || d.Digest != content.Image.Digest {
		t.Errorf("%q is %s, %v", ref, d.Digest, err)
	}
	for _, e := range append(content.Manifests, content.Blobs...) {
		r, err := src.Fetch(t.Context(), e.Descriptor)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, e.Bytes) {
			t.Errorf("%s: %d bytes of %d, %v", e.Digest, len(got), e.Size, err)
		}
		r.Close()
	}
}

// unpacked is the content of a place that has the first of the images of several platforms, its layers uncompressed, and a manifest
// made of them.
func unpacked(t *testing.T, of conformance.Content, manifest []byte) conformance.Content {
	t.Helper()
	c := conformance.Content{Missing: of.Missing, MissingManifest: of.MissingManifest}
	for _, b := range of.Blobs[:3] {
		if b.MediaType == v1.MediaTypeImageLayerGzip {
			z, err := gzip.NewReader(bytes.NewReader(b.Bytes))
			if err != nil {
				t.Fatal(err)
			}
			if b.Bytes, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		b.Descriptor = image.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(b.Bytes), Size: int64(len(b.Bytes))}
		c.Blobs = append(c.Blobs, b)
	}
	c.Image = image.Descriptor{MediaType: image.MediaTypeDockerManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}
	c.Manifests = []conformance.Entry{{Descriptor: c.Image, Bytes: manifest}}
	c.Tags = map[string]image.Descriptor{"v1": c.Image}
	return c
}

// compressLayers writes an archive again with its layers compressed.
func compressLayers(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r, w := tar.NewReader(bytes.NewReader(raw)), tar.NewWriter(&b)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		content, _ := io.ReadAll(r)
		if h.Typeflag == tar.TypeReg && strings.HasSuffix(h.Name, ".tar") {
			content = zipped(content)
			h.Size = int64(len(content))
		}
		if err := errors.Join(err, w.WriteHeader(h)); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	if err := errors.Join(w.Close(), os.WriteFile(to, b.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func compress(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, zipped(raw), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func zipped(plain []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(plain)
	w.Close()
	return b.Bytes()
}

// runProgram runs a client of images and returns what it printed.
func runProgram(t *testing.T, name string, arg ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, arg...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arg, " "), err, &stderr)
	}
	return string(out)
}

// needProgram skips the test where a program is missing, but on CI, where none may be.
func needProgram(t *testing.T, program string) {
	t.Helper()
	_, err := exec.LookPath(program)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
}
