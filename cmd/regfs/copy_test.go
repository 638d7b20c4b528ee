package main

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/registry"
	"github.com/regfs/regfs/tests/registries"
)

// regfs runs the program here and returns what it printed to stderr. It prints nothing to stdout.
func regfs(t *testing.T, code int, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if got := run(t.Context(), args, &stdout, &stderr); got != code || stdout.Len() > 0 {
		t.Errorf("regfs %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, &stdout, &stderr)
	}
	return stderr.String()
}

// copyTo copies between names of registries that are spoken to over plain HTTP.
func copyTo(t *testing.T, code int, from, to string) string {
	t.Helper()
	args := []string{"copy"}
	for _, text := range []string{from, to} {
		if n, err := parseRef(text); err == nil && n.Path == "" {
			args = append(args, "--insecure", n.Repository.Host)
		}
	}
	return regfs(t, code, append(args, from, to)...)
}

// whole tests that a name is an image of that digest, and that all of it is there.
func whole(t *testing.T, text string, want digest.Digest) {
	t.Helper()
	n, err := parseRef(text)
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{Timeout: 10 * time.Second, Insecure: []string{n.Repository.Host}})
	defer client.Close()
	src, err := (&places{registry: client.Host}).source(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	root, err := find(t.Context(), n, src)
	if err != nil || root.Digest != want {
		t.Errorf("%s is %s, %v; want %s", n, root.Digest, err, want)
		return
	}
	seen := 0
	err = image.Walk(t.Context(), src, root, func(d image.Descriptor, _ *image.Manifest, err error) error {
		if err == nil {
			_, err = src.Stat(t.Context(), d.Digest)
		}
		seen++
		return err
	})
	// The index, and of each platform the manifest, the config and a layer; one layer is common to all.
	if err != nil || seen != 1+3*len(registries.Platforms)+1 {
		t.Errorf("%s has %d parts, %v", n, seen, err)
	}
}

// source is a registry with a multi-platform image, hello:v1.
func source(t *testing.T) (*registries.Registry, digest.Digest) {
	t.Helper()
	r := registries.Memory(t)
	dgst, err := r.PushIndex(t, "hello:v1", "1").Digest()
	if err != nil {
		t.Fatal(err)
	}
	return r, digest.Digest(dgst.String())
}

func TestCopyToLayout(t *testing.T) {
	r, dgst := source(t)
	dir := filepath.Join(t.TempDir(), "new", "layout")
	hello := "docker://" + r.Host + "/hello"
	said := copyTo(t, 0, hello+":v1", "oci:"+dir+":v1")
	whole(t, "oci:"+dir+":v1", dgst)
	lines := strings.Split(strings.TrimSuffix(said, "\n"), "\n")
	if last := "copied " + dgst.String() + " to oci:" + dir + ":v1"; len(lines) != 1+3*len(registries.Platforms)+1+1 || lines[len(lines)-1] != last {
		t.Errorf("it says:\n%s", said)
	}
	line := regexp.MustCompile(`^sha256:[0-9a-f]{12} +[0-9.]+ k?B  (manifest )?(streamed|uploaded)$`)
	for _, l := range lines[:len(lines)-1] {
		if !line.MatchString(l) {
			t.Errorf("it says %q", l)
		}
	}
	said = copyTo(t, 0, hello+"@"+dgst.String(), "oci:"+dir+":docker.io/library/hello:v1")
	if strings.Contains(said, "streamed") {
		t.Errorf("a second time it says:\n%s", said)
	}
	whole(t, "oci:"+dir+":docker.io/library/hello:v1", dgst)
}

func TestCopyBetweenLayouts(t *testing.T) {
	r, dgst := source(t)
	one, other := "oci:"+filepath.Join(t.TempDir(), "one"), "oci:"+filepath.Join(t.TempDir(), "other")
	copyTo(t, 0, "docker://"+r.Host+"/hello:v1", one)
	whole(t, one, dgst)
	if said := regfs(t, 0, "copy", "-q", one, other+":v2"); said != "" {
		t.Errorf("quietly it says:\n%s", said)
	}
	for _, n := range []string{other, other + ":v2", other + "@" + dgst.String(), other + ":v2@" + dgst.String()} {
		whole(t, n, dgst)
	}
}

func TestCopyToRegistry(t *testing.T) {
	r, dgst := source(t)
	to := registries.Docker(t, registries.Config{})
	layout := "oci:" + t.TempDir()
	copyTo(t, 0, "docker://"+r.Host+"/hello:v1", "docker://"+to.Host+"/a/b:v2")
	whole(t, "docker://"+to.Host+"/a/b:v2", dgst)
	if said := copyTo(t, 0, "docker://"+to.Host+"/a/b:v2", "docker://"+to.Host+"/e"); !strings.Contains(said, "  mounted\n") {
		t.Errorf("within a registry it says:\n%s", said)
	}
	whole(t, "docker://"+to.Host+"/e:latest", dgst)
	copyTo(t, 0, "docker://"+to.Host+"/a/b:v2", layout)
	copyTo(t, 0, layout, "docker://"+to.Host+"/c")
	whole(t, "docker://"+to.Host+"/c:latest", dgst)
	copyTo(t, 0, layout, "docker://"+to.Host+"/d@"+dgst.String())
	whole(t, "docker://"+to.Host+"/d@"+dgst.String(), dgst)
	said := copyTo(t, 1, layout, "docker://"+to.Host+"/d@"+digest.FromString("other").String())
	if !strings.Contains(said, dgst.String()) {
		t.Errorf("with the digest of another image it says %s", said)
	}
}

func TestCopyFails(t *testing.T) {
	r, dgst := source(t)
	dir, layout := t.TempDir(), "oci:"+filepath.Join(t.TempDir(), "layout")
	hello := "docker://" + r.Host + "/hello"
	copyTo(t, 0, hello+":v1", layout+":v1")
	if err := os.WriteFile(filepath.Join(dir, "readme"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		from, to string
		code     int
		says     string
	}{
		{hello + ":v2", layout, 1, "(404)"},
		{hello + "@" + digest.FromString("x").String(), layout, 1, "(404)"},
		{"docker://" + r.Host + "/bye", layout, 1, "(404)"},
		{layout + ":v2", layout + ":v3", 1, "no image has that name"},
		{"oci:" + dir + "/missing", layout, 1, dir + "/missing"},
		{"oci:" + dir, layout, 1, "no image layout"},
		{hello + ":v1", "oci:" + dir, 1, "not empty"},
		{hello + ":v1", layout + "@" + digest.FromString("x").String(), 1, dgst.String()},
		{hello, "alpine", 2, "a transport is missing"},
		{"ftp:alpine", layout, 2, `no transport "ftp:"`},
	} {
		said := copyTo(t, test.code, test.from, test.to)
		line, more, _ := strings.Cut(said, "\n")
		if !strings.HasPrefix(line, "regfs: ") || !strings.Contains(line, test.says) || test.code == 1 && more != "" {
			t.Errorf("copy %s %s says:\n%s", test.from, test.to, said)
		}
	}
}

// TestCopyStopsAtOnce when it is interrupted, and leaves the tag as it was.
func TestCopyStopsAtOnce(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		r, _ := source(t)
		p := registries.NewProxy(t, r)
		began := make(chan struct{}, 100)
		p.Fault(-1, registries.Get("/blobs/"), func(e *registries.Exchange) (*http.Response, error) {
			began <- struct{}{}
			return registries.Hang(e)
		})
		layout := filepath.Join(t.TempDir(), "layout")
		cmd, stderr := program(t, "copy", "--insecure", p.Host, "docker://"+p.Host+"/hello:v1", "oci:"+layout+":v1")
		cmd.Stderr = stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-began
		begin := time.Now()
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.HasSuffix(stderr.String(), "regfs: interrupted\n") {
			t.Errorf("%v: exit %d\n%s", sig, code, stderr)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%v: it went on for %v", sig, took)
		}
		if said := copyTo(t, 1, "oci:"+layout+":v1", "oci:"+t.TempDir()); !strings.Contains(said, "no image has that name") {
			t.Errorf("%v: %s", sig, said)
		}
	}
}

// program is regfs as a process of its own.
func program(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), asRegfs+"=1", "TERM=xterm")
	return cmd, &bytes.Buffer{}
}
