//go:build linux

package mount_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/daemon"
	"github.com/regfs/regfs/tests/registries"
)

// killable starts daemons that are killed, one after the other, with the same folders.
type killable struct {
	t                     *testing.T
	program, cache, stage string
	log                   string
	now                   *daemon.Daemon
}

func newKillable(t *testing.T, program string) *killable {
	dir := t.TempDir()
	k := &killable{t: t, program: program, cache: filepath.Join(dir, "cache"), stage: filepath.Join(dir, "stage"), log: filepath.Join(dir, "log")}
	t.Cleanup(func() {
		if k.now != nil {
			k.now.Unmount()
		}
	})
	return k
}

// build makes the program.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "regfs")
	run(t, "go", "build", "-o", program, "github.com/regfs/regfs/cmd/regfs")
	return program
}

// start mounts, after whatever became of the one before.
func (k *killable) start() *daemon.Daemon {
	k.t.Helper()
	if k.now != nil {
		if err := k.now.Unmount(); err != nil && !strings.Contains(err.Error(), "nothing is mounted there") {
			k.t.Fatal(err)
		}
	}
	k.now = daemon.Mount(k.t, k.program, k.cache, "--stage-dir", k.stage, "--log-file", k.log, "--timeout", "10s")
	return k.now
}

// killer ends the daemon that runs now: by SIGKILL, as the kernel does when memory runs out.
func (k *killable) killer(sig syscall.Signal) (kill func()) {
	pid := k.now.PID
	return func() {
		if err := syscall.Kill(pid, sig); err != nil {
			k.t.Error(err)
		}
	}
}

// ended waits for the daemon's end.
func (k *killable) ended() {
	k.t.Helper()
	waitFor(k.t, "the daemon's end", func() bool {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", k.now.PID))
		return err != nil || bytes.Contains(raw, []byte(") Z "))
	})
}

func (k *killable) logged() string {
	k.t.Helper()
	raw, err := os.ReadFile(k.log)
	if err != nil {
		k.t.Error(err)
	}
	return string(raw)
}

// terminated is a daemon that is asked to end.
const terminated = "SIGTERM at 4 tenths"

// killing are the moments of a push at which a daemon is killed: kill is called once.
func killing(size int64, kill func()) map[string]faulty {
	once := func(match registries.Match, times int, before bool) faulty {
		var mu sync.Mutex
		return faulty{"", match, func(e *registries.Exchange) (*http.Response, error) {
			mu.Lock()
			times--
			now := times == 0
			mu.Unlock()
			if now && before {
				kill()
				return registries.Hang(e)
			}
			if now {
				defer kill()
			}
			return e.Send()
		}, -1}
	}
	all := map[string]faulty{
		"before an upload": once(posts, 1, true), "after an upload began": once(posts, 1, false), "after a PATCH": once(patches, 1, false),
		"after a blob": once(blobPuts, 1, false), "after both blobs": once(blobPuts, 2, false),
		"before the manifest": once(manifests, 1, true), "after the manifest": once(manifests, 1, false),
	}
	for tenths, name := range map[int64]string{2: "at 2 tenths", 4: terminated, 5: "at 5 tenths", 9: "at 9 tenths"} {
		all[name] = faulty{"", sends, cutAt(size*tenths/10, kill), -1}
	}
	return all
}

// TestKilledDaemon: whenever the daemon is killed in a push, the same cp again pushes the image, and nothing that the registry has
// acknowledged is sent a second time.
func TestKilledDaemon(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	old, img, program := newPushed(t, "old", 1<<10), newPushed(t, "killed", 5<<20), build(t)
	t.Run("group", func(t *testing.T) {
		for name := range killing(0, nil) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				proxy := registries.NewProxy(t, r)
				repository := "killed/" + strings.ToLower(strings.ReplaceAll(name, " ", "-"))
				folder := filepath.Join(proxy.Host, repository, "tags/v1")
				k := newKillable(t, program)
				mnt := k.start().Path
				signal := syscall.SIGKILL
				if name == terminated {
					signal = syscall.SIGTERM
				}
				if strings.HasPrefix(name, "a") { // over an image that is there
					old.mustPush(t, filepath.Join(mnt, folder), k.logged)
					proxy.Reset()
				}
				fault := killing(img.size(t), k.killer(signal))[name]
				proxy.Fault(fault.times, fault.match, fault.fault)
				stderr, err := img.cpTo(t, filepath.Join(mnt, folder))
				if err == nil && name != terminated { // who asks a daemon to end lets it finish
					t.Errorf("the daemon was killed, and cp succeeded: %s", stderr)
				}
				k.ended()

				mnt = k.start().Path
				img.mustPush(t, filepath.Join(mnt, folder), k.logged)
				if s := statusOf(t, mnt, proxy.Host, repository, "v1"); s.State != stage.Pushed {
					t.Errorf("it is %s", s.State)
				}
				img.pulls(t, r.Host+"/"+repository+":v1")
				sentOnce(t, proxy)
			})
		}
	})
}

// sentOnce checks that no blob was uploaded again of which the registry had said that it has it.
func sentOnce(t *testing.T, proxy *registries.Proxy) {
	t.Helper()
	acknowledged := map[string]int{}
	for _, r := range proxy.Sent(blobPuts) {
		query, err := url.ParseQuery(r.Query)
		if err != nil {
			t.Error(err)
		}
		if r.Status == http.StatusCreated {
			acknowledged[query.Get("digest")]++
		}
	}
	if len(acknowledged) == 0 { // one that went through as its sender was killed has no answer
		t.Error("the registry has acknowledged nothing")
	}
	for dgst, n := range acknowledged {
		if n != 1 {
			t.Errorf("%s was uploaded %d times", dgst, n)
		}
	}
}

// half writes all of an image but its layer, of which half is there under another name, and kills the daemon.
func (k *killable) half(img *pushed, folder string) {
	k.t.Helper()
	at := filepath.Join(k.now.Path, folder, "oci-layout")
	if err := os.MkdirAll(at+"/blobs/sha256", 0o755); err != nil {
		k.t.Fatal(err)
	}
	for _, name := range []string{"oci-layout", "index.json", "blobs/sha256/" + img.manifest, "blobs/sha256/" + img.config} {
		run(k.t, "cp", filepath.Join(img.dir, name), filepath.Join(at, name))
	}
	run(k.t, "dd", "bs=64K", "count=8", "status=none", "if="+img.blob(img.layer), "of="+at+"/blobs/sha256/.layer.tmp")
	k.killer(syscall.SIGKILL)()
}

// TestUnfinishedIsFoundAgain: what was written of an image when the daemon was killed is told of at the next mount, and is there;
// the rest of it makes the image whole, and who does not want it can throw it away.
func TestUnfinishedIsFoundAgain(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	img, program := newPushed(t, "half", 2<<20), build(t)
	k := newKillable(t, program)
	folder := filepath.Join(r.Host, "team/half/tags/v1")
	k.start()
	k.half(img, folder)
	mnt := k.start().Path
	k.wantFound(img, r, mnt, folder)

	at := filepath.Join(mnt, folder, "oci-layout")
	if _, err := os.Stat(filepath.Join(mnt, folder, "digest")); !os.IsNotExist(err) {
		t.Errorf("digest of an unfinished image: %v", err)
	}
	run(t, "rm", at+"/blobs/sha256/.layer.tmp")
	run(t, "cp", img.blob(img.layer), at+"/blobs/sha256/")
	img.pulls(t, r.Host+"/team/half:v1")
	if got := strings.TrimSpace(run(t, "cat", filepath.Join(mnt, folder, "digest"))); got != img.digest {
		t.Errorf("digest is %s, not %s", got, img.digest)
	}

	folder = filepath.Join(r.Host, "team/half/tags/v2")
	k.half(newPushed(t, "unwanted", 2<<20), folder)
	mnt = k.start().Path
	run(t, program, "discard", filepath.Join(mnt, folder))
	if _, err := os.Stat(filepath.Join(mnt, folder)); !os.IsNotExist(err) {
		t.Errorf("it was discarded, and is there: %v", err)
	}
	if out := run(t, program, "status", mnt); strings.Contains(out, ":v2") {
		t.Errorf("it was discarded, and status says: %s", out)
	}
	if left := stagedFiles(t, k.stage); len(left) > 0 {
		t.Errorf("it was discarded, and left %v", left)
	}
	mnt = k.start().Path
	if out := run(t, program, "status", mnt); !strings.Contains(out, "nothing is being written") {
		t.Errorf("it was discarded, and after the next mount status says: %s", out)
	}
	if got := tagged(t, r, "team/half", "v2"); got != "" {
		t.Errorf("what was discarded is in the registry: %s", got)
	}
}

// wantFound checks that the half that was written is told of in all places, and is there.
func (k *killable) wantFound(img *pushed, r *registries.Registry, mnt, folder string) {
	t := k.t
	t.Helper()
	if log := k.logged(); !slices.ContainsFunc(strings.Split(log, "\n"), func(line string) bool {
		return strings.Contains(line, "an unfinished push was found") && strings.Contains(line, r.Host+"/team/half:v1")
	}) {
		t.Errorf("the log does not tell of it:\n%s", log)
	}
	if s := statusOf(t, mnt, r.Host, "team/half", "v1"); s.State != stage.Writing {
		t.Errorf("it is %s: %+v", s.State, s)
	}
	out := run(t, k.program, "status", mnt)
	for _, words := range []string{r.Host + "/team/half:v1", "writing", "regfs discard " + filepath.Join(mnt, folder)} {
		if !strings.Contains(out, words) {
			t.Errorf("status does not print %q:\n%s", words, out)
		}
	}
	at := filepath.Join(mnt, folder, "oci-layout")
	for _, name := range []string{"oci-layout", "index.json", "blobs/sha256/" + img.manifest, "blobs/sha256/" + img.config} {
		run(t, "cmp", filepath.Join(img.dir, name), filepath.Join(at, name))
	}
	run(t, "cmp", "-n", "524288", img.blob(img.layer), at+"/blobs/sha256/.layer.tmp")
	if out, err := exec.Command("sync", at).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("No such file")) {
		t.Errorf("sync of an unfinished image: %v: %s", err, out)
	}
	if s := statusOf(t, mnt, r.Host, "team/half", "v1"); !slices.Contains(s.Missing, digest.NewDigestFromEncoded("sha256", img.layer)) {
		t.Errorf("the layer is not said to be missing: %+v", s)
	}
}

// stagedFiles are the files in a folder for what is staged, but its lock.
func stagedFiles(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(dir + "/*/*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}
