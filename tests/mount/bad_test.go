//go:build linux

package mount_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/types"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// readErr is how reading a file of the mount ends.
func readErr(path string) error {
	_, err := os.ReadFile(path)
	return err
}

// wantErrno checks how an operation ended, and that all but a missing name is told in .regfs/errors.log.
func wantErrno(t *testing.T, m *mounted.Mount, what string, err error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, not %v\n%s", what, err, want, m.Log())
	}
}

// told checks that errors.log has a line with all of these words, and the daemon's log too.
func told(t *testing.T, m *mounted.Mount, words ...string) {
	t.Helper()
	for name, log := range map[string]string{"errors.log": read(t, m, ".regfs/errors.log"), "the log": m.Log()} {
		found := false
		for line := range strings.Lines(log) {
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			found = found || all
		}
		if !found {
			t.Errorf("%s has no line with %q:\n%s", name, words, log)
		}
	}
}

func TestUnknownNames(t *testing.T) {
	for name, start := range starters {
		t.Run(name, func(t *testing.T) {
			r := start(t, registries.Config{})
			r.PushIndex(t, "team/app:v1", "1")
			m := mounted.New(t, mounted.Options{})
			none := digest.FromString("none").Encoded()
			for _, path := range []string{
				"nosuch.invalid/team/app/tags/v1/digest",
				r.Host + "/team/none/tags/v1", r.Host + "/team/app/tags/none", r.Host + "/team/app/tags/none/digest",
				r.Host + "/team/app/digests/sha256:" + none, r.Host + "/team/app/blobs/sha256/" + none,
			} {
				_, err := os.Stat(m.At(path))
				wantErrno(t, m, path, err, syscall.ENOENT)
			}
			for _, path := range []string{"nosuch.invalid", "nosuch.invalid/team/app/tags", r.Host + "/none", r.Host + "/team/none/tags"} {
				_, err := os.ReadDir(m.At(path))
				wantErrno(t, m, "ls "+path, err, syscall.ENOENT)
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	for name, start := range starters {
		for how, auth := range map[string]registries.Auth{"htpasswd": registries.Htpasswd, "token": registries.Token} {
			t.Run(name+"/"+how, func(t *testing.T) {
				r := start(t, registries.Config{Auth: auth})
				r.PushIndex(t, "team/app:v1", "1")
				for which, file := range map[string]string{
					"none":  filepath.Join(t.TempDir(), "none.json"),
					"wrong": registries.AuthFileOf(t, registries.User, "hunter2", r.Host),
				} {
					m := mounted.New(t, mounted.Options{System: &types.SystemContext{SystemRegistriesConfPath: "/dev/null", AuthFilePath: file}})
					path := m.At(r.Host, "team/app/tags/v1/manifest.json")
					wantErrno(t, m, which, readErr(path), syscall.EACCES)
					told(t, m, "lookup", r.Host+"/team/app/tags/v1")
					if logs := m.Log() + read(t, m, ".regfs/errors.log"); strings.Contains(logs, "hunter2") || strings.Contains(logs, "aHVudGVyM") {
						t.Errorf("the password is in a log: %s", logs)
					}
				}
			})
		}
	}
}

// TestRightCredentialsLater: a login takes effect without a remount, since a refusal is not remembered.
func TestRightCredentialsLater(t *testing.T) {
	r := registries.Docker(t, registries.Config{Auth: registries.Htpasswd})
	r.PushIndex(t, "team/app:v1", "1")
	file := registries.AuthFileOf(t, registries.User, "wrong", r.Host)
	m := mounted.New(t, mounted.Options{System: &types.SystemContext{SystemRegistriesConfPath: "/dev/null", AuthFilePath: file}})
	path := m.At(r.Host, "team/app/tags/v1/manifest.json")
	wantErrno(t, m, "wrong password", readErr(path), syscall.EACCES)
	right, err := os.ReadFile(registries.AuthFile(t, r.Host))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, right, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := readErr(path); err != nil {
		t.Errorf("right password: %v", err)
	}
}

func TestRegistryDown(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Memory(t))
	proxy.PushIndex(t, "team/app:v1", "1")
	const timeout = 2 * time.Second
	m := mounted.New(t, mounted.Options{Timeout: timeout})
	proxy.Fault(-1, registries.Any, registries.Hang)
	for _, path := range []string{"tags/v1/manifest.json", "tags/v1"} {
		start := time.Now()
		wantErrno(t, m, "stalled registry", readErr(m.At(proxy.Host, "team/app", path)), syscall.ETIMEDOUT)
		if took := time.Since(start); took > timeout+time.Second {
			t.Errorf("%s ended after %v, not %v", path, took, timeout)
		}
	}
	_, err := os.ReadDir(m.At(proxy.Host, "team/app/tags"))
	wantErrno(t, m, "ls of a stalled registry", err, syscall.ETIMEDOUT)

	proxy.Reset()
	proxy.Fault(-1, registries.Any, registries.Status(http.StatusInternalServerError, ""))
	wantErrno(t, m, "failing registry", readErr(m.At(proxy.Host, "team/app/tags/v1/manifest.json")), syscall.EIO)
	told(t, m, "lookup", "team/app/tags/v1", "500")

	wantErrno(t, m, "nobody there", readErr(m.At("127.0.0.1:1/team/app/tags/v1/manifest.json")), syscall.EIO)
	told(t, m, "127.0.0.1:1", "refused")
}

// TestInterrupt: Ctrl-C ends a reader at once, whatever it waits for.
func TestInterrupt(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Memory(t))
	img, err := random.Image(1<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	proxy.PushImage(t, "team/app:v1", img)
	m := mounted.New(t, mounted.Options{Timeout: time.Minute})
	blob := m.At(proxy.Host, "team/app/tags/v1/layers/00/blob")
	run(t, "stat", blob)
	proxy.Fault(-1, registries.Any, registries.Hang)
	for what, args := range map[string][]string{
		"read":   {"cat", blob},
		"lookup": {"cat", m.At(proxy.Host, "team/app/tags/v2/digest")},
		"list":   {"ls", m.At(proxy.Host, "team/app/tags")},
	} {
		t.Run(what, func(t *testing.T) {
			before := proxy.Count(registries.Any)
			cmd := exec.Command(args[0], args[1:]...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the request", func() bool { return proxy.Count(registries.Any) > before })
			start := time.Now()
			cmd.Process.Signal(syscall.SIGINT)
			cmd.Wait()
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("it took %v to end", took)
			}
		})
	}
}

// waitFor polls for what another process or goroutine is about to do.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// TestCorruptBlob: wrong bytes are never followed by an end of file, and nothing of them is kept.
func TestCorruptBlob(t *testing.T) {
	const size = 3 << 20
	for what, fault := range map[string]registries.Fault{
		"first byte": registries.Corrupt(0), "last byte": registries.Corrupt(size - 1), "too short": registries.Truncate(size - 1), "empty": registries.Truncate(0),
	} {
		t.Run(what, func(t *testing.T) {
			proxy := registries.NewProxy(t, registries.Memory(t))
			content := bytes.Repeat([]byte("regfs"), size/5+1)[:size]
			d := proxy.PushBlob(t, "team/app", content)
			cacheDir := t.TempDir()
			m := mounted.New(t, mounted.Options{CacheDir: cacheDir, Timeout: 3 * time.Second})
			path := m.At(proxy.Host, "team/app/blobs/sha256", d.Digest.Hex)
			proxy.Fault(-1, registries.Get("/blobs/"), fault)
			got, err := os.ReadFile(path)
			wantErrno(t, m, what, err, syscall.EIO)
			if len(got) >= size {
				t.Errorf("%d bytes were read", len(got))
			}
			told(t, m, "read", d.Digest.Hex)
			kept, _ := filepath.Glob(cacheDir + "/blobs/*/*/*")
			if len(kept) > 0 {
				t.Errorf("kept: %v", kept)
			}
			proxy.Reset()
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
				t.Errorf("after the registry was mended: %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestBadManifests: whatever a registry serves as a manifest, the answer is an error.
func TestBadManifests(t *testing.T) {
	one := digest.FromString("one")
	const index, manifest = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
	config := `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + one.String() + `","size":2}`
	for tag, doc := range map[string]struct{ mediaType, raw string }{
		"text":     {manifest, "this is not JSON"},
		"array":    {manifest, "[1,2,3]"},
		"empty":    {manifest, "{}"},
		"nothing":  {manifest, ""},
		"negative": {manifest, `{"schemaVersion":2,` + config + `,"layers":[{"digest":"` + one.String() + `","size":-5}]}`},
		"digest":   {manifest, `{"schemaVersion":2,` + config + `,"layers":[{"digest":"../../etc/passwd","size":5}]}`},
		"both":     {index, `{"schemaVersion":2,` + config + `,"manifests":[{"digest":"` + one.String() + `","size":5}]}`},
		"no hex":   {index, `{"schemaVersion":2,"manifests":[{"mediaType":"` + index + `","digest":"sha256:` + strings.Repeat("x", 64) + `","size":5}]}`},
		"deep":     {manifest, strings.Repeat("[", 1<<20)},
	} {
		t.Run(tag, func(t *testing.T) {
			r := registries.Handler(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				w.Header().Set("Content-Type", doc.mediaType)
				io.WriteString(w, doc.raw)
			}))
			m := mounted.New(t, mounted.Options{Timeout: 3 * time.Second})
			_, err := os.ReadDir(m.At(r.Host, "team/app/tags/v1"))
			wantErrno(t, m, "ls", err, syscall.EIO)
			_, err = os.ReadDir(m.At(r.Host, "team/app/tags/v1/oci-layout"))
			wantErrno(t, m, "ls oci-layout", err, syscall.EIO)
			told(t, m, "team/app/tags/v1")
		})
	}
}

// TestCircle: an index that names itself, which only a registry that lies about digests can serve.
func TestCircle(t *testing.T) {
	dgst := digest.FromString("circle").String()
	body := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":` +
		`"application/vnd.oci.image.index.v1+json","digest":"` + dgst + `","size":300,"platform":{"os":"linux","architecture":"amd64"}}]}`
	r := registries.Handler(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		w.Header().Set("Docker-Content-Digest", dgst)
		if strings.Contains(req.URL.Path, "/manifests/") {
			io.WriteString(w, body)
		}
	}))
	m := mounted.New(t, mounted.Options{Timeout: 3 * time.Second})
	_, err := os.ReadDir(m.At(r.Host, "team/app/tags/v1/oci-layout"))
	wantErrno(t, m, "ls", err, syscall.EIO)
}

// TestHugeManifest: a hundred megabytes of manifest are refused, not read.
func TestHugeManifest(t *testing.T) {
	sent := make(chan int64, 10)
	r := registries.Handler(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.Contains(req.URL.Path, "/manifests/") {
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		var n int64
		chunk := bytes.Repeat([]byte(" "), 1<<20)
		for range 100 {
			written, err := w.Write(chunk)
			n += int64(written)
			if err != nil {
				break
			}
		}
		sent <- n
	}))
	m := mounted.New(t, mounted.Options{Timeout: 5 * time.Second})
	wantErrno(t, m, "cat", readErr(m.At(r.Host, "team/app/tags/v1/manifest.json")), syscall.EIO)
	if n := <-sent; n > 50<<20 {
		t.Errorf("%d bytes of it were read", n)
	}
	told(t, m, "lookup", "team/app/tags/v1")
}

// TestReadOnly: nothing can be written in such a mount, and every attempt says so.
func TestReadOnly(t *testing.T) {
	r := registries.Memory(t)
	r.PushIndex(t, "team/app:v1", "1")
	m := mounted.New(t, mounted.Options{ReadOnly: true})
	dir := m.At(r.Host, "team/app/tags")
	for what, err := range map[string]error{
		"mkdir":  os.Mkdir(dir+"/v2", 0o755),
		"create": os.WriteFile(dir+"/v1/new", nil, 0o644),
		"write":  os.WriteFile(dir+"/v1/digest", []byte("x"), 0o644),
		"unlink": os.Remove(dir + "/v1/digest"),
		"rmdir":  syscall.Rmdir(dir + "/v1"),
		"rename": os.Rename(dir+"/v1", dir+"/v2"),
		"chmod":  os.Chmod(dir+"/v1", 0o700),
		"link":   os.Symlink("v1", dir+"/v2"),
	} {
		wantErrno(t, m, what, err, syscall.EROFS)
	}
}
