package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/tests/registries"
)

// terminal is a new one: what is written to the second file is read from the first.
func terminal(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(screen.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return screen, tty
}

// TestBars are drawn on a terminal for what moves, and are gone in the end, where lines stay.
func TestBars(t *testing.T) {
	r := registries.Memory(t)
	layer := registries.Layer(t, registries.Files{"etc/random": strings.Repeat("random", 1000)})
	r.PushImage(t, "hello:v1", registries.BuildImage(t, registries.Platforms[0], "1", layer))
	dgst, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	p := registries.NewProxy(t, r)
	p.Fault(1, registries.Get("/blobs/"+dgst.String()), registries.Stall(10))
	screen, tty := terminal(t)
	cmd, _ := program(t, "copy", "--insecure", p.Host, "docker://"+p.Host+"/hello:v1", "oci:"+t.TempDir()+"/layout:v1")
	cmd.Stderr = tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	var said bytes.Buffer
	readUntil(t, screen, &said, regexp.MustCompile(dgst.String()[:19]+` +\[=*>-+\] +10 B / [0-9]+ B`))
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	io.Copy(&said, screen) // until EIO: nobody has the terminal open any more
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.HasSuffix(said.String(), "regfs: interrupted\r\n") {
		t.Errorf("exit %d\n%q", code, said.String())
	}
}

// TestBarsOfAnIndex are drawn, too.
func TestBarsOfAnIndex(t *testing.T) {
	r := registries.Memory(t)
	content := make([]byte, 600_000)
	rand.NewChaCha8([32]byte{}).Read(content)
	layer := registries.Layer(t, registries.Files{"etc/random": string(content)})
	r.PushImage(t, "hello:v1", registries.BuildImage(t, registries.Platforms[0], "1", layer))
	dgst, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	p := registries.NewProxy(t, r)
	p.Fault(1, registries.Get("/blobs/"+dgst.String()), registries.Stall(400_000))
	screen, tty := terminal(t)
	cmd, _ := program(t, "index", "--insecure", p.Host, "--cache-dir", t.TempDir(), "docker://"+p.Host+"/hello:v1")
	cmd.Stderr = tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	var said bytes.Buffer
	readUntil(t, screen, &said, regexp.MustCompile(dgst.String()[:19]+` +\[=+>-+\] +[0-9.]+ kB / 60[0-9.]+ kB`))
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	io.Copy(&said, screen) // until EIO: nobody has the terminal open any more
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.HasSuffix(said.String(), "regfs: interrupted\r\n") {
		t.Errorf("exit %d\n%q", code, said.String())
	}
}

// TestLinesOnATerminal are the same as elsewhere.
func TestLinesOnATerminal(t *testing.T) {
	r, _ := source(t)
	dir := t.TempDir()
	from := "docker://" + r.Host + "/hello:v1"
	screen, tty := terminal(t)
	cmd, _ := program(t, "copy", "--insecure", r.Host, from, "oci:"+dir+"/layout:v1")
	cmd.Stderr = tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	var said bytes.Buffer
	io.Copy(&said, screen)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	want := copyTo(t, 0, from, "oci:"+dir+"/other:v1")
	for line := range strings.Lines(want) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "copied") && !strings.Contains(said.String(), line) {
			t.Errorf("%q is missing in\n%q", line, said.String())
		}
	}
}

func readUntil(t *testing.T, r io.Reader, said *bytes.Buffer, enough *regexp.Regexp) {
	t.Helper()
	for p := make([]byte, 4096); !enough.Match(said.Bytes()); {
		n, err := r.Read(p)
		said.Write(p[:n])
		if err != nil {
			t.Fatalf("%v after\n%q", err, said.String())
		}
	}
}

// TestLastLines: what was written just before the end, when no bar has changed for a while, is there, too.
func TestLastLines(t *testing.T) {
	screen, tty := terminal(t)
	p := newProgress(tty, false)
	blob := image.Descriptor{Digest: digest.FromString("blob"), Size: 10}
	manifest := image.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("manifest"), Size: 10}
	p.tell(copy.Event{Descriptor: blob, State: copy.Moving, Sent: 1})
	var said bytes.Buffer
	readUntil(t, screen, &said, regexp.MustCompile(short(blob.Digest)+` +\[`))
	p.tell(copy.Event{Descriptor: blob, State: copy.Done, How: image.Uploaded})
	readUntil(t, screen, &said, regexp.MustCompile(`uploaded`))
	time.Sleep(5 * refresh) // for the board to have nothing new to draw
	p.tell(copy.Event{Descriptor: manifest, State: copy.Done, How: image.Uploaded})
	p.close()
	tty.Close()
	io.Copy(&said, screen)
	if !strings.Contains(said.String(), short(manifest.Digest)) {
		t.Errorf("the last line is missing in\n%q", said.String())
	}
}
