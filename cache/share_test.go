package cache

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"context"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// web is a Source over plain HTTP, so that several processes can share one place and one count of requests.
type web struct {
	*place
	url string
}

func (w web) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// server serves content, and holds back all past the first n bytes of the first request until release is called. It
// tells each request's range.
func server(t *testing.T, content []byte, n int) (url string, release func(), ranges func() []string) {
	var mu sync.Mutex
	var asked []string
	held := make(chan struct{})
	release = sync.OnceFunc(func() { close(held) })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Header.Get("Range"))
		first := len(asked) == 1
		mu.Unlock()
		if !first {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content[:n])
		w.(http.Flusher).Flush()
		select {
		case <-held:
			w.Write(content[n:])
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(s.Close)
	t.Cleanup(release)
	return s.URL, release, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
}

// child runs this test binary as another process that fetches a blob, and says so line by line: "have N" when it has
// read N bytes, "done" when it has all.
func child(t *testing.T, dir, url string, d image.Descriptor) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), "CACHE_CHILD="+strings.Join([]string{dir, url, d.Digest.String(), fmt.Sprint(d.Size)}, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, bufio.NewScanner(out)
}

// TestChild is no test but the other process of those below.
func TestChild(t *testing.T) {
	args := strings.Fields(os.Getenv("CACHE_CHILD"))
	if len(args) != 4 {
		t.Skip("only run by other tests")
	}
	size, _ := strconv.ParseInt(args[3], 10, 64)
	c := open(t, Options{Dir: args[0]})
	b, err := c.Open(t.Context(), web{newPlace(), args[1]}, image.Descriptor{Digest: digest.Digest(args[2]), Size: size})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	n, err := b.ReadAt(t.Context(), make([]byte, 1000), 0)
	fmt.Println("have", n, err)
	_, err = readAll(t.Context(), b)
	fmt.Println("done", err)
	// The blob stays open until the other side says so.
	io.Copy(io.Discard, os.Stdin)
}

func line(t *testing.T, out *bufio.Scanner, want string) {
	t.Helper()
	if !out.Scan() || out.Text() != want {
		t.Fatalf("the other process says %q, want %q", out.Text(), want)
	}
}

func TestProcessesShareOneFetch(t *testing.T) {
	content, dir := random(1, 3<<20), t.TempDir()
	d := newPlace().add(content)
	url, release, ranges := server(t, content, 1<<20)
	_, first := child(t, dir, url, d)
	line(t, first, "have 1000 <nil>")
	_, second := child(t, dir, url, d)
	line(t, second, "have 1000 <nil>")
	c := open(t, Options{Dir: dir})
	b, err := c.Open(t.Context(), web{newPlace(), url}, d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.ReadAt(t.Context(), make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	release()
	line(t, first, "done <nil>")
	line(t, second, "done <nil>")
	got, err := readAll(t.Context(), b)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	want(t, "requests", ranges(), []string{fmt.Sprintf("bytes=0-%d", len(content)-1)})
}

func TestTakeOverFromAKilledProcess(t *testing.T) {
	content, dir := random(1, 3<<20), t.TempDir()
	d := newPlace().add(content)
	url, _, ranges := server(t, content, 1<<20)
	first, out := child(t, dir, url, d)
	line(t, out, "have 1000 <nil>")
	c := open(t, Options{Dir: dir})
	b, err := c.Open(t.Context(), web{newPlace(), url}, d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	buf := make([]byte, 1<<20)
	if _, err := b.ReadAt(t.Context(), buf, 0); err != nil || !bytes.Equal(buf, content[:1<<20]) {
		t.Fatalf("what the other process fetched: %v", err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(t.Context(), b)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	want(t, "requests", ranges(), []string{
		fmt.Sprintf("bytes=0-%d", len(content)-1), fmt.Sprintf("bytes=%d-%d", 1<<20, len(content)-1),
	})
}

// TestCachesShareOneFetch is as with processes, where the first of two caches finds the content corrupt: the second's
// readers were given bytes of it, so they must not see the end of what is fetched next.
func TestCachesShareOneFetch(t *testing.T) {
	p, dir := newPlace(), t.TempDir()
	content := random(1, 1<<20)
	d := p.add(content)
	rest, send := io.Pipe()
	p.body = func([]byte, int64) io.Reader { return rest }
	one, two := open(t, Options{Dir: dir}), open(t, Options{Dir: dir})
	first, err := one.Open(t.Context(), p, d)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	go first.ReadAt(t.Context(), make([]byte, 1), 0) // a transfer begins with the first read
	bad := random(2, len(content))
	send.Write(bad[:1000])
	first.ReadAt(t.Context(), make([]byte, 1000), 0)
	second, err := two.Open(t.Context(), p, d)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := second.ReadAt(t.Context(), make([]byte, 1000), 0); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.body = nil
	p.mu.Unlock()
	send.Write(bad[1000:])
	send.Close()
	_, err = readAll(t.Context(), first)
	wantErr(t, "the first", err, image.ErrDigest)
	if _, err = readAll(t.Context(), second); err == nil {
		t.Error("the second vouches for bytes that were thrown away")
	}
	wantContent(t, two, p, d, content)
}

func TestCloseEndsTransfers(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	d := p.add(random(1, 1000))
	p.body = stopping(10, nil)
	b, err := c.Open(t.Context(), p, d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ended := make(chan error)
	go func() {
		_, err := readAll(t.Context(), b)
		ended <- err
	}()
	c.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("a reader of a closed cache: %v", err)
	}
}
