package dir

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

func itoa(n int) string { return strconv.Itoa(n) }

func b64(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// TestSkopeoReads what is written here, one image and several.
func TestSkopeoReads(t *testing.T) {
	amd := paint(digest.SHA256, "amd64", strings.Repeat("\x00", 1024))
	for _, p := range []picture{amd, several(amd, paint(digest.SHA256, "arm64", strings.Repeat("\x00", 2048)))} {
		path, again := t.TempDir(), filepath.Join(t.TempDir(), "again")
		must(t, p.write(t.Context(), create(t, path)))
		want(t, "manifest", run(t, "skopeo", "inspect", "--raw", "dir:"+path), string(p.raw))
		run(t, "skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "dir:"+path, "dir:"+again)
		holds(t, "copied by skopeo", again, p)
	}
}

// TestSkopeoReplaces what was written here, and the other way round.
func TestSkopeoReplaces(t *testing.T) {
	path, other := t.TempDir(), t.TempDir()
	first, second := paint(digest.SHA256, "amd64", "a"), paint(digest.SHA256, "amd64", strings.Repeat("\x00", 1024))
	must(t, first.write(t.Context(), create(t, path)))
	must(t, second.write(t.Context(), create(t, other)))
	run(t, "skopeo", "--insecure-policy", "copy", "--preserve-digests", "dir:"+other, "dir:"+path)
	holds(t, "replaced by skopeo", path, second)
	must(t, first.write(t.Context(), create(t, path)))
	holds(t, "replaced here", path, first)
}

// TestKilled kills a process that replaces one image by another again and again, at any place. An image is there, whole, and it can
// be replaced.
func TestKilled(t *testing.T) {
	const kills = 12
	path := t.TempDir()
	one, other := taking(1), taking(2)
	must(t, one.write(t.Context(), create(t, path)))
	for i := range kills {
		steps := kill(t, path, 1+7*i)
		x, err := Open(path)
		must(t, err)
		d, _, err := x.Manifest(t.Context(), "")
		must(t, err)
		is := one
		if d.Digest == other.d.Digest {
			is = other
		}
		reads(t, fmt.Sprintf("killed after %d steps", steps), path, is)
		must(t, x.Close())
	}
	x := create(t, path)
	for _, p := range []picture{one, other} {
		must(t, p.write(t.Context(), x))
		reads(t, "written again", path, p)
	}
}

func taking(n int) picture {
	return paint(digest.SHA256, "amd64", strings.Repeat("a", 100_000), strings.Repeat("b", n*100_000), strings.Repeat("c", n*200_000))
}

// kill runs TestReplaceForever in another process, and kills it after so many steps.
func kill(t *testing.T, path string, steps int) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestReplaceForever$", "-test.v")
	cmd.Env = append(os.Environ(), "REPLACE_FOREVER="+path)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	n := 0
	for lines := bufio.NewScanner(out); n < steps && lines.Scan(); {
		if lines.Text() == "step" {
			n++
		}
	}
	must(t, cmd.Process.Kill())
	if err := cmd.Wait(); n < steps || err == nil {
		t.Fatalf("the writer ended after %d steps: %v", n, err)
	}
	return n
}

// TestReplaceForever is what kill kills.
func TestReplaceForever(t *testing.T) {
	path := os.Getenv("REPLACE_FOREVER")
	if path == "" {
		t.Skip("it is run by TestKilled")
	}
	x := create(t, path)
	for i := 0; ; i++ {
		p := taking(1 + i%2)
		for _, part := range p.parts {
			_, err := x.Push(t.Context(), part.Descriptor, image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) {
				return io.NopCloser(&telling{bytes.NewReader(part.raw)}), nil
			}})
			must(t, err)
		}
		fmt.Println("step")
		must(t, x.Tag(t.Context(), p.d, p.raw, ""))
		fmt.Println("step")
	}
}

// telling tells of each piece that is read.
type telling struct{ io.Reader }

func (r *telling) Read(p []byte) (int, error) {
	fmt.Println("step")
	return r.Reader.Read(p[:min(len(p), 50_000)])
}

// TestConcurrent writers of one folder: one image is there in the end, whole, and who lost is told.
func TestConcurrent(t *testing.T) {
	path := t.TempDir()
	const writers, times = 4, 10
	done := make(chan error, writers)
	for i := range writers {
		x := create(t, path)
		go func() {
			var err error
			for range times {
				if err == nil || errors.Is(err, image.ErrRefused) {
					err = taking(1+i%2).write(t.Context(), x)
				}
			}
			done <- err
		}()
	}
	for range writers {
		if err := <-done; err != nil && !errors.Is(err, image.ErrRefused) {
			t.Error(err)
		}
	}
	p := taking(1)
	must(t, p.write(t.Context(), create(t, path)))
	reads(t, "in the end", path, p)
}
