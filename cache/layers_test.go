package cache

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/regfs/regfs/image"
)

// temp is a temporary file of a cache with some content.
func temp(t *testing.T, c *Cache, content []byte) *os.File {
	t.Helper()
	file, err := c.Temp()
	if err == nil {
		_, err = file.Write(content)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func putIndex(t *testing.T, c *Cache, name string, content []byte) {
	t.Helper()
	if err := c.PutIndex(name, temp(t, c, content)); err != nil {
		t.Fatal(err)
	}
}

func wantIndex(t *testing.T, c *Cache, name string, content []byte) {
	t.Helper()
	file, err := c.OpenIndex(name)
	if err != nil {
		t.Error(err)
		return
	}
	wantRead(t, file, content)
}

// spans opens a file of spans and writes to it.
func spans(t *testing.T, c *Cache, name string, content []byte, off int64) *os.File {
	t.Helper()
	file, err := c.Spans(name)
	if err == nil {
		_, err = file.WriteAt(content, off)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func TestIndexes(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir()})
	_, err := c.OpenIndex("ab-1")
	wantErr(t, "an index that nobody put", err, fs.ErrNotExist)
	putIndex(t, c, "ab-1", []byte("one"))
	wantIndex(t, c, "ab-1", []byte("one"))
	reader, err := c.OpenIndex("ab-1")
	if err != nil {
		t.Fatal(err)
	}
	putIndex(t, c, "ab-1", random(1, 100_000))
	wantIndex(t, c, "ab-1", random(1, 100_000))
	wantRead(t, reader, []byte("one"))
	putIndex(t, c, "ab-1", nil)
	wantIndex(t, c, "ab-1", []byte{})
	want(t, "left in tmp", files(t, c, "tmp"), []string(nil))
}

// TestPutIndexIsACopy: what becomes of the file later is nobody's business.
func TestPutIndexIsACopy(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir()})
	file := temp(t, c, []byte("as it was"))
	for range 2 {
		if err := c.PutIndex("a", file); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := file.WriteAt([]byte("later"), 0); err != nil {
		t.Fatal(err)
	}
	wantIndex(t, c, "a", []byte("as it was"))
	file.Close()
	wantErr(t, "a closed file", c.PutIndex("b", file), os.ErrClosed)
	_, err := c.OpenIndex("b")
	wantErr(t, "what could not be put", err, fs.ErrNotExist)
}

func TestLayerNames(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir()})
	for _, name := range []string{"", ".", "..", "../a", "a/b", "a.b", "A", "a b", "a\x00", "ä", strings.Repeat("a", 201)} {
		_, err := c.OpenIndex(name)
		wantErr(t, "open "+name, err, image.ErrInvalid)
		wantErr(t, "put "+name, c.PutIndex(name, nil), image.ErrInvalid)
		_, err = c.Spans(name)
		wantErr(t, "spans "+name, err, image.ErrInvalid)
	}
	putIndex(t, c, strings.Repeat("0a-z", 50), []byte("x"))
}

func TestSpansAreKept(t *testing.T) {
	dir := t.TempDir()
	c, other := open(t, Options{Dir: dir}), open(t, Options{Dir: dir})
	file := spans(t, c, "a", []byte("far away"), 1<<40)
	again, err := other.Spans("a")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	p := make([]byte, 8)
	if _, err := again.ReadAt(p, 1<<40); err != nil || string(p) != "far away" {
		t.Errorf("%q, %v", p, err)
	}
	usage, err := Look(dir)
	if err != nil || usage.Spans.Files != 1 || usage.Spans.Bytes == 0 || usage.Spans.Bytes > 1<<20 {
		t.Errorf("%+v, %v: a hole is nothing", usage.Spans, err)
	}
	file.Close()
}

func TestTempHasNoName(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir()})
	file := temp(t, c, []byte("x"))
	want(t, "names", files(t, c, "tmp"), []string(nil))
	if _, err := file.ReadAt(make([]byte, 1), 0); err != nil {
		t.Error(err)
	}
}

// TestClearedFolder: somebody removed the whole directory under a cache that goes on.
func TestClearedFolder(t *testing.T) {
	dir := t.TempDir() + "/cache"
	c := open(t, Options{Dir: dir})
	putIndex(t, c, "a", []byte("x"))
	old := spans(t, c, "a", []byte("y"), 0)
	for name, use := range map[string]func() error{
		"open":  func() error { _, err := c.OpenIndex("a"); return err },
		"put":   func() error { return c.PutIndex("a", old) },
		"spans": func() error { f, err := c.Spans("a"); f.Close(); return err },
		"temp":  func() error { f, err := c.Temp(); f.Close(); return err },
		"prune": func() error { _, _, err := Prune(dir, 0, 0); return err },
	} {
		for os.RemoveAll(dir) != nil { // the cache is just making room
		}
		if err := use(); (err != nil) != (name == "open" || name == "prune") || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := old.ReadAt(make([]byte, 1), 0); err != nil {
		t.Error(err)
	}
}

// TestGrowthIsNoticed, though nobody tells of it, and the directory stays under its limit even while the spans are in use.
func TestGrowthIsNoticed(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir, Size: 4 << 20})
	spans(t, c, "a", random(2, 3<<20), 0).Close()
	if used := c.Stats().BytesOnDisk; used > 0 {
		t.Errorf("%d bytes are known of before anybody looked", used)
	}
	file := spans(t, c, "a", random(3, 6<<20), 3<<20)
	spans(t, c, "a", nil, 0).Close()
	c.Close() // which waits until there is room
	usage, err := Look(dir)
	if err != nil || usage.Total().Bytes > 4<<20 {
		t.Errorf("%+v, %v", usage, err)
	}
	if _, err := file.WriteAt([]byte("on"), 0); err != nil || !samePath(file, dir+"/layers/spans/a") {
		t.Errorf("spans in use were removed, and not cut: %v", err)
	}
}

// TestManySpanFiles: no more is remembered of them than has its use.
func TestManySpanFiles(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir()})
	for i := range maxSpanFiles + 10 {
		file, err := c.Spans(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	if n := len(c.spans.bytes); n > maxSpanFiles {
		t.Errorf("%d files are remembered", n)
	}
}

// TestOrderOfEviction: content by its age, indexes sixteen times as late, then spans in use, records last.
func TestOrderOfEviction(t *testing.T) {
	p, dir := newPlace(), t.TempDir()
	c := open(t, Options{Dir: dir})
	blobs := aged(t, c, p, 2) // two hours and one hour old
	for name, hours := range map[string]int{"old": 20, "new": 10, "used": 1000} {
		putIndex(t, c, name, random(1, 1<<20))
		age(t, dir+"/layers/index/"+name, time.Duration(hours)*time.Hour)
	}
	spans(t, c, "idle", random(1, 1<<20), 0).Close()
	age(t, dir+"/layers/spans/idle", 90*time.Minute)
	inUse := spans(t, c, "used", random(1, 1<<20), 0)
	age(t, inUse.Name(), 1000*time.Hour)
	index, err := c.OpenIndex("used")
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	record := c.records.path(key{"host", "repo", "tags", "v1"})
	if err := c.records.put(key{"host", "repo", "tags", "v1"}, blobs[0], time.Now()); err != nil {
		t.Fatal(err)
	}
	age(t, record, 1000*time.Hour)

	is := func(path string) func() bool {
		return func() bool { info, err := os.Stat(path); return err == nil && diskUsage(info) > 0 }
	}
	order := []struct {
		what string
		has  func() bool
	}{
		{"the older blob", is(c.blobPath(blobs[0].Digest))},
		{"idle spans", is(dir + "/layers/spans/idle")},
		{"the older index", is(dir + "/layers/index/old")},
		{"the newer blob", is(c.blobPath(blobs[1].Digest))},
		{"the newer index", is(dir + "/layers/index/new")},
		{"spans in use", is(inUse.Name())},
		{"the record", is(record)},
		{"the index in use", is(dir + "/layers/index/used")},
	}
	for gone := range order {
		for i, o := range order {
			if o.has() != (i >= gone) {
				t.Errorf("with %d to go: %s is there: %v", gone, o.what, o.has())
			}
		}
		entries, err := c.space.list()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.space.tidy(0, total(entries)-1); err != nil {
			t.Fatal(err)
		}
	}
	wantIndex(t, c, "used", random(1, 1<<20))
}

// layerChild runs this test binary as another process that uses the index and the spans of a layer, and says "uses" when it does.
func layerChild(t *testing.T, dir, name string) (*exec.Cmd, *bufio.Scanner, io.Closer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLayerChild$")
	cmd.Env = append(os.Environ(), "CACHE_LAYER_CHILD="+dir+" "+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
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
	return cmd, bufio.NewScanner(out), in
}

// TestLayerChild is no test but the other process of the one below.
func TestLayerChild(t *testing.T) {
	args := strings.Fields(os.Getenv("CACHE_LAYER_CHILD"))
	if len(args) != 2 {
		t.Skip("only run by another test")
	}
	c := open(t, Options{Dir: args[0]})
	index, err := c.OpenIndex(args[1])
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	file := spans(t, c, args[1], random(7, 1<<20), 0)
	fmt.Println("uses")
	io.Copy(io.Discard, os.Stdin)
	got := make([]byte, 1<<20)
	_, err = file.ReadAt(got, 0)
	fmt.Println("still", err, bytes.Equal(got, random(7, 1<<20)))
}

func TestProcessesShareLayers(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	putIndex(t, c, "a", random(1, 1<<20))
	_, out, in := layerChild(t, dir, "a")
	line(t, out, "uses")
	_, busy, err := Prune(dir, math.MaxInt64, 0)
	if err != nil || busy.Indexes.Files != 1 || busy.Spans.Files != 1 || busy.Total().Files != 2 {
		t.Errorf("busy %+v, %v", busy, err)
	}
	file := spans(t, c, "a", nil, 0)
	got := make([]byte, 1<<20)
	if _, err := file.ReadAt(got, 0); err != nil || !bytes.Equal(got, random(7, 1<<20)) {
		t.Errorf("what the other process wrote: %v", err)
	}
	file.Close()
	in.Close()
	line(t, out, "still <nil> true")
}
