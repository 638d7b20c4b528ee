package tarball

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

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

// archive is a tar of one file.
func archive(name, text string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(1, 0)})
	io.WriteString(w, text)
	w.Close()
	return b.Bytes()
}

func gzipped(raw []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(raw)
	w.Close()
	return b.Bytes()
}

func zstded(raw []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	defer w.Close()
	return w.EncodeAll(raw, nil)
}

// file writes an archive of a time to the disk.
func file(t *testing.T, name string, raw []byte, modified time.Time) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, raw, 0o644))
	must(t, os.Chtimes(path, modified, modified))
	return path
}

func open(t *testing.T, paths string, o Options) image.Source {
	t.Helper()
	src, err := Open(paths, o)
	must(t, err)
	t.Cleanup(func() { src.Close() })
	return src
}

func read(t *testing.T, src image.Source, d image.Descriptor) string {
	t.Helper()
	r, err := src.Fetch(t.Context(), d)
	must(t, err)
	defer r.Close()
	raw, err := io.ReadAll(r)
	must(t, err)
	return string(raw)
}

// manifest reads the image's manifest and config.
func manifest(t *testing.T, src image.Source) (raw string, m *image.Manifest, config v1.Image) {
	t.Helper()
	_, b, err := src.Manifest(t.Context(), "")
	must(t, err)
	m, err = image.ParseManifest("", b)
	must(t, err)
	must(t, json.Unmarshal([]byte(read(t, src, *m.Config)), &config))
	return string(b), m, config
}

func TestLayers(t *testing.T) {
	one, two, three := archive("a", "one"), archive("b", "two"), archive("c", "three")
	packed := [][]byte{one, gzipped(two), zstded(three)}
	first, last := time.Unix(1_000_000_000, 5), time.Unix(1_200_000_000, 0)
	paths := file(t, "a.tar", packed[0], first) + ":" + file(t, "b.tgz", packed[1], last) + ":" + file(t, "c", packed[2], first)
	_, m, config := manifest(t, open(t, paths, Options{}))
	types := []string{v1.MediaTypeImageLayer, v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerZstd}
	for i, l := range m.Layers {
		want(t, "layer", l, image.Descriptor{MediaType: types[i], Digest: digest.FromBytes(packed[i]), Size: int64(len(packed[i]))})
		want(t, "content", read(t, open(t, paths, Options{}), l), string(packed[i]))
	}
	want(t, "diff IDs", config.RootFS.DiffIDs, []digest.Digest{digest.FromBytes(one), digest.FromBytes(two), digest.FromBytes(three)})
	want(t, "created", *config.Created, last.UTC())
	want(t, "history", *config.History[0].Created, first.UTC())
}

// TestLikeSkopeo: the image is what skopeo makes of the same files, byte for byte.
func TestLikeSkopeo(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	a := file(t, "a.tar", archive("a", "one"), time.Unix(1_000_000_000, 5))
	b := file(t, "b.tar.gz", gzipped(archive("b", "two")), time.Unix(1_200_000_000, 0))
	for _, paths := range []string{a, b, a + ":" + b, a + ":" + a} {
		src := open(t, paths, Options{})
		raw, m, _ := manifest(t, src)
		for what, test := range map[string]struct {
			arg string
			got string
		}{"manifest": {"--raw", raw}, "config": {"--config", read(t, src, *m.Config)}} {
			cmd := exec.Command("skopeo", "inspect", "--raw", test.arg, "tarball:"+paths)
			cmd.Env = append(os.Environ(), "TZ=UTC")
			out, err := cmd.Output()
			must(t, err)
			want(t, what+" of "+paths, test.got, string(out))
		}
	}
}

func TestStdin(t *testing.T) {
	raw := gzipped(archive("a", "one"))
	other := file(t, "b.tar", archive("b", "two"), time.Unix(1_000_000_000, 0))
	src := open(t, "-:"+other+":-", Options{Stdin: bytes.NewReader(raw), TempDir: t.TempDir()})
	text, m, config := manifest(t, src)
	want(t, "layers", len(m.Layers), 3)
	want(t, "content", read(t, src, m.Layers[0]), string(raw))
	want(t, "content", read(t, src, m.Layers[2]), string(raw))
	want(t, "diff ID", config.RootFS.DiffIDs[0], digest.FromBytes(archive("a", "one")))
	again, _, _ := manifest(t, src)
	want(t, "the same again", again, text)
}

// TestStdinIsWaitedFor no longer than one wants to, and not lost.
func TestStdinIsWaitedFor(t *testing.T) {
	r, w := io.Pipe()
	src := open(t, "-", Options{Stdin: r, TempDir: t.TempDir()})
	raw := archive("a", "one")
	half := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		w.Write(raw[:700])
		cancel()
		<-half
		w.Write(raw[700:])
		w.Close()
	}()
	_, err := src.Resolve(ctx, "")
	wantErr(t, "resolve", err, context.Canceled)
	close(half)
	_, m, _ := manifest(t, src)
	want(t, "content", read(t, src, m.Layers[0]), string(raw))
}

// TestStdinIsLeft when nobody needs it.
func TestStdinIsLeft(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	src, err := Open("-", Options{Stdin: r})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = src.Resolve(ctx, "")
	wantErr(t, "resolve", err, context.Canceled)
	must(t, src.Close())
	_, err = src.Resolve(t.Context(), "")
	if err == nil {
		t.Error("a closed source has an image")
	}
}

var hostile = map[string]struct {
	raw  []byte
	want error
}{
	"text":             {[]byte("hello"), image.ErrInvalid},
	"no tar":           {bytes.Repeat([]byte("hello "), 1000), image.ErrInvalid},
	"no tar, gzipped":  {gzipped(bytes.Repeat([]byte("hello "), 1000)), image.ErrInvalid},
	"cut short":        {archive("a", strings.Repeat("a", 5000))[:3000], image.ErrInvalid},
	"gzip, cut short":  {gzipped(archive("a", "one"))[:100], image.ErrInvalid},
	"gzip, cut at all": {gzipped(archive("a", "one"))[:5], image.ErrInvalid},
	"gzip, damaged":    {append(gzipped(archive("a", "one"))[:60], "damaged, and longer"...), image.ErrInvalid},
	"gzip, and more":   {append(gzipped(archive("a", "one")), "more"...), image.ErrInvalid},
	"zstd, cut short":  {zstded(archive("a", "one"))[:60], image.ErrInvalid},
	"zstd, huge":       {[]byte("\x28\xb5\x2f\xfd\x00\xf8\x00\x00\x00\x00\x00\x00"), image.ErrInvalid},
	"xz":               {[]byte("\xfd7zXZ\x00 and so on"), image.ErrUnsupported},
	"bzip2":            {[]byte("BZh9 and so on"), image.ErrUnsupported},
}

func TestHostile(t *testing.T) {
	for name, test := range hostile {
		path := file(t, "x.tar", test.raw, time.Unix(1, 0))
		_, err := open(t, path, Options{}).Resolve(t.Context(), "")
		wantErr(t, name, err, test.want)
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v does not say where", name, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := file(t, "a.tar", archive("a", "one"), time.Unix(1, 0))
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, unix.Mkfifo(fifo, 0o644))
	for path, kind := range map[string]error{
		good + ":/missing.tar": image.ErrNotFound, t.TempDir(): image.ErrInvalid, good + ":": image.ErrNotFound, fifo: image.ErrInvalid,
	} {
		_, err := Open(path, Options{})
		wantErr(t, path, err, kind)
	}
}

// TestChanged files are found out.
func TestChanged(t *testing.T) {
	path := file(t, "a.tar", archive("a", "one"), time.Unix(1, 0))
	src := open(t, path, Options{})
	_, m, _ := manifest(t, src)
	must(t, os.WriteFile(path, archive("a", "two"), 0o644))
	r, err := src.Fetch(t.Context(), m.Layers[0])
	must(t, err)
	defer r.Close()
	_, err = io.ReadAll(r)
	wantErr(t, "fetch", err, image.ErrDigest)
	must(t, os.Remove(path))
	_, err = src.Fetch(t.Context(), m.Layers[0])
	wantErr(t, "fetch what is gone", err, image.ErrNotFound)
}

// FuzzRead: whatever comes, what is taken for a tar is described as it is.
func FuzzRead(f *testing.F) {
	for _, test := range hostile {
		f.Add(test.raw)
	}
	for _, raw := range [][]byte{archive("a", "one"), gzipped(archive("a", "one")), zstded(archive("a", "one")), nil} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, diffID, err := readArchive(bytes.NewReader(raw))
		if err != nil {
			if !errors.Is(err, image.ErrInvalid) && !errors.Is(err, image.ErrUnsupported) {
				t.Errorf("%v", err)
			}
			return
		}
		if d.Digest != digest.FromBytes(raw) || d.Size != int64(len(raw)) || d.MediaType == v1.MediaTypeImageLayer && diffID != d.Digest {
			t.Errorf("%q is %+v, %s", raw, d, diffID)
		}
	})
}
