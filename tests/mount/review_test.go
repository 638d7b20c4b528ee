//go:build linux

package mount_test

import (
	"encoding/binary"
	"encoding/json"
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

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// TestTwoSizesOfOneDigest: a manifest that lies about a layer's size fails, and changes nothing for one that does not.
func TestTwoSizesOfOneDigest(t *testing.T) {
	r := registries.Memory(t)
	img, err := random.Image(1<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.PushImage(t, "team/app:good", img)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	lies := m.DeepCopy()
	lies.Layers[0].Size = 5000
	raw, err := json.Marshal(lies)
	if err != nil {
		t.Fatal(err)
	}
	r.PushManifest(t, "team/app:lies", string(m.MediaType), raw)
	mnt := mounted.New(t, mounted.Options{})
	blob := func(tag string) string { return mnt.At(r.Host, "team/app/tags", tag, "layers/00/blob") }
	run(t, "stat", blob("lies"))
	run(t, "stat", blob("good"))
	if got, want := sha256Of(t, blob("good")), m.Layers[0].Digest.String(); got != want {
		t.Errorf("good is %s, not %s", got, want)
	}
	wantErrno(t, mnt, "lies", readErr(blob("lies")), syscall.EIO)
	if info, err := os.Stat(blob("good")); err != nil || info.Size() != m.Layers[0].Size {
		t.Errorf("%v %v", info, err)
	}
}

// slowTags is a registry whose list of tags comes in pages, each after a while.
func slowTags(t *testing.T, pages int, pause time.Duration, last http.HandlerFunc) *registries.Registry {
	return registries.Handler(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.HasSuffix(req.URL.Path, "/tags/list") {
			return
		}
		page := len(req.URL.Query().Get("last"))
		if page > 0 {
			time.Sleep(pause)
		}
		if page == pages {
			last(w, req)
			return
		}
		w.Header().Set("Link", `</v2/team/app/tags/list?last=`+strings.Repeat("x", page+1)+`>; rel="next"`)
		var tags []string
		for i := range 100 {
			tags = append(tags, `"t`+strings.Repeat("x", page)+string(rune('a'+i%26))+strings.Repeat("y", i/26)+`"`)
		}
		io.WriteString(w, `{"tags":[`+strings.Join(tags, ",")+`]}`)
	}))
}

// TestInterruptedListing: signals that a program handles end a wait, and lose none of the entries.
func TestInterruptedListing(t *testing.T) {
	r := slowTags(t, 10, 50*time.Millisecond, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"tags":[]}`) })
	m := mounted.New(t, mounted.Options{})
	dir := m.At(r.Host, "team/app/tags")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), listed+"="+dir)
	out, err := cmd.CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "1000" {
		t.Errorf("%v: listed %q of 1000 tags", err, got)
	}
}

// TestBrokenListing: a list that fails in the middle is an error, not a shorter list, however often one asks.
func TestBrokenListing(t *testing.T) {
	r := slowTags(t, 3, 0, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	m := mounted.New(t, mounted.Options{Timeout: 2 * time.Second})
	f, err := os.Open(m.At(r.Host, "team/app/tags"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 3 {
		if _, err := f.ReadDir(-1); !errors.Is(err, syscall.EACCES) {
			t.Errorf("%v", err)
		}
	}
}

// TestSeekInFolder: a place far beyond the end is the end.
func TestSeekInFolder(t *testing.T) {
	r := registries.Memory(t)
	r.PushIndex(t, "team/app:v1", "1")
	m := mounted.New(t, mounted.Options{})
	fd, err := unix.Open(m.At(r.Host, "team/app/tags/v1"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	for _, to := range []struct {
		off  int64
		some bool
	}{{1 << 62, false}, {0, true}, {3, true}, {1000, false}} {
		if _, err := unix.Seek(fd, to.off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		n, err := unix.Getdents(fd, buf)
		if err != nil || n > 0 != to.some {
			t.Errorf("at %d: %d bytes, %v", to.off, n, err)
		}
	}
}

// TestWhatCameLater: what an image lacked when it was first looked at is shown once it is there.
func TestWhatCameLater(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Memory(t))
	idx := proxy.PushIndex(t, "team/app:v1", "1")
	manifest, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	missing := registries.Path("/manifests/" + manifest.Manifests[0].Digest.String())
	proxy.Fault(-1, missing, registries.Answer(404, nil, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`))
	m := mounted.New(t, mounted.Options{})
	path := filepath.Join(proxy.Host, "team/app/tags/v1")
	_, err = os.Stat(m.At(path, "manifest.json"))
	wantErrno(t, m, "manifest.json", err, syscall.ENOENT)
	before := len(list(t, m, path, "oci-layout/blobs/sha256"))
	proxy.Reset()
	run(t, "cat", m.At(path, "manifest.json"))
	if after := len(list(t, m, path, "oci-layout/blobs/sha256")); after <= before {
		t.Errorf("the layout has %d blobs, and had %d", after, before)
	}
}

// TestBadConfig: an image whose config is no JSON still shows its layers.
func TestBadConfig(t *testing.T) {
	r := registries.Memory(t)
	config, layer := r.PushBlob(t, "team/app", []byte("no JSON")), r.PushBlob(t, "team/app", []byte("a layer"))
	config.MediaType, layer.MediaType = types.OCIConfigJSON, types.OCILayer
	raw, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer}})
	if err != nil {
		t.Fatal(err)
	}
	r.PushManifest(t, "team/app:v1", string(types.OCIManifestSchema1), raw)
	m := mounted.New(t, mounted.Options{})
	run(t, "cp", "-r", m.At(r.Host, "team/app/tags/v1/layers/00/blob"), m.At(r.Host, "team/app/tags/v1/layers/00/digest"), t.TempDir())
	wantErrno(t, m, "inspect.json", readErr(m.At(r.Host, "team/app/tags/v1/inspect.json")), syscall.EIO)
}

// TestInodes: readdir and stat tell the same number, everywhere.
func TestInodes(t *testing.T) {
	r := registries.Memory(t)
	r.PushIndex(t, "team/app:v1", "1")
	r.PushArtifact(t, "team/files:v1")
	m := mounted.New(t, mounted.Options{})
	run(t, "cat", m.At(r.Host, "team/app/tags/v1/digest"))
	for _, dir := range strings.Fields(run(t, "find", m.Path, "-type", "d")) {
		for name, ino := range readdir(t, dir) {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil || st.Ino != ino {
				t.Errorf("%s in %s: readdir says %d, stat %d, %v", name, dir, ino, st.Ino, err)
			}
		}
	}
}

// readdir is the inode numbers that a folder's listing has, but for those of the two dots. ls and Go look at others.
func readdir(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	found := map[string]uint64{}
	for buf := make([]byte, 64<<10); ; {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n == 0 {
			return found
		}
		for b := buf[:n]; len(b) > 0; b = b[binary.NativeEndian.Uint16(b[16:]):] {
			name, _, _ := strings.Cut(string(b[19:binary.NativeEndian.Uint16(b[16:])]), "\x00")
			if name != "." && name != ".." {
				found[name] = binary.NativeEndian.Uint64(b)
			}
		}
	}
}

// TestTakenOnce: a blob that shows as a layer and in the layout counts once for du and tar.
func TestTakenOnce(t *testing.T) {
	r := registries.Memory(t)
	img, err := random.Image(4<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.PushImage(t, "team/app:v1", img)
	m := mounted.New(t, mounted.Options{})
	// What is in the layers are other files.
	out, _, _ := strings.Cut(run(t, "du", "-sk", "--exclude=rootfs", "--exclude=tree", m.At(r.Host, "team/app/tags/v1")), "\t")
	if len(out) != 4 || out[0] != '4' {
		t.Errorf("du says %s KiB of an image of four MiB", out)
	}
}

// TestErrorsAsTheyCome: tail -f of errors.log shows what goes wrong after it started.
func TestErrorsAsTheyCome(t *testing.T) {
	m := mounted.New(t, mounted.Options{Timeout: 2 * time.Second})
	readErr(m.At("127.0.0.1:1/a/tags/v1/digest"))
	cmd := exec.CommandContext(t.Context(), "tail", "-n", "+1", "-s", "0.1", "-f", m.At(".regfs/errors.log"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := make(chan string)
	go func() {
		defer close(lines)
		var all [8192]byte
		for {
			n, err := out.Read(all[:])
			if err != nil {
				return
			}
			lines <- string(all[:n])
		}
	}()
	for _, want := range []string{"/a/tags/v1", "/b/tags/v2"} {
		select {
		case got := <-lines:
			if !strings.Contains(got, want) {
				t.Errorf("%q does not tell of %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("nothing of %s", want)
		}
		readErr(m.At("127.0.0.1:1/b/tags/v2/digest"))
	}
}
