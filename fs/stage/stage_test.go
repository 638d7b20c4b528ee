package stage_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/tests/registries"
)

// TestWhichImage is DESIGN.md's rule of which image of an index.json is meant for a tag. The tag is the image "old" before, if that
// is listed too.
func TestWhichImage(t *testing.T) {
	old, one, two := newImage("old", nil), newImage("one", nil), newImage("two", nil)
	signature := newImage("signature", &image.Descriptor{MediaType: one.d.MediaType, Digest: one.d.Digest, Size: one.d.Size})
	list := files{blob: map[string][]byte{}}
	list.d = list.put(v1.MediaTypeImageIndex, marshal(v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []image.Descriptor{signature.d}}))
	listed := named(list.d, "sha256-"+one.d.Digest.Encoded())
	for name, test := range map[string]struct {
		entries   []image.Descriptor
		want      digest.Digest
		err       error
		state     stage.State
		referrers int
	}{
		"nothing":                         {nil, "", nil, stage.Writing, 0},
		"the only one":                    {[]image.Descriptor{one.d}, one.d.Digest, nil, stage.Pushed, 0},
		"the only one, of another name":   {[]image.Descriptor{named(one.d, "x")}, one.d.Digest, nil, stage.Pushed, 0},
		"the one of its name":             {[]image.Descriptor{named(one.d, tag), named(two.d, "v2")}, one.d.Digest, nil, stage.Pushed, 0},
		"the one of its name, last":       {[]image.Descriptor{two.d, named(one.d, tag)}, one.d.Digest, nil, stage.Pushed, 0},
		"the last of its name":            {[]image.Descriptor{named(two.d, tag), named(one.d, tag)}, one.d.Digest, nil, stage.Pushed, 0},
		"one of two":                      {[]image.Descriptor{one.d, two.d}, "", image.ErrRefused, stage.Broken, 0},
		"two of other names":              {[]image.Descriptor{named(one.d, "a"), named(two.d, "b")}, "", image.ErrRefused, stage.Broken, 0},
		"the new one":                     {[]image.Descriptor{named(old.d, tag), one.d}, one.d.Digest, nil, stage.Pushed, 0},
		"the same":                        {[]image.Descriptor{named(old.d, tag)}, old.d.Digest, nil, stage.Pushed, 0},
		"what refers to it goes with it":  {[]image.Descriptor{signature.d, one.d}, one.d.Digest, nil, stage.Pushed, 1},
		"a list of what refers to it":     {[]image.Descriptor{listed, one.d}, one.d.Digest, nil, stage.Pushed, 1},
		"a list, and its name":            {[]image.Descriptor{named(one.d, tag), listed}, one.d.Digest, nil, stage.Pushed, 1},
		"a list alone":                    {[]image.Descriptor{listed}, "", nil, stage.Writing, 0},
		"a config in the place of images": {[]image.Descriptor{describe(v1.MediaTypeImageConfig, []byte("{}"))}, "", image.ErrRefused, stage.Broken, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if len(test.entries) > 0 && test.entries[0].Digest == old.d.Digest {
				b.addAll(old)
				if err := b.index(old.d); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range []files{one, two, signature, list} {
				b.addAll(f)
			}
			if err := b.index(test.entries...); !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("the close of index.json says %v, want %v", err, test.err)
			}
			b.wantTag(tag, test.want)
			b.wantState(test.state)
			b.wantReferrers(one.d, test.referrers)
		})
	}
}

func (b *bench) wantReferrers(d image.Descriptor, want int) {
	b.Helper()
	n := 0
	for _, err := range b.src.Referrers(b.Context(), d, "") {
		if err != nil {
			b.Error(err)
		}
		n++
	}
	if n != want {
		b.Errorf("%d referrers, want %d", n, want)
	}
}

// TestAnyOrder: whatever comes last pushes the image, once.
func TestAnyOrder(t *testing.T) {
	one := newImage("one", nil)
	for seed := range uint64(20) {
		b := newBench(t)
		var steps []func() error
		for hex, content := range one.blob {
			steps = append(steps, func() error { return b.write("blobs/sha256/"+hex, content) })
		}
		steps = append(steps, func() error { return b.index(one.d) })
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
		for i, step := range steps {
			b.wantTag(tag, "")
			if err := step(); err != nil {
				t.Errorf("seed %d, step %d: %v", seed, i, err)
			}
		}
		b.wantTag(tag, one.d.Digest)
		if n := b.proxy.Count(registries.Method(http.MethodPut), registries.Path("/manifests/")); n != 1 {
			t.Errorf("seed %d: %d manifests were put", seed, n)
		}
	}
}

// TestNotTwice: an index.json that was acted upon moves the tag no second time, when somebody else has moved it since.
func TestNotTwice(t *testing.T) {
	b := newBench(t)
	one, two := newImage("one", nil), newImage("two", nil)
	other := newImage("other", nil)
	b.addAll(one)
	// The entry that nobody understands keeps index.json.
	b.addAll(other)
	if err := b.index(named(one.d, tag), other.d); err != nil {
		t.Fatal(err)
	}
	b.wantTag(tag, one.d.Digest)
	elsewhere := b.site
	b.site.Tag = "elsewhere"
	b.addAll(two)
	if err := b.index(two.d); err != nil {
		t.Fatal(err)
	}
	b.site = elsewhere
	_, raw, err := b.src.Manifest(b.Context(), "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	host, _ := b.host("")
	sink, err := host.Sink(b.Context(), b.site.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Tag(b.Context(), two.d, raw, tag); err != nil {
		t.Fatal(err)
	}
	b.add(v1.MediaTypeImageLayer, []byte("one more blob"))
	b.wantTag(tag, two.d.Digest)
}

// TestFoundAgain: what was staged is there after the daemon was killed, with its content, its folders, what is hidden and what refers
// elsewhere; and finishing it pushes it.
func TestFoundAgain(t *testing.T) {
	b := newBench(t)
	one := newImage("one", nil)
	l := b.staging()
	for _, at := range []string{".", "blobs", "blobs/sha256", "tmp"} {
		if err := l.Mkdir(at); err != nil {
			t.Fatal(err)
		}
	}
	b.addAll(one)
	if err := b.write("tmp/x", []byte("half a file")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Unlink("gone", true), l.Rename("tmp", "temp", false, false)); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, l)
	torn(t, b.dir)
	b.store.Close()
	b.open()
	l = b.store.Find(b.site)
	if l == nil {
		t.Fatal("nothing is found")
	}
	if diff := cmp.Diff(before, snapshot(t, l)); diff != "" {
		t.Errorf("after the restart (-before +after):\n%s", diff)
	}
	if err := b.index(one.d); err != nil {
		t.Fatal(err)
	}
	b.wantTag(tag, one.d.Digest)
}

// torn writes half a line to the journals, as a full disk leaves it.
func torn(t *testing.T, dir string) {
	t.Helper()
	journals, err := filepath.Glob(filepath.Join(dir, "*", "names"))
	if err != nil || len(journals) != 1 {
		t.Fatal(journals, err)
	}
	f, err := os.OpenFile(journals[0], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("\n{\"path\":\"temp/x"); err != nil {
		t.Fatal(err)
	}
}

// snapshot is all that is staged, by path.
func snapshot(t *testing.T, l *stage.Staging) map[string]string {
	t.Helper()
	all := map[string]string{}
	var walk func(folder string)
	walk = func(folder string) {
		for _, e := range l.List(folder) {
			at := filepath.Join(folder, e.Name)
			all[at] = string(e.Kind)
			if e.File != nil {
				raw := make([]byte, e.File.Size())
				if n, err := e.File.ReadAt(t.Context(), raw, 0); err != nil && err != io.EOF || n != len(raw) {
					t.Errorf("%s: %d bytes, %v", at, n, err)
				}
				all[at] += " " + string(raw)
			}
			if e.Kind == stage.Folder {
				walk(at)
			}
		}
	}
	walk(".")
	return all
}

// TestDiscard throws away what is staged, and what is remembered of what was pushed.
func TestDiscard(t *testing.T) {
	b := newBench(t)
	if err := b.store.Discard(b.site); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("discard of nothing: %v", err)
	}
	b.add(v1.MediaTypeImageLayer, []byte("a layer"))
	if err := b.store.Discard(b.site); err != nil {
		t.Fatal(err)
	}
	if folders, err := os.ReadDir(b.dir); err != nil || len(folders) != 1 {
		t.Errorf("left on the disk: %v, %v", folders, err)
	}
	if all := b.store.Statuses(); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}

// TestOneStoreAtATime: two mounts can't have one folder.
func TestOneStoreAtATime(t *testing.T) {
	b := newBench(t)
	if _, err := stage.Open(stage.Options{Dir: b.dir}); err == nil {
		t.Error("two stores have one folder")
	}
}

// TestRules are those of any file system.
func TestRules(t *testing.T) {
	b := newBench(t)
	l := b.staging()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.Mkdir("a"))
	must(l.Mkdir("a/b"))
	_, err := l.Create("f", 0o644)
	must(err)
	for _, c := range []struct {
		what      string
		got, want error
	}{
		{"mkdir", l.Mkdir("a"), os.ErrExist},
		{"rmdir", l.Rmdir("a", false), unix.ENOTEMPTY},
		{"unlink", l.Unlink("a", false), unix.EISDIR},
		{"rename of nothing", l.Rename("none", "x", false, false), image.ErrNotFound},
		{"rename into itself", l.Rename("a", "a/b/c", false, false), unix.EINVAL},
		{"rename of a folder over a file", l.Rename("a", "f", false, false), unix.ENOTDIR},
		{"rename of a file over a folder", l.Rename("f", "a/b", false, false), unix.EISDIR},
		{"exclusive rename", l.Rename("f", "a", false, true), os.ErrExist},
		{"rename over what is not empty", l.Rename("a/b", "a", false, false), unix.ENOTEMPTY},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
}

// TestOtherImages: of a layout with several images, those for other tags are not kept when the one that is meant is pushed.
func TestOtherImages(t *testing.T) {
	b := newBench(t)
	one, two := newImage("one", nil), newImage("two", nil)
	b.addAll(one)
	b.addAll(two)
	if err := b.index(named(one.d, tag), named(two.d, "v2")); err != nil {
		t.Fatal(err)
	}
	b.wantTag(tag, one.d.Digest)
	b.wantTag("v2", "")
	if l := b.store.Find(b.site); l != nil {
		t.Errorf("left: %v", snapshot(t, l))
	}
}
