package ostree

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
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

func need(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
}

func create(t *testing.T, path string) *Repo {
	t.Helper()
	need(t)
	r, err := Create(path, Options{})
	must(t, err)
	run(t, r, "config", "set", "core.fsync", "false") // which takes most of the time
	return r
}

// at opens a repository by its full name.
func at(t *testing.T, r *Repo, host, name string) *images {
	t.Helper()
	h, err := r.Host(host)
	must(t, err)
	src, err := h.Source(t.Context(), name)
	must(t, err)
	return src.(*images)
}

func run(t *testing.T, r *Repo, verb string, arg ...string) string {
	t.Helper()
	out, err := exec.Command(program, append([]string{verb, "--repo=" + r.path}, arg...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", verb, arg, err, out)
	}
	return string(out)
}

func memory(raw []byte) image.Content {
	return image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }}
}

func push(t *testing.T, s *images, mediaType string, raw []byte) image.Descriptor {
	t.Helper()
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	_, err := s.Push(t.Context(), d, memory(raw))
	must(t, err)
	return d
}

// tag pushes an image with a layer of some text, and tags it.
func tag(t *testing.T, s *images, text, tag string) (image.Descriptor, []byte) {
	t.Helper()
	raw, err := json.MarshalIndent(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: push(t, s, v1.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64"}`)),
		Layers: []image.Descriptor{push(t, s, v1.MediaTypeImageLayer, []byte(text))},
	}, "", "  ")
	must(t, err)
	d := image.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	must(t, s.Tag(t.Context(), d, raw, tag))
	return d, raw
}

func collect(t *testing.T, names iter.Seq2[string, error]) []string {
	t.Helper()
	var all []string
	for name, err := range names {
		must(t, err)
		all = append(all, name)
	}
	return all
}

// TestLayout is what skopeo looks for.
func TestLayout(t *testing.T) {
	r := create(t, filepath.Join(t.TempDir(), "a", "repo"))
	_, raw := tag(t, at(t, r, "quay.io", "podman/stable"), "hello", "v1_0")
	ref := "ociimage/quay.io_2Fpodman_2Fstable_3Av1_5F0"
	layer := digest.FromString("hello")
	refs := run(t, r, "refs", "--list", "ociimage")
	for _, name := range []string{ref, "ociimage/" + layer.Encoded()} {
		if !strings.Contains(refs, name+"\n") {
			t.Errorf("%s is not among %s", name, refs)
		}
	}
	want(t, "manifest", run(t, r, "cat", ref, "/manifest.json"), string(raw))
	want(t, "layer", run(t, r, "cat", "ociimage/"+layer.Encoded(), "/content"), "hello")
	for key, value := range map[string]string{
		"docker.digest": "'" + digest.FromBytes(raw).String() + "'\n", "signatures": "'0'\n",
	} {
		want(t, key, run(t, r, "show", "--print-metadata-key="+key, ref), value)
	}
	want(t, "size", run(t, r, "show", "--print-metadata-key=docker.size", "ociimage/"+layer.Encoded()), "'5'\n")
	if text := run(t, r, "show", "--print-metadata-key=docker.manifest", ref); !strings.Contains(text, layer.String()) {
		t.Errorf("the manifest is %s", text)
	}
	run(t, r, "fsck")
	left, err := filepath.Glob(filepath.Join(r.path, "tmp", "regfs-*"))
	must(t, err)
	want(t, "what is left", left, nil)
}

// TestNamesOfAll images in the repository.
func TestNamesOfAll(t *testing.T) {
	r := create(t, t.TempDir())
	want(t, "hosts of nothing", collect(t, r.Hosts(t.Context())), nil)
	s := at(t, r, "docker.io", "library/alpine")
	d, raw := tag(t, s, "hello", "latest")
	must(t, s.Tag(t.Context(), d, raw, "v1"))
	must(t, s.Tag(t.Context(), d, raw, "v10"))
	must(t, s.Delete(t.Context(), "v1"))
	want(t, "tags", collect(t, s.Tags(t.Context(), "")), []string{"latest", "v10"})
	only := at(t, r, "", "")
	_, err := only.Resolve(t.Context(), "")
	wantErr(t, "the only one of two", err, image.ErrNotFound)
	must(t, s.Delete(t.Context(), "v10"))
	wantErr(t, "delete once more", s.Delete(t.Context(), "v1"), image.ErrNotFound)
	found, err := only.Resolve(t.Context(), "")
	must(t, err)
	want(t, "the only one", found, d)
	other := at(t, r, "quay.io:443", "a/b")
	_, err = other.Resolve(t.Context(), "latest")
	wantErr(t, "another repository", err, image.ErrNotFound)
	tag(t, other, "hello", "V2")
	want(t, "hosts", collect(t, r.Hosts(t.Context())), []string{"docker.io", "quay.io:443"})
	h, err := r.Host("docker.io")
	must(t, err)
	want(t, "repositories", collect(t, h.Repositories(t.Context(), "")), []string{"library/alpine"})
	want(t, "repositories after the last", collect(t, h.Repositories(t.Context(), "library/alpine")), nil)
	want(t, "tags", collect(t, s.Tags(t.Context(), "")), []string{"latest"})
	for _, bad := range []string{"A", "../x", "-"} {
		_, err := h.Sink(t.Context(), bad)
		wantErr(t, bad, err, image.ErrInvalid)
		_, err = r.Host(bad)
		wantErr(t, bad, err, image.ErrInvalid)
	}
	h, err = r.Host("")
	must(t, err)
	_, err = h.Sink(t.Context(), "")
	wantErr(t, "write without a name", err, image.ErrUnsupported)
}

// TestSkopeoWrote an image under a short name, with layers unpacked.
func TestSkopeoWrote(t *testing.T) {
	r := create(t, t.TempDir())
	folder := t.TempDir()
	s := at(t, r, "docker.io", "library/alpine")
	layer := digest.FromString("layer")
	raw := `{"schemaVersion":2,"config":{"digest":"` + layer.String() + `","size":1},"layers":[]}`
	must(t, os.WriteFile(filepath.Join(folder, "manifest.json"), []byte(raw), 0o644))
	run(t, r, "commit", "--branch=ociimage/alpine_3Alatest", "--tree=dir="+folder, "--add-metadata-string=docker.manifest="+raw)
	run(t, r, "commit", "--branch=ociimage/"+layer.Encoded(), "--tree=dir="+folder, "--add-metadata-string=tarsplit.output=eA==")
	for _, ref := range []string{"latest", digest.FromString(raw).String()} {
		_, got, err := s.Manifest(t.Context(), ref)
		must(t, err)
		want(t, ref, string(got), raw)
	}
	_, err := s.Fetch(t.Context(), image.Descriptor{Digest: layer, Size: 5})
	if wantErr(t, "fetch", err, image.ErrUnsupported); !strings.Contains(err.Error(), "unpacked") {
		t.Errorf("%v does not say why", err)
	}
	d, _ := tag(t, s, "hello", "latest")
	want(t, "tags", collect(t, s.Tags(t.Context(), "")), []string{"latest"})
	found, err := s.Resolve(t.Context(), "latest")
	must(t, err)
	want(t, "the new one", found, d)
}

func TestOpenRefuses(t *testing.T) {
	need(t)
	other := t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, "readme"), []byte("hello"), 0o644))
	for path, kind := range map[string]error{
		filepath.Join(other, "missing"): image.ErrNotFound, other: image.ErrInvalid, t.TempDir(): image.ErrInvalid,
	} {
		_, err := Open(path, Options{})
		if wantErr(t, path, err, kind); err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%v does not say where", err)
		}
	}
	_, err := Create(other, Options{})
	wantErr(t, "create in another folder", err, image.ErrInvalid)
	t.Setenv("PATH", t.TempDir())
	_, err = Open(t.TempDir(), Options{})
	if wantErr(t, "without the program", err, image.ErrUnsupported); !strings.Contains(err.Error(), "package ostree") {
		t.Errorf("%v does not say what is missing", err)
	}
}

// TestRefused images, and what is written after them.
func TestRefused(t *testing.T) {
	r := create(t, t.TempDir())
	s := at(t, r, "quay.io", "a")
	d, _ := tag(t, s, "hello", "v1")
	missing := []byte(`{"schemaVersion":2,"config":{"digest":"` + digest.FromString("x").String() + `","size":1},"layers":[]}`)
	of := func(mediaType string) image.Descriptor {
		return image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(missing), Size: int64(len(missing))}
	}
	wantErr(t, "without its config", s.Tag(t.Context(), of(v1.MediaTypeImageManifest), missing, "v1"), image.ErrRefused)
	wantErr(t, "schema 1", s.Expect(t.Context(), of(image.MediaTypeDockerSchema1), missing), image.ErrUnsupported)
	_, err := s.Push(t.Context(), of(v1.MediaTypeImageManifest), memory([]byte("{}")))
	wantErr(t, "another one", err, image.ErrDigest)
	found, err := s.Resolve(t.Context(), "v1")
	must(t, err)
	want(t, "what was there", found, d)
	// A manifest that is too long for an argument is found none the less.
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: push(t, s, "x", []byte("config"))}
	m.Annotations = map[string]string{"long": strings.Repeat("x", 200<<10)}
	raw, err := json.Marshal(m)
	must(t, err)
	d = image.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	must(t, s.Tag(t.Context(), d, raw, "long"))
	found, err = s.Resolve(t.Context(), "long")
	must(t, err)
	want(t, "a long one", found, d)
}

// TestKilled in the middle of a write: no image is there, and it can be written again.
func TestKilled(t *testing.T) {
	path := t.TempDir()
	r := create(t, path)
	s := at(t, r, "quay.io", "a")
	cmd := exec.Command(os.Args[0], "-test.run=^TestWriteHalf$", "-test.v")
	cmd.Env = append(os.Environ(), "WRITE_HALF="+path)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var said []byte
	for p := make([]byte, 1000); !strings.Contains(string(said), "half"); {
		n, err := out.Read(p)
		said = append(said, p[:n]...)
		if err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	must(t, cmd.Process.Kill())
	cmd.Wait()
	_, err = s.Resolve(t.Context(), "v1")
	wantErr(t, "resolve", err, image.ErrNotFound)
	_, err = s.Stat(t.Context(), digest.FromString("large"))
	wantErr(t, "stat", err, image.ErrNotFound)
	tag(t, s, "large", "v1")
	run(t, r, "fsck")
}

// TestWriteHalf is what TestKilled kills.
// TestManyWriters has several processes commit at once, to a repository whose path is not all ASCII: none removes what is another's.
func TestManyWriters(t *testing.T) {
	r := create(t, filepath.Join(t.TempDir(), "ünï"))
	s := at(t, r, "example.com", "app")
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for j := range 8 {
				raw := fmt.Appendf(nil, "blob %d of %d", j, i)
				d := image.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
				if _, err := s.Push(t.Context(), d, memory(raw)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
}

// TestOneLine has the program complain.
func TestOneLine(t *testing.T) {
	r := create(t, filepath.Join(t.TempDir(), "repo"))
	_, err := r.run(t.Context(), "cat", "nothing", "/nothing")
	if !errors.Is(err, image.ErrNotFound) || strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "exit status") {
		t.Errorf("%v", err)
	}
}

func TestWriteHalf(t *testing.T) {
	path := os.Getenv("WRITE_HALF")
	if path == "" {
		t.Skip("only run by another test")
	}
	d := image.Descriptor{Digest: digest.FromString("large"), Size: 5}
	at(t, create(t, path), "quay.io", "a").Push(t.Context(), d, image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader("lar"), endless{})), nil
	}})
}

// endless says that the half is written, and comes to no end.
type endless struct{}

func (endless) Read([]byte) (int, error) {
	os.Stdout.WriteString("half\n")
	select {}
}

// FuzzBranches: what is found to be an image can be named, and what is not is no image.
func FuzzBranches(f *testing.F) {
	for _, text := range []string{
		"ociimage/quay.io_2Fpodman_2Fstable_3Av1\nociimage/alpine_3Alatest\nociimage/" + strings.Repeat("a", 64) + "\n",
		"ociimage/_", "ociimage/_3a", "_3A", "ociimage/a_40sha256_3Aa",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all := parseBranches(text)
		for _, b := range all.images {
			if !image.ValidTag(b.tag) || b.repository.Host == "" || b.repository.Name == "" || !strings.Contains(text, b.ref) {
				t.Errorf("%q has %+v", text, b)
			}
			if again, ok := parseBranch(imageBranch(b.repository, b.tag).ref); !ok || again.repository != b.repository || again.tag != b.tag {
				t.Errorf("%+v is written as %+v", b, again)
			}
		}
		if _, err := parseSize(text); err != nil && !errors.Is(err, image.ErrInvalid) {
			t.Error(err)
		}
	})
}
