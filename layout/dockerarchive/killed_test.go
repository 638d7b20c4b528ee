package dockerarchive

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/regfs/regfs/image"
)

// killedArchive, in the environment, is what a process that is to be killed writes to.
const killedArchive = "REGFS_TEST_KILLED_ARCHIVE"

// TestKilled kills a writer that adds one image after the other. The archive is whole then, and the next writer goes on.
func TestKilled(t *testing.T) {
	if archive := os.Getenv(killedArchive); archive != "" {
		r := at(t, create(t, archive), "docker.io/library/hello")
		for i := 0; ; i++ {
			tagImage(t, r, fmt.Sprint("hello ", i), fmt.Sprint("v", i%5))
			if i == 0 {
				os.Stdout.WriteString("ready\n")
			}
		}
	}
	archive := filepath.Join(t.TempDir(), "archive.tar")
	for _, wait := range []time.Duration{0, 3 * time.Millisecond, 10 * time.Millisecond} {
		kill(t, archive, wait)
		wantWhole(t, archive)
	}
	r := at(t, create(t, archive), "quay.io/x/y")
	resolve(t, r, "last", tagImage(t, r, "the last", "last"))
	wantWhole(t, archive)
	entries, err := os.ReadDir(filepath.Dir(archive))
	must(t, err)
	want(t, "files beside it", len(entries), 1)
}

// kill starts a writer and kills it so long after it added an image.
func kill(t *testing.T, archive string, wait time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), killedArchive+"="+archive)
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

// wantWhole tests that all of all images is there, and that manifest.json has them all.
func wantWhole(t *testing.T, archive string) {
	t.Helper()
	a, err := Open(t.Context(), archive)
	must(t, err)
	defer a.Close()
	named := 0
	for _, name := range []string{"docker.io/library/hello", "quay.io/x/y"} {
		r := at(t, a, name)
		for tag, err := range r.Tags(t.Context(), "") {
			if err != nil {
				break // there is none
			}
			named++
			d, err := r.Resolve(t.Context(), tag)
			must(t, err)
			must(t, image.Walk(t.Context(), r, d, func(d image.Descriptor, _ *image.Manifest, err error) error {
				if err != nil {
					return err
				}
				f, err := r.Fetch(t.Context(), d)
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = io.Copy(io.Discard, f)
				return err
			}))
		}
	}
	want(t, "images in manifest.json", len(manifestJSON(t, archive)), named)
	if named == 0 {
		t.Error("there is no image")
	}
}
