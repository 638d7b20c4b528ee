package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func wantContent(t *testing.T, c *Cache, src image.Source, d image.Descriptor, content []byte) {
	t.Helper()
	got, err := fetch(t, c, src, d)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v; want %d bytes that are right", len(got), err, len(content))
	}
}

// files lists all regular files below a folder of the cache.
func files(t *testing.T, c *Cache, folder string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(filepath.Join(c.dir, folder), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestReadersShareOneFetch(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	content := random(1, 5<<20+13)
	d := p.add(content)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { wantContent(t, c, p, d, content) })
	}
	wg.Wait()
	wantContent(t, c, p, d, content)
	want(t, "requests", p.take(), []string{"range 0"})
	want(t, "partial files", files(t, c, "partial"), []string(nil))
	b, err := c.Open(t.Context(), p, d)
	if err != nil || b.File() == nil {
		t.Fatalf("a stored blob: %v, %v; want a file", b, err)
	}
	b.Close()
}

func TestOddSizes(t *testing.T) {
	for _, size := range []int{0, 1, 2, chunk, chunk + 1} {
		p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
		content := random(2, size)
		d := p.add(content)
		wantContent(t, c, p, d, content)
		wantContent(t, c, p, d, content)
	}
}

func TestUnknownSizeIsAskedFor(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	content := random(2, 100)
	d := p.add(content)
	d.Size = -1
	b, err := c.Open(t.Context(), p, d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	want(t, "size", b.Size(), int64(100))
	got, err := readAll(t.Context(), b)
	want(t, "error", err, nil)
	want(t, "content", got, content)
}

func TestSHA512(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	content := random(2, 100)
	d := p.add(content)
	d.Digest = digest.SHA512.FromBytes(content)
	p.blobs[d.Digest] = content
	wantContent(t, c, p, d, content)
	want(t, "stored", files(t, c, "blobs"), []string{d.Digest.Encoded()})
}

func TestImpossibleDigests(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	for _, dgst := range []digest.Digest{"", "sha256:", "sha256:../../x", "md5:d41d8cd98f00b204e9800998ecf8427e", "../sha256:00"} {
		_, err := c.Open(t.Context(), p, image.Descriptor{Digest: dgst})
		wantErr(t, string(dgst), err, image.ErrInvalid)
	}
	want(t, "requests", p.take(), []string(nil))
}

// TestReadWhileFilling reads what is here while the rest is on its way, and not the last byte before the verdict.
func TestReadWhileFilling(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	content := random(3, 1000)
	d := p.add(content)
	rest, send := io.Pipe()
	p.body = func(content []byte, off int64) io.Reader { return io.MultiReader(bytes.NewReader(content[:500]), rest) }
	b, err := c.Open(t.Context(), p, d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	buf := make([]byte, 100)
	n, err := b.ReadAt(t.Context(), buf, 400)
	want(t, "first half", buf[:n], content[400:500])
	want(t, "error", err, nil)
	if b.File() != nil {
		t.Error("an unverified blob has a file")
	}
	go send.Write(content[500:])
	n, err = b.ReadAt(t.Context(), buf, 899)
	want(t, "all but the last byte", buf[:n], content[899:999])
	want(t, "error", err, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = b.ReadAt(ctx, buf, 900)
	wantErr(t, "the last byte before the end of the transfer", err, context.DeadlineExceeded)
	send.Close()
	n, err = b.ReadAt(t.Context(), buf, 950)
	want(t, "end", buf[:n], content[950:])
	wantErr(t, "end", err, io.EOF)
	if b.File() == nil {
		t.Error("a complete blob has no file")
	}
}

func TestCorruptContent(t *testing.T) {
	for name, body := range map[string]func([]byte, int64) io.Reader{
		"other bytes": func(content []byte, _ int64) io.Reader { return bytes.NewReader(random(9, len(content))) },
		"too short":   func(content []byte, _ int64) io.Reader { return bytes.NewReader(content[:len(content)-1]) },
		"too long": func(content []byte, _ int64) io.Reader {
			return bytes.NewReader(append(content[:len(content):len(content)], 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
			content := random(4, 3<<20)
			d := p.add(content)
			p.body = body
			got, err := fetch(t, c, p, d)
			wantErr(t, "read", err, image.ErrDigest)
			if len(got) >= len(content) {
				t.Error("the last byte came before the verdict")
			}
			c.waitIdle(t)
			want(t, "kept", append(files(t, c, "blobs"), files(t, c, "partial")...), []string(nil))
			p.body = nil
			wantContent(t, c, p, d, content)
		})
	}
}

// waitIdle waits until no transfer is under way.
func (c *Cache) waitIdle(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		c.mu.Lock()
		n := len(c.fills)
		c.mu.Unlock()
		if n == 0 {
			return
		}
	}
	t.Fatal("a transfer does not end")
}

func TestDropsGoOnWhereTheyStopped(t *testing.T) {
	for _, noRange := range []bool{false, true} {
		t.Run(fmt.Sprint("noRange=", noRange), func(t *testing.T) {
			p, dir := newPlace(), t.TempDir()
			p.noRange = noRange
			c := open(t, Options{Dir: dir})
			content := random(5, 3<<20)
			d := p.add(content)
			p.body = stopping(1<<20, fmt.Errorf("reset: %w", image.ErrUnavailable))
			_, err := fetch(t, c, p, d)
			wantErr(t, "a drop", err, image.ErrUnavailable)
			if !noRange {
				_, err = fetch(t, c, p, d)
				wantErr(t, "another drop", err, image.ErrUnavailable)
			}
			c.Close()
			p.body = nil
			p.body = stopping(len(content), io.EOF)
			c = open(t, Options{Dir: dir})
			wantContent(t, c, p, d, content)
			calls := []string{"range 0", "range 1048576", "range 2097152"}
			if noRange {
				calls = []string{"range 0", "fetch"}
			}
			want(t, "requests", p.take(), calls)
		})
	}
}

func TestStallEndsInTime(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir(), Timeout: 100 * time.Millisecond})
	content := random(6, 1000)
	d := p.add(content)
	p.body = stopping(10, nil)
	start := time.Now()
	_, err := fetch(t, c, p, d)
	wantErr(t, "a stall", err, context.DeadlineExceeded)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("a stall took %v", took)
	}
	p.body = nil
	wantContent(t, c, p, d, content)
	want(t, "requests", p.take(), []string{"range 0", "range 10"})
}

func TestCancelOfOneReaderLeavesOthers(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	content := random(7, 1000)
	d := p.add(content)
	rest, send := io.Pipe()
	p.body = func([]byte, int64) io.Reader { return rest }
	ctx, cancel := context.WithCancel(t.Context())
	first, err := c.Open(ctx, p, d)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error)
	go func() {
		_, err := readAll(ctx, first)
		first.Close()
		gone <- err
	}()
	second, err := c.Open(t.Context(), p, d)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	cancel()
	wantErr(t, "the cancelled reader", <-gone, context.Canceled)
	go func() {
		send.Write(content)
		send.Close()
	}()
	got, err := readAll(t.Context(), second)
	want(t, "error", err, nil)
	want(t, "content", got, content)
	want(t, "requests", p.take(), []string{"range 0"})
}

func TestTransferEndsAfterItsLastReader(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	c.grace = 50 * time.Millisecond
	content := random(8, 1000)
	d := p.add(content)
	p.body = stopping(10, nil)
	for range 3 {
		b, err := c.Open(t.Context(), p, d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.ReadAt(t.Context(), make([]byte, 1), 0); err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	want(t, "requests of a loop", p.take(), []string{"range 0"})
	c.waitIdle(t)
	p.body = nil
	wantContent(t, c, p, d, content)
	want(t, "requests after it", p.take(), []string{"range 10"})
}

func TestErrorsReachReaders(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	d := p.add(random(8, 1000))
	delete(p.blobs, d.Digest)
	_, err := fetch(t, c, p, d)
	wantErr(t, "missing", err, image.ErrNotFound)
	p.fail(image.ErrDenied)
	_, err = fetch(t, c, p, d)
	wantErr(t, "denied", err, image.ErrDenied)
	c.Close()
	_, err = fetch(t, c, p, d)
	wantErr(t, "closed", err, os.ErrClosed)
}

// TestDamageIsFound damages stored files; what has the wrong size, and any manifest, is found out.
func TestDamageIsFound(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	content := random(8, 1000)
	d := p.add(content)
	wantContent(t, c, p, d, content)
	p.take()
	if err := os.Truncate(c.blobPath(d.Digest), 0); err != nil {
		t.Fatal(err)
	}
	wantContent(t, c, p, d, content)
	want(t, "requests", p.take(), []string{"range 0"})

	lie := d
	lie.Size = 999
	_, err := c.Open(t.Context(), p, lie)
	wantErr(t, "a descriptor with a wrong size", err, image.ErrDigest)
	wantContent(t, c, p, d, content)
	want(t, "requests", p.take(), []string(nil))
}

// TestOnePlaceDoesNotFailAnother has a reader join the transfer from a place that turns out to be away.
func TestOnePlaceDoesNotFailAnother(t *testing.T) {
	bad, good, c := newPlace(), newPlace(), open(t, Options{Dir: t.TempDir()})
	content := random(1, 1<<20)
	d := good.add(content)
	bad.add(content)
	rest, send := io.Pipe()
	bad.body = func([]byte, int64) io.Reader { return rest }
	first, err := c.Open(t.Context(), bad, d)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := c.Open(t.Context(), good, d)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	go send.CloseWithError(fmt.Errorf("no route: %w", image.ErrUnavailable))
	_, err = readAll(t.Context(), first)
	wantErr(t, "the reader of the place that is away", err, image.ErrUnavailable)
	got, err := readAll(t.Context(), second)
	want(t, "error", err, nil)
	if !bytes.Equal(got, content) {
		t.Errorf("read %d bytes that differ", len(got))
	}
	want(t, "requests", append(bad.take(), good.take()...), []string{"range 0", "range 0"})
}

func TestClearedDirectory(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: filepath.Join(t.TempDir(), "cache"), TTL: time.Hour})
	content := random(1, 1000)
	d := p.add(content)
	p.tag("v1", `{"a":1}`)
	wantContent(t, c, p, d, content)
	for i := range 2 {
		if err := os.Rename(c.dir, fmt.Sprint(c.dir, i)); err != nil {
			t.Fatal(err)
		}
		wantContent(t, c, p, d, content)
		readManifest(t, decorated(t, c, p), "v1", `{"a":1}`)
	}
}

// TestWrongSizesSpoilNothing has one transfer fail for its descriptor's size while others of the same digest succeed.
func TestWrongSizesSpoilNothing(t *testing.T) {
	p, c := newPlace(), open(t, Options{Dir: t.TempDir()})
	content := random(1, 1000)
	d := p.add(content)
	p.body = func(content []byte, off int64) io.Reader { return bytes.NewReader(content[off:]) }
	var wg sync.WaitGroup
	for _, size := range []int64{999, 1000, 1001, 1000} {
		wg.Go(func() {
			d := d
			if d.Size = size; size == 1000 {
				wantContent(t, c, p, d, content)
				return
			}
			_, err := fetch(t, c, p, d)
			wantErr(t, "a wrong size", err, image.ErrDigest)
		})
	}
	wg.Wait()
}
