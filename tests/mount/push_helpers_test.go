//go:build linux

package mount_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// pushed is an image of one layer to push, as a layout on disk.
type pushed struct {
	dir      string
	digest   string
	manifest string // hex, as the file of a layout is called
	config   string
	layer    string
}

// newPushed makes an image with a layer of about size bytes, the same for the same seed.
func newPushed(t *testing.T, seed string, size int) *pushed {
	t.Helper()
	content := make([]byte, size)
	var key [32]byte
	copy(key[:], seed)
	rand.NewChaCha8(key).Read(content)
	var buf bytes.Buffer
	zip, err := gzip.NewWriterLevel(&buf, gzip.NoCompression)
	if err == nil {
		_, err = zip.Write(content)
	}
	if err = errors.Join(err, zip.Close()); err != nil {
		t.Fatal(err)
	}
	img := registries.BuildImage(t, registries.Platforms[0], seed, registries.LayerOf(t, buf.Bytes()))
	p := &pushed{dir: filepath.Join(t.TempDir(), "layout")}
	path, err := layout.Write(p.dir, empty.Index)
	if err == nil {
		err = path.AppendImage(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	p.digest, p.manifest, p.config, p.layer = hash.String(), hash.Hex, m.Config.Digest.Hex, m.Layers[0].Digest.Hex
	return p
}

// blob is where a layout has a blob.
func (p *pushed) blob(hex string) string { return filepath.Join(p.dir, "blobs/sha256", hex) }

// size is how long the layer is.
func (p *pushed) size(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(p.blob(p.layer))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// pulls checks that a tag, host/repository:tag, is the image, and whole.
func (p *pushed) pulls(t *testing.T, ref string) {
	t.Helper()
	out := t.TempDir()
	_, stderr, err := try(t, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+ref, "dir:"+out)
	if err != nil {
		t.Errorf("pull of %s: %v\n%s", ref, err, stderr)
		return
	}
	for file, hex := range map[string]string{"manifest.json": p.manifest, p.config: p.config, p.layer: p.layer} {
		want, err := os.ReadFile(p.blob(hex))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(out, file)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s of %s has the digest %s, not %s: %v", file, ref, digest.FromBytes(got), hex, err)
		}
	}
}

// tagged is the digest that a registry has under a tag, "" for none.
func tagged(t *testing.T, r *registries.Registry, repository, tag string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, r.Scheme()+"://"+r.Host+"/v2/"+repository+"/manifests/"+tag, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json")
	resp, err := r.Transport(t).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("Docker-Content-Digest")
}

// cpTo copies the image into the folder of a tag, which is made if need be.
func (p *pushed) cpTo(t *testing.T, folder string) (stderr string, err error) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	_, stderr, err = try(t, "cp", "-r", p.dir+"/.", folder+"/oci-layout")
	return stderr, err
}

// mustPush copies the image into the folder of a tag.
func (p *pushed) mustPush(t *testing.T, folder string, log func() string) {
	t.Helper()
	if stderr, err := p.cpTo(t, folder); err != nil {
		t.Fatalf("cp to %s: %v\n%s%s", folder, err, stderr, log())
	}
}

// statusOf reads what a mount says of a push.
func statusOf(t *testing.T, mnt, host, repository, tag string) stage.Status {
	t.Helper()
	var s stage.Status
	raw, err := os.ReadFile(filepath.Join(mnt, ".regfs/pushes", host, repository, tag+".json"))
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err != nil {
		t.Errorf("status: %v", err)
	}
	return s
}

// wantState checks what a mount says of a push: a state, and words of why.
func wantState(t *testing.T, m *mounted.Mount, host, repository, tag string, state stage.State, words ...string) {
	t.Helper()
	s := statusOf(t, m.Path, host, repository, tag)
	said := fmt.Sprint(s.Error, s.Waiting, s.Missing)
	for _, w := range words {
		if s.State != state || !strings.Contains(said, w) {
			t.Errorf("status of %s:%s is %s, %q, and not %s with %q", repository, tag, s.State, said, state, w)
		}
	}
	if s.State != state {
		t.Errorf("status of %s:%s is %s, %q, and not %s", repository, tag, s.State, said, state)
	}
}

// saysErrno checks that a program failed of an errno, by its words.
func saysErrno(t *testing.T, stderr string, err error, want syscall.Errno) {
	t.Helper()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || !strings.Contains(strings.ToLower(stderr), want.Error()) {
		t.Errorf("%v, and not %q:\n%s", err, want.Error(), stderr)
	}
}

// Requests of an upload.
var (
	sends     = registries.Path("/blobs/uploads/.")
	posts     = registries.Both(registries.Method(http.MethodPost), registries.Path("/blobs/uploads/"))
	patches   = registries.Both(registries.Method(http.MethodPatch), sends)
	blobPuts  = registries.Both(registries.Method(http.MethodPut), sends)
	manifests = registries.Both(registries.Method(http.MethodPut), registries.Path("/manifests/"))
	heads     = registries.Method(http.MethodHead)
	writes    = func(r registries.Request) bool { return posts(r) || sends(r) || manifests(r) }
)

// cutAt breaks the connection when n bytes of uploads have gone through, once.
func cutAt(n int64, then func()) registries.Fault {
	var mu sync.Mutex
	done := false
	// part is how much of a request of size goes through, if the cut is in it.
	part := func(size int64) (_ int64, cut bool) {
		mu.Lock()
		defer mu.Unlock()
		if done || n >= size {
			n -= size
			return 0, false
		}
		done = true
		return n, true
	}
	return func(e *registries.Exchange) (*http.Response, error) {
		n, cut := part(max(e.Request.ContentLength, 0))
		if !cut {
			return e.Send()
		}
		if then != nil {
			defer then()
		}
		return registries.DropRequest(n)(e)
	}
}

// stallAt takes n bytes of a request, and then nothing more, until the client goes away.
func stallAt(n int64) registries.Fault {
	return func(e *registries.Exchange) (*http.Response, error) {
		if e.Request.Body != nil {
			io.CopyN(io.Discard, e.Request.Body, n)
		}
		return registries.Hang(e)
	}
}

// wantNothingStaged waits until nothing is left of what was pushed to a repository: the kernel tells of the last close of a file after it
// has told who closed it.
func wantNothingStaged(t *testing.T, m *mounted.Mount, r *registries.Registry, repository string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for len(m.Stage.Sites(site(r, repository))) > 0 {
		if time.Now().After(deadline) {
			t.Errorf("left in the staging of %s: %+v", repository, m.Stage.Statuses())
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
