package oci

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// createArchive makes or opens a layout in a tar.
func createArchive(t testing.TB, file string) *Layout {
	t.Helper()
	l, err := CreateArchive(context.Background(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func openArchiveAt(t *testing.T, file string) *Layout {
	t.Helper()
	l, err := OpenArchive(t.Context(), file)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// TestPositions are those of index.json, whatever is there.
func TestPositions(t *testing.T) {
	for name, l := range map[string]*Layout{
		"folder": create(t, t.TempDir()), "archive": createArchive(t, filepath.Join(t.TempDir(), "archive.tar")),
	} {
		t.Run(name, func(t *testing.T) {
			first, second := tagImage(t, l, "hello", "v1"), tagImage(t, l, "hello again", "")
			resolve(t, l, "@0", first)
			resolve(t, l, "@1", second)
			for _, ref := range []string{"@2", "@", "@-1", "@x", "@99999999999999999999"} {
				_, err := l.Resolve(t.Context(), ref)
				wantErr(t, ref, err, image.ErrNotFound)
			}
		})
	}
}

func TestArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "archive.tar")
	_, err := OpenArchive(t.Context(), file)
	wantErr(t, "open what is missing", err, image.ErrNotFound)
	l := createArchive(t, file)
	if names, err := tags(t.Context(), l); len(names) > 0 || err != nil {
		t.Errorf("a new archive has the tags %v, %v", names, err)
	}
	first := tagImage(t, l, "hello", "v1")
	second := tagImage(t, createArchive(t, file), "hello again", "v2")
	other := openArchiveAt(t, file)
	for name, d := range map[string]image.Descriptor{"v1": first, "v2": second} {
		resolve(t, l, name, d)
		resolve(t, other, name, d)
	}
	d, raw := pushImage(t, l, "unnamed")
	_, err = other.Resolve(t.Context(), d.Digest.String())
	wantErr(t, "what has no name", err, image.ErrNotFound)
	must(t, l.Close())
	resolve(t, openArchiveAt(t, file), d.Digest.String(), d)
	err = other.Tag(t.Context(), d, raw, "v3")
	wantErr(t, "tag where one can only read", err, image.ErrUnsupported)
}

// TestArchiveOfOthers: what has no layout in it is none, and stays as it is.
func TestArchiveOfOthers(t *testing.T) {
	for name, content := range map[string]string{"text": strings.Repeat("hello", 1000), "a docker archive": string(tarOf(t, "manifest.json", "[]"))} {
		file := filepath.Join(t.TempDir(), "archive.tar")
		writeFile(t, content, file)
		_, err := OpenArchive(t.Context(), file)
		wantErr(t, name+": open", err, image.ErrInvalid)
		_, err = CreateArchive(t.Context(), file)
		wantErr(t, name+": create", err, image.ErrInvalid)
		want(t, name, readFile(t, file), content)
	}
}

// TestSkopeoArchives are those that skopeo writes, reads and unpacks.
func TestSkopeoArchives(t *testing.T) {
	dir := t.TempDir()
	file, other := filepath.Join(dir, "archive.tar"), filepath.Join(dir, "other.tar")
	l := createArchive(t, file)
	d := tagImage(t, l, "hello", "v1")
	tagImage(t, l, "hello again", "v2")
	copyTo := []string{"--insecure-policy", "--override-os=linux", "--override-arch=amd64", "copy", "--preserve-digests"}
	run(t, "skopeo", append(copyTo, "oci-archive:"+file+":v1", "oci-archive:"+other+":v3")...)
	resolve(t, openArchiveAt(t, other), "v3", d)
	tagImage(t, createArchive(t, other), "hello again", "v2")
	resolve(t, openArchiveAt(t, other), "v3", d)
	var info struct{ Digest string }
	must(t, json.Unmarshal([]byte(run(t, "skopeo", "--override-os=linux", "--override-arch=amd64", "inspect", "oci-archive:"+other+":v3")), &info))
	want(t, "skopeo's digest", info.Digest, d.Digest.String())
	run(t, "gzip", file)
	resolve(t, openArchiveAt(t, file+".gz"), "v1", d)
	_, err := CreateArchive(t.Context(), file+".gz")
	wantErr(t, "write to a compressed archive", err, image.ErrUnsupported)
}

// TestSharedBlobs as skopeo has them.
func TestSharedBlobs(t *testing.T) {
	dir, shared, other := t.TempDir(), t.TempDir(), t.TempDir()
	l, err := Create(dir, SharedBlobs(shared))
	must(t, err)
	defer l.Close()
	d := tagImage(t, l, "hello", "v1")
	want(t, "blobs in the layout", len(blobNames(t, dir)), 0)
	copyTo := []string{"--insecure-policy", "--override-os=linux", "--override-arch=amd64", "copy", "--preserve-digests"}
	run(t, "skopeo", append(copyTo, "--src-shared-blob-dir="+shared, "--dest-shared-blob-dir="+shared, "oci:"+dir+":v1", "oci:"+other+":v1")...)
	again, err := Open(other, SharedBlobs(shared))
	must(t, err)
	defer again.Close()
	resolve(t, again, "v1", d)
	wantErr(t, "delete what others may have", l.Delete(t.Context(), d.Digest.String()), image.ErrUnsupported)
	must(t, l.Delete(t.Context(), "v1"))
	resolve(t, again, "v1", d)
}

// TestConcurrentArchives: several Layouts of one archive, as several processes have, lose nothing of each other's.
func TestConcurrentArchives(t *testing.T) {
	const layouts, each = 3, 5
	file := filepath.Join(t.TempDir(), "archive.tar")
	var writers sync.WaitGroup
	for i := range layouts {
		l := createArchive(t, file)
		for j := range each {
			writers.Go(func() { tagImage(t, l, fmt.Sprintf("hello %d.%d", i, j), fmt.Sprintf("v%d.%d", i, j)) })
		}
	}
	writers.Wait()
	l := openArchiveAt(t, file)
	names, err := tags(t.Context(), l)
	must(t, err)
	want(t, "tags", len(names), layouts*each)
	wantWhole(t, l)
}

// wantWhole tests that all of all images is there.
func wantWhole(t *testing.T, l *Layout) {
	t.Helper()
	x, err := l.index(t.Context())
	must(t, err)
	for _, e := range x.entries {
		must(t, image.Walk(t.Context(), l, e.Descriptor, func(d image.Descriptor, _ *image.Manifest, err error) error {
			if err != nil {
				return err
			}
			r, err := l.Fetch(t.Context(), d)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
			return err
		}))
	}
}

// The environment of a process that is to be killed: what it writes to, and when it says that it can be.
const (
	killedArchive = "REGFS_TEST_KILLED_ARCHIVE"
	killedWhile   = "REGFS_TEST_KILLED_WHILE"
)

// TestKilled kills a writer in the middle of a blob, and while it adds one image after the other. The archive is whole then, the next
// writer removes what was left, and goes on.
func TestKilled(t *testing.T) {
	if file := os.Getenv(killedArchive); file != "" {
		writeUntilKilled(t, file)
		return
	}
	for _, while := range []string{"blob", "edits"} {
		t.Run(while, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "archive.tar")
			d := tagImage(t, createArchive(t, file), "hello", "first")
			for _, wait := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
				kill(t, file, while, wait)
				l := openArchiveAt(t, file)
				resolve(t, l, "first", d)
				wantWhole(t, l)
			}
			tagImage(t, createArchive(t, file), "hello again", "last")
			wantWhole(t, openArchiveAt(t, file))
			entries, err := os.ReadDir(filepath.Dir(file))
			must(t, err)
			want(t, "files beside it", len(entries), 1)
		})
	}
}

// kill starts a writer and kills it so long after it said that it can be.
func kill(t *testing.T, file, while string, wait time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), killedArchive+"="+file, killedWhile+"="+while)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Errorf("the writer says %q, %v", line, err)
	}
	time.Sleep(wait)
	must(t, cmd.Process.Kill())
	cmd.Wait()
}

func writeUntilKilled(t *testing.T, file string) {
	l := createArchive(t, file)
	if os.Getenv(killedWhile) == "blob" {
		data := make([]byte, 1<<20)
		l.Push(t.Context(), describe(v1.MediaTypeImageLayer, data), image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader(string(data[:1<<19])), endless{})), nil
		}})
	}
	for i := 0; ; i++ {
		tagImage(t, l, fmt.Sprint("hello ", i), fmt.Sprint("v", i%7))
		if i == 0 {
			os.Stdout.WriteString("ready\n")
		}
	}
}

// endless is content that does not come.
type endless struct{}

func (endless) Read([]byte) (int, error) {
	os.Stdout.WriteString("ready\n")
	select {}
}

// BenchmarkList opens a layout of a thousand images, and lists it: to be done within 50 ms.
func BenchmarkList(b *testing.B) {
	dir := b.TempDir()
	l, err := Create(dir)
	if err != nil {
		b.Fatal(err)
	}
	fillWith(b, l, 1000)
	b.Run("folder", func(b *testing.B) {
		for b.Loop() {
			l, err := Open(dir)
			list(b, l, err)
		}
	})
	tar := filepath.Join(b.TempDir(), "archive.tar")
	if out, err := exec.Command("tar", "-C", dir, "-cf", tar, ".").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	b.Run("archive", func(b *testing.B) {
		for b.Loop() {
			l, err := OpenArchive(b.Context(), tar)
			list(b, l, err)
		}
	})
}

// fillWith makes a layout one of many images.
func fillWith(b *testing.B, l *Layout, n int) {
	b.Helper()
	x := &index{}
	for i := range n {
		blobs := [][]byte{[]byte(fmt.Sprintf(`{"schemaVersion":2,"n":%d}`, i)), []byte(fmt.Sprintf(`{"config":%d}`, i)), []byte(fmt.Sprint("layer ", i))}
		for _, blob := range blobs {
			writeTo(b, l, describe("", blob), blob)
		}
		x.put(describe(v1.MediaTypeImageManifest, blobs[0]), fmt.Sprintf("docker.io/library/image:v%d", i))
	}
	y, err := l.index(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	y.entries = x.entries
	if err := l.files.(*folder).put(b.Context(), v1.ImageIndexFile, y.bytes()); err != nil {
		b.Fatal(err)
	}
}

// writeTo writes a blob to a folder, without waiting for the disk.
func writeTo(b *testing.B, l *Layout, d image.Descriptor, blob []byte) {
	if err := os.WriteFile(filepath.Join(l.where, blobPath(d.Digest)), blob, 0o644); err != nil {
		b.Fatal(err)
	}
}

func list(b *testing.B, l *Layout, err error) {
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if names, err := tags(b.Context(), l); len(names) != 1000 || err != nil {
		b.Fatalf("%d names, %v", len(names), err)
	}
}
