package main

import (
	"context"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layer"
	"github.com/regfs/regfs/layout/oci"
	"github.com/regfs/regfs/tests/registries"
)

// indexOf indexes images of a registry in a cache folder.
func indexOf(t *testing.T, code int, host, dir string, args ...string) string {
	t.Helper()
	return regfs(t, code, append([]string{"index", "--insecure", host, "--cache-dir", dir, "--platform", "linux/amd64"}, args...)...)
}

// counts are how many lines say that a layer was indexed now, and before.
func counts(said string) (now, before int) {
	line := regexp.MustCompile(`(?m)^sha256:[0-9a-f]{12} +[0-9.]+ [kM]?B  (.*)$`)
	for _, m := range line.FindAllStringSubmatch(said, -1) {
		switch m[1] {
		case "indexed":
			now++
		case "was indexed before":
			before++
		}
	}
	return now, before
}

func wantCounts(t *testing.T, said string, now, before int) {
	t.Helper()
	if gotNow, gotBefore := counts(said); gotNow != now || gotBefore != before {
		t.Errorf("indexed %d now and %d before, want %d and %d:\n%s", gotNow, gotBefore, now, before, said)
	}
}

// layersOf are the layers of the linux/amd64 image of source.
func layersOf(t *testing.T, r *registries.Registry) (image.Source, []image.Descriptor) {
	t.Helper()
	src, _, layers := imageOf(t, r)
	return src, layers
}

// imageOf is the linux/amd64 image of source, in a layout.
func imageOf(t *testing.T, r *registries.Registry) (src image.Source, dgst digest.Digest, layers []image.Descriptor) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	copyTo(t, 0, "docker://"+r.Host+"/hello:v1", "oci:"+dir)
	src, err := oci.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	root, err := src.Resolve(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest(t.Context(), src, root)
	if err == nil {
		dgst = m.Manifests[0].Digest
		m, err = manifest(t.Context(), src, m.Manifests[0])
	}
	if err != nil {
		t.Fatal(err)
	}
	return src, dgst, m.Layers
}

// wantIndexed tests that a cache shows what is in layers though it asks nobody for them.
func wantIndexed(t *testing.T, dir string, src image.Source, layers []image.Descriptor, want []bool) {
	t.Helper()
	store, err := cache.New(cache.Options{Dir: dir, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var got []bool
	for _, d := range layers {
		l := layer.New(layer.Options{Store: store, Blobs: noBlobs{}})
		_, err := l.Index(t.Context(), src, d, func(int64) {})
		got = append(got, err == nil)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("has an index: %s", diff)
	}
}

// noBlobs has no blobs.
type noBlobs struct{}

func (noBlobs) Open(context.Context, image.Source, image.Descriptor) (image.Blob, error) {
	return nil, image.ErrUnavailable
}

func TestIndex(t *testing.T) {
	r, _ := source(t)
	p := registries.NewProxy(t, r)
	dir, hello := filepath.Join(t.TempDir(), "cache"), "docker://"+p.Host+"/hello:v1"
	src, layers := layersOf(t, r)
	said := indexOf(t, 0, p.Host, dir, hello)
	wantCounts(t, said, 2, 0)
	if !strings.HasSuffix(said, "\nlayers indexed now: 2, before: 0\n") || strings.Count(said, "\n") != 3 {
		t.Errorf("it says\n%s", said)
	}
	wantIndexed(t, dir, src, layers, []bool{true, true})
	blobs := p.Count(registries.Get("/blobs/"))
	said = indexOf(t, 0, p.Host, dir, hello, hello)
	wantCounts(t, said, 0, 2)
	if n := p.Count(registries.Get("/blobs/")); n != blobs {
		t.Errorf("%d blobs are fetched the second time", n-blobs)
	}
	// One layer is common to all.
	wantCounts(t, indexOf(t, 0, p.Host, dir, "--platform", "linux/arm64", hello), 1, 1)
	wantCounts(t, indexOf(t, 0, p.Host, dir, "--all-platforms", hello), 1, 3)
	if said := indexOf(t, 0, p.Host, dir, "-q", hello); said != "" {
		t.Errorf("quietly it says\n%s", said)
	}
}

// TestIndexAnywhere: a layer's index is the same, wherever the layer is.
func TestIndexAnywhere(t *testing.T) {
	r, dgst := source(t)
	other := registries.Docker(t, registries.Config{})
	dir, layout := filepath.Join(t.TempDir(), "cache"), "oci:"+t.TempDir()
	copyTo(t, 0, "docker://"+r.Host+"/hello:v1", layout)
	copyTo(t, 0, layout, "docker://"+other.Host+"/a/b:v2")
	wantCounts(t, indexOf(t, 0, other.Host, dir, "docker://"+other.Host+"/a/b:v2"), 2, 0)
	wantCounts(t, indexOf(t, 0, r.Host, dir, layout+"@"+dgst.String(), "docker://"+r.Host+"/hello:v1"), 0, 2)
}

// TestIndexOfASparseMirror: of the platforms that an index names, those that are there.
func TestIndexOfASparseMirror(t *testing.T) {
	r, dgst := source(t)
	_, here, _ := imageOf(t, r)
	p := registries.NewProxy(t, r)
	p.Fault(-1, registries.Both(registries.Get("/manifests/sha256:"), func(q registries.Request) bool {
		return !strings.HasSuffix(q.Path, dgst.String()) && !strings.HasSuffix(q.Path, here.String())
	}), registries.Status(http.StatusNotFound, ""))
	said := indexOf(t, 0, p.Host, t.TempDir(), "--all-platforms", "docker://"+p.Host+"/hello:v1")
	wantCounts(t, said, 2, 0)
}

// TestIndexOfNoImage: an artifact has nothing to index.
func TestIndexOfNoImage(t *testing.T) {
	r := registries.Memory(t)
	r.PushChart(t, "chart:v1")
	if said := indexOf(t, 0, r.Host, t.TempDir(), "docker://"+r.Host+"/chart:v1"); said != "layers indexed now: 0, before: 0\n" {
		t.Errorf("it says\n%s", said)
	}
}

// TestIndexGoesOn with all else when something fails.
func TestIndexGoesOn(t *testing.T) {
	r, _ := source(t)
	src, layers := layersOf(t, r)
	for name, test := range map[string]struct {
		fault  registries.Fault
		args   []string
		says   string
		now    int
		before []bool
	}{
		"missing layer":  {registries.Status(http.StatusNotFound, ""), []string{"hello:v1"}, "index layer " + layers[0].Digest.String(), 1, []bool{false, true}},
		"corrupt layer":  {registries.Corrupt(20), []string{"hello:v1"}, "index layer " + layers[0].Digest.String(), 1, []bool{false, true}},
		"missing tag":    {registries.None, []string{"hello:v2", "hello:v1"}, "404", 2, []bool{true, true}},
		"other platform": {registries.None, []string{"--platform", "plan9/mips", "hello:v1"}, "hello:v1 has no image for plan9/mips", 0, []bool{false, false}},
		"quiet":          {registries.Corrupt(20), []string{"-q", "hello:v1"}, "index layer " + layers[0].Digest.String(), 0, []bool{false, true}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			p := registries.NewProxy(t, r)
			p.Fault(-1, registries.Get("/blobs/"+layers[0].Digest.String()), test.fault)
			var args []string
			for _, arg := range test.args {
				if strings.HasPrefix(arg, "hello") {
					arg = "docker://" + p.Host + "/" + arg
				}
				args = append(args, arg)
			}
			said := indexOf(t, 1, p.Host, dir, args...)
			wantCounts(t, said, test.now, 0)
			lines := strings.Split(strings.TrimSuffix(said, "\n"), "\n")
			if len(lines) != test.now+2 || lines[len(lines)-1] != "regfs: not all layers are indexed" {
				t.Errorf("it says\n%s", said)
			}
			if !regexp.MustCompile("(?m)^regfs: .*" + regexp.QuoteMeta(test.says)).MatchString(said) {
				t.Errorf("it does not say %q:\n%s", test.says, said)
			}
			wantIndexed(t, dir, src, layers, test.before)
		})
	}
}

func TestIndexFails(t *testing.T) {
	r, _ := source(t)
	hello := "docker://" + r.Host + "/hello:v1"
	for name, test := range map[string]struct {
		code int
		args []string
		says string
	}{
		"a name that is none":  {2, []string{hello, "alpine"}, "a transport is missing"},
		"a cache that is none": {1, []string{"--cache-dir", "/dev/null/x", hello}, "/dev/null: not a directory"},
	} {
		said := indexOf(t, test.code, r.Host, t.TempDir(), test.args...)
		if line, _, _ := strings.Cut(said, "\n"); !strings.HasPrefix(line, "regfs: ") || !strings.Contains(line, test.says) {
			t.Errorf("%s: it says\n%s", name, said)
		}
	}
}

// TestIndexStopsAtOnce when it is interrupted, and goes on where it was the next time.
func TestIndexStopsAtOnce(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		r, _ := source(t)
		src, layers := layersOf(t, r)
		p := registries.NewProxy(t, r)
		began := make(chan struct{}, 100)
		p.Fault(-1, registries.Get("/blobs/"+layers[1].Digest.String()), func(e *registries.Exchange) (*http.Response, error) {
			began <- struct{}{}
			return registries.Hang(e)
		})
		dir := filepath.Join(t.TempDir(), "cache")
		cmd, stderr := program(t, "index", "--insecure", p.Host, "--platform", "linux/amd64", "--cache-dir", dir, "docker://"+p.Host+"/hello:v1")
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
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.HasSuffix(stderr.String(), "regfs: interrupted\n") || strings.Count(stderr.String(), "regfs:") != 1 {
			t.Errorf("%v: exit %d\n%s", sig, code, stderr)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%v: it went on for %v", sig, took)
		}
		indexOf(t, 0, r.Host, dir, "docker://"+r.Host+"/hello:v1")
		wantIndexed(t, dir, src, layers, []bool{true, true})
	}
}
