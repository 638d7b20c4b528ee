//go:build linux

package mount_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// begun writes all of an image but its layer.
func (p *pushed) begun(t *testing.T, folder string) (at string) {
	t.Helper()
	at = folder + "/oci-layout"
	if err := os.MkdirAll(at+"/blobs/sha256", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"oci-layout", "index.json", "blobs/sha256/" + p.manifest, "blobs/sha256/" + p.config} {
		run(t, "cp", filepath.Join(p.dir, name), filepath.Join(at, name))
	}
	return at
}

// TestSilence: an unfinished image is told of in the log when nobody writes to it any more, once; sync fails and says what is
// missing; and the image has no digest until it is pushed.
func TestSilence(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	const silence = 300 * time.Millisecond
	m := mounted.New(t, mounted.Options{Silence: silence})
	img := newPushed(t, "silence", 1<<10)
	folder := m.At(r.Host, "team/silence/tags/v1")
	at := img.begun(t, folder)
	tellings := func() int { return strings.Count(m.Log(), "nobody writes to it") }
	waitFor(t, "word of the unfinished image", func() bool { return tellings() > 0 })
	if !strings.Contains(m.Log(), img.layer) {
		t.Errorf("the log does not say what is missing:\n%s", m.Log())
	}
	time.Sleep(5 * silence) // long enough for it to be told of again, if it were
	if n := tellings(); n != 1 {
		t.Errorf("told of %d times:\n%s", n, m.Log())
	}
	_, stderr, err := try(t, "sync", at)
	saysErrno(t, stderr, err, syscall.ENOENT)
	told(t, m, "team/silence:v1", img.layer, "is not here yet")
	wantState(t, m, r.Host, "team/silence", "v1", stage.Writing, img.layer)
	if err := readErr(folder + "/digest"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("digest of an unfinished image: %v", err)
	}
	run(t, "touch", at+"/more")
	run(t, "cp", img.blob(img.config), at+"/more")
	waitFor(t, "word of it after more was written", func() bool { return tellings() == 2 })

	run(t, "cp", img.blob(img.layer), at+"/blobs/sha256/")
	run(t, "sync", at)
	if got := strings.TrimSpace(run(t, "cat", folder+"/digest")); got != img.digest {
		t.Errorf("digest is %s, not %s", got, img.digest)
	}
	img.pulls(t, r.Host+"/team/silence:v1")
}

// badContent are contents that can't be what their names say, by the file of the layout.
func badContent(t *testing.T, img, other *pushed) map[string]struct{ name, content string } {
	t.Helper()
	content := func(path string) string {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	index := func(entries ...string) string {
		return `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` + strings.Join(entries, ",") + "]}"
	}
	entry := func(mediaType string, p *pushed) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, p.digest, len(content(p.blob(p.manifest))))
	}
	const manifest = "application/vnd.oci.image.manifest.v1+json"
	layer := "blobs/sha256/" + img.layer
	return map[string]struct{ name, content string }{
		"another blob":          {layer, content(img.blob(img.config))},
		"half a blob":           {layer, content(img.blob(img.layer))[:500]},
		"one byte too many":     {layer, content(img.blob(img.layer)) + "\n"},
		"another manifest":      {"blobs/sha256/" + img.manifest, content(other.blob(other.manifest))},
		"index of no JSON":      {"index.json", "this is no JSON"},
		"half an index":         {"index.json", content(img.dir + "/index.json")[:60]},
		"a manifest for index":  {"index.json", content(img.blob(img.manifest))},
		"impossible media type": {"index.json", index(entry("text/html", img))},
		"two unnamed images":    {"index.json", index(entry(manifest, img), entry(manifest, other))},
		"no digest":             {"index.json", index(strings.ReplaceAll(entry(manifest, img), "sha256:", "sha256:../"))},
	}
}

// TestBadContent: what can't be what its name says is EINVAL when it is closed. Nothing is pushed, the tag stays, and the reason is
// there to read.
func TestBadContent(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	m := mounted.New(t, mounted.Options{})
	old, img, other := newPushed(t, "old", 1<<10), newPushed(t, "bad", 1<<10), newPushed(t, "other", 1<<10)
	for name, bad := range badContent(t, img, other) {
		t.Run(name, func(t *testing.T) {
			repository := "bad/" + strings.ToLower(strings.ReplaceAll(name, " ", "-"))
			folder := m.At(proxy.Host, repository, "tags/v1")
			old.mustPush(t, folder, m.Log)
			proxy.Reset()
			at := folder + "/oci-layout/"
			run(t, "cp", img.blob(img.manifest), other.blob(other.manifest), at+"blobs/sha256/") // or nobody could tell that they are two
			file := filepath.Join(t.TempDir(), "bad")
			if err := os.WriteFile(file, []byte(bad.content), 0o644); err != nil {
				t.Fatal(err)
			}
			_, stderr, err := try(t, "cp", file, at+bad.name)
			saysErrno(t, stderr, err, syscall.EINVAL)
			wantState(t, m, proxy.Host, repository, "v1", stage.Broken, filepath.Base(bad.name))
			told(t, m, repository)
			if n := proxy.Count(writes); n > 0 {
				t.Errorf("pushed: %v", proxy.Sent(writes))
			}
			old.pulls(t, proxy.Host+"/"+repository+":v1")

			run(t, "rm", "-f", at+"blobs/sha256/"+other.manifest)
			img.mustPush(t, folder, m.Log)
			img.pulls(t, proxy.Host+"/"+repository+":v1")
			wantState(t, m, proxy.Host, repository, "v1", stage.Pushed)
		})
	}
}

// TestMended: content that is put right in its place completes the image, and pushes it.
func TestMended(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	img := newPushed(t, "mended", 1<<20)
	for name, c := range map[string]struct{ spoil, mend string }{
		"one byte": {
			`cp "$1" "$3" && printf X | dd of="$3" bs=1 seek=1000 conv=notrunc status=none && cp "$3" "$2"`,
			`dd if="$1" of="$2" bs=1 skip=1000 seek=1000 count=1 conv=notrunc status=none`,
		},
		"too long":  {`{ cat "$1"; echo more; } > "$3" && cp "$3" "$2"`, `truncate -s "$(stat -c %s "$1")" "$2"`},
		"too short": {`head -c 1000 "$1" > "$2"`, `tail -c +1001 "$1" >> "$2"`},
		"all of it": {`head -c 1000 "$1" > "$2"`, `cp "$1" "$2"`},
		"renamed":   {`head -c 1000 "$1" > "$2"`, `cp "$1" "$2.new" && mv "$2.new" "$2"`},
		"removed":   {`head -c 1000 "$1" > "$2"`, `rm "$2" && cp "$1" "$2"`},
	} {
		t.Run(name, func(t *testing.T) {
			repository := "mended/" + strings.ReplaceAll(name, " ", "-")
			at := img.begun(t, m.At(r.Host, repository, "tags/v1"))
			args := []string{"sh", img.blob(img.layer), at + "/blobs/sha256/" + img.layer, t.TempDir() + "/spoilt"}
			_, stderr, err := try(t, "sh", append([]string{"-c", c.spoil}, args...)...)
			saysErrno(t, stderr, err, syscall.EINVAL)
			wantState(t, m, r.Host, repository, "v1", stage.Broken, img.layer)
			if _, stderr, err := try(t, "sh", append([]string{"-c", c.mend}, args...)...); err != nil {
				t.Errorf("%v\n%s%s", err, stderr, m.Log())
			}
			img.pulls(t, r.Host+"/"+repository+":v1")
			wantState(t, m, r.Host, repository, "v1", stage.Pushed)
		})
	}
}

// TestFlushIsNotTheEnd: shells close a file's copies before anything is in it, and when half of it is.
func TestFlushIsNotTheEnd(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{})
	img := newPushed(t, "flush", 1<<20)
	for i, command := range []string{
		`cat "$1" > "$2"`,
		`: > "$2"; cat "$1" > "$2"`,
		`{ head -c 70000 "$1"; tail -c +70001 "$1"; } > "$2"`,
		`head -c 70000 "$1" > "$2"; tail -c +70001 "$1" >> "$2"`,
		`exec 3> "$2"; head -c 70000 "$1" >&3; sleep 0; tail -c +70001 "$1" >&3; exec 3>&-`,
	} {
		repository := fmt.Sprint("flush/r", i)
		at := img.begun(t, m.At(r.Host, repository, "tags/v1"))
		if _, stderr, err := try(t, "sh", "-c", command, "sh", img.blob(img.layer), at+"/blobs/sha256/"+img.layer); err != nil {
			t.Errorf("%s: %v\n%s%s", command, err, stderr, m.Log())
		}
		img.pulls(t, r.Host+"/"+repository+":v1")
		wantState(t, m, r.Host, repository, "v1", stage.Pushed)
	}
}

// TestSignalsThatMeanNothing: a writer in a push is sent signals that are not meant to end it, and the push goes through.
func TestSignalsThatMeanNothing(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	m := mounted.New(t, mounted.Options{})
	img := newPushed(t, "signals", 1<<10)
	layer, err := os.ReadFile(img.blob(img.layer))
	if err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal, 100)
	signal.Notify(signals, unix.SIGWINCH, unix.SIGCHLD, unix.SIGURG) // the kernel drops what nobody handles
	defer signal.Stop(signals)
	for _, sig := range []syscall.Signal{unix.SIGURG, unix.SIGWINCH, unix.SIGCHLD} {
		repository := "signals/" + strings.ToLower(unix.SignalName(sig))
		at := img.begun(t, m.At(proxy.Host, repository, "tags/v1"))
		proxy.Reset()
		answer := make(chan struct{})
		proxy.Fault(1, manifests, func(e *registries.Exchange) (*http.Response, error) {
			<-answer
			return e.Send()
		})
		tid, ended := make(chan int, 1), make(chan error, 1)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tid <- unix.Gettid()
			ended <- os.WriteFile(at+"/blobs/sha256/"+img.layer, layer, 0o644)
		}()
		thread := <-tid
		waitFor(t, "the push", func() bool { return proxy.Count(manifests) > 0 })
		for range 10 {
			if err := unix.Tgkill(os.Getpid(), thread, sig); err != nil {
				t.Error(err)
			}
			time.Sleep(20 * time.Millisecond) // altogether the daemon has looked at the thread a few times
		}
		close(answer)
		if err := <-ended; err != nil {
			t.Errorf("%s: %v\n%s", unix.SignalName(sig), err, m.Log())
		}
		img.pulls(t, proxy.Host+"/"+repository+":v1")
	}
}

// pushing tells whether somebody waits for a push.
func pushing(m *mounted.Mount, host, repository, tag string) bool {
	s, ok := m.Stage.Status(stage.Site{Repository: image.Repository{Host: host, Name: repository}, Tag: tag})
	return ok && s.State == stage.Pushing
}

// TestInterruptedPush: Ctrl-C ends a cp whose push stalls, wherever; the tag stays, and the same cp pushes when the registry is back.
func TestInterruptedPush(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	m := mounted.New(t, mounted.Options{Timeout: 3 * time.Second})
	old, img := newPushed(t, "old", 1<<10), newPushed(t, "interrupted", 1<<20)
	for name, match := range map[string]registries.Match{"posts": posts, "bytes": sends} {
		t.Run(name, func(t *testing.T) {
			proxy := registries.NewProxy(t, r)
			repository := "interrupted/" + name
			folder := m.At(proxy.Host, repository, "tags/v1")
			old.mustPush(t, folder, m.Log)
			proxy.Reset()
			proxy.Fault(-1, match, registries.Hang)
			cmd := exec.Command("cp", "-r", img.dir+"/.", folder+"/oci-layout")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the push", func() bool { return pushing(m, proxy.Host, repository, "v1") })
			begin := time.Now()
			cmd.Process.Signal(syscall.SIGINT)
			if err := cmd.Wait(); err == nil {
				t.Error("cp was interrupted, and succeeded")
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("it took %v to end", took)
			}
			old.pulls(t, r.Host+"/"+repository+":v1")
			proxy.Reset()
			img.mustPush(t, folder, m.Log)
			img.pulls(t, r.Host+"/"+repository+":v1")
		})
	}
}

// TestDiscardedPush: what is thrown away while it is pushed is not pushed, whoever waits for that is told so at once, and the same
// can be written anew.
func TestDiscardedPush(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	proxy := registries.NewProxy(t, r)
	m := mounted.New(t, mounted.Options{})
	img := newPushed(t, "discarded", 1<<20)
	folder := m.At(proxy.Host, "team/discarded/tags/v1")
	answer := make(chan struct{})
	proxy.Fault(-1, sends, func(e *registries.Exchange) (*http.Response, error) {
		<-answer
		return e.Send()
	})
	ended := make(chan error, 1)
	go func() {
		_, err := img.cpTo(t, folder)
		ended <- err
	}()
	waitFor(t, "the push", func() bool { return proxy.Count(sends) > 0 && pushing(m, proxy.Host, "team/discarded", "v1") })
	begin := time.Now()
	run(t, "rm", m.At(".regfs/pushes", proxy.Host, "team/discarded/v1.json"))
	if err := <-ended; err == nil {
		t.Errorf("it was discarded, and cp succeeded\n%s", m.Log())
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %v to end", took)
	}
	close(answer)
	if got := tagged(t, r, "team/discarded", "v1"); got != "" {
		t.Errorf("what was discarded is in the registry: %s", got)
	}
	img.mustPush(t, folder, m.Log)
	img.pulls(t, r.Host+"/team/discarded:v1")
}
