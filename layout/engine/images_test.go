package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// saved is an image as an engine gives it.
type saved struct {
	id     digest.Digest
	config []byte
	layer  []byte
	tar    []byte
}

func save(t *testing.T, text string) saved {
	t.Helper()
	s := saved{layer: layer(t, "file", 0o644, []byte(text))}
	var err error
	s.config, err = json.Marshal(v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(s.layer)}},
	})
	must(t, err)
	s.id = digest.FromBytes(s.config)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	index := fmt.Sprintf(`[{"Config":"%s.json","RepoTags":null,"Layers":["x/layer.tar"]}]`, s.id.Encoded())
	for _, f := range []struct {
		name string
		raw  []byte
	}{{s.id.Encoded() + ".json", s.config}, {"x/layer.tar", s.layer}, {"manifest.json", []byte(index)}} {
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.raw))}))
		_, err := w.Write(f.raw)
		must(t, err)
	}
	must(t, w.Close())
	s.tar = b.Bytes()
	return s
}

// shop is an engine with images in it, which counts what it is asked.
type shop struct {
	*Engine
	answers answers

	mu    sync.Mutex
	asked []string
}

func newShop(t *testing.T, o Options) *shop {
	s := &shop{answers: answers{}}
	s.Engine = serve(t, o, s.answers)
	return s
}

// has puts an image under names.
func (s *shop) has(img saved, names ...string) {
	id := fmt.Sprintf(`{"Id":%q}`, img.id)
	for _, name := range append(names, img.id.String()) {
		s.add("GET /images/"+name+"/json", says(http.StatusOK, id))
	}
	s.add("GET /images/"+img.id.String()+"/get", says(http.StatusOK, string(img.tar)))
}

func (s *shop) add(path string, answer http.HandlerFunc) {
	s.answers[path] = func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, path)
		s.mu.Unlock()
		answer(w, r)
	}
}

// took is what was asked since the last time, sorted.
func (s *shop) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	slices.Sort(asked)
	return asked
}

func read(src image.Source, d image.Descriptor) func(context.Context) error {
	return func(ctx context.Context) error {
		r, err := src.Fetch(ctx, d)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
		return err
	}
}

// TestRequests is what each operation asks for: an image is fetched once, and a tag asked for each time.
func TestRequests(t *testing.T) {
	s, img := newShop(t, Options{}), save(t, "hello")
	const v1Name, inspect = "docker.io/library/hello:v1", "GET /images/docker.io/library/hello:v1/json"
	s.has(img, v1Name)
	list := "GET /images/json"
	s.add(list, says(http.StatusOK, fmt.Sprintf(`[{"Id":%q,"RepoTags":["hello:v1","hello:v2"]}]`, img.id)))
	get := "GET /images/" + img.id.String() + "/get"
	src, sink := at(t, s.Engine, "docker.io", "hello")
	d, err := src.Resolve(t.Context(), "v1")
	must(t, err)
	want(t, "the first resolve", s.took(), []string{inspect, get})
	config := describe("", img.config)
	for what, test := range map[string]struct {
		call func(context.Context) error
		asks []string
	}{
		"resolve":        {func(ctx context.Context) error { _, err := src.Resolve(ctx, "v1"); return err }, []string{inspect}},
		"manifest":       {func(ctx context.Context) error { _, _, err := src.Manifest(ctx, "v1"); return err }, []string{inspect}},
		"digest":         {func(ctx context.Context) error { _, _, err := src.Manifest(ctx, d.Digest.String()); return err }, nil},
		"stat":           {func(ctx context.Context) error { _, err := src.Stat(ctx, config.Digest); return err }, nil},
		"fetch":          {read(src, config), nil},
		"tags":           {func(ctx context.Context) error { return first(src.Tags(ctx, "")) }, []string{list}},
		"hosts":          {func(ctx context.Context) error { return first(s.Hosts(ctx)) }, []string{list}},
		"delete by name": {func(ctx context.Context) error { return sink.Delete(ctx, "v1") }, []string{"DELETE /images/" + v1Name}},
	} {
		s.add("DELETE /images/"+v1Name, says(http.StatusOK, "[]"))
		must(t, test.call(t.Context()))
		want(t, what, s.took(), test.asks)
	}
}

// TestDigestsOfARepository: who asks by digest for what nobody resolved has all images looked at, the likeliest first.
func TestDigestsOfARepository(t *testing.T) {
	s, one, two := newShop(t, Options{}), save(t, "one"), save(t, "two")
	s.has(one)
	s.has(two)
	s.add("GET /images/json", says(http.StatusOK, fmt.Sprintf(
		`[{"Id":%q,"RepoTags":["hello:1"]},{"Id":%q,"RepoTags":["hello:2","hello:3"]}]`, one.id, two.id)))
	src, _ := at(t, s.Engine, "docker.io", "hello")
	must(t, read(src, describe("", two.config))(t.Context()))
	want(t, "an ID", s.took(), []string{"GET /images/json", "GET /images/" + two.id.String() + "/get"})
	must(t, read(src, describe("", one.layer))(t.Context()))
	want(t, "a layer", s.took(), []string{"GET /images/json", "GET /images/" + one.id.String() + "/get"})
	_, err := src.Stat(t.Context(), digest.FromString("nothing"))
	wantErr(t, "nothing", err, image.ErrNotFound)
	want(t, "nothing", s.took(), []string{"GET /images/json"})
	_, err = src.Resolve(t.Context(), one.id.String())
	wantErr(t, "a config as an image", err, image.ErrNotFound)
}

// TestOneFetch for all who want the same image, which goes on as long as one of them waits.
func TestOneFetch(t *testing.T) {
	s, img := newShop(t, Options{}), save(t, "hello")
	s.has(img, "docker.io/library/hello:v1")
	arrived, proceed := make(chan struct{}, 8), make(chan struct{})
	s.add("GET /images/"+img.id.String()+"/get", func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		select {
		case <-proceed:
			w.Write(img.tar)
		case <-r.Context().Done():
			arrived <- struct{}{}
		}
	})
	src, _ := at(t, s.Engine, "docker.io", "hello")
	resolve := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() { _, err := src.Resolve(ctx, "v1"); done <- err }()
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := resolve(ctx)
	<-arrived
	cancel()
	wantErr(t, "resolve, cancelled", <-gone, context.Canceled)
	<-arrived // nobody waits, and the request ends
	ctx, cancel = context.WithCancel(t.Context())
	gone = resolve(ctx)
	<-arrived
	var stay []chan error
	for range 3 {
		stay = append(stay, resolve(t.Context()))
	}
	waiting(t, s.images, img.id, 4)
	cancel()
	wantErr(t, "resolve, cancelled", <-gone, context.Canceled)
	close(proceed)
	for _, done := range stay {
		must(t, <-done)
	}
	if len(arrived) > 0 {
		t.Error("it was fetched again")
	}
}

// waiting waits until so many wait for an image.
func waiting(t *testing.T, m *images, id digest.Digest, n int) {
	t.Helper()
	for deadline := time.Now().Add(prompt); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		m.mu.Lock()
		f := m.fetched[id]
		there := f != nil && f.users == n
		m.mu.Unlock()
		if there {
			return
		}
	}
	t.Fatalf("never %d wait", n)
}

// TestFewStay of the images that were fetched, and none when the Engine is closed; what is being read can be read on.
func TestFewStay(t *testing.T) {
	dir := t.TempDir()
	s := newShop(t, Options{TempDir: dir})
	src, _ := at(t, s.Engine, "docker.io", "hello")
	count := func() int {
		names, err := filepath.Glob(filepath.Join(dir, spooledName))
		must(t, err)
		return len(names)
	}
	var open io.ReadCloser
	for i := range keepIdle + 3 {
		img := save(t, fmt.Sprint(i))
		s.has(img, fmt.Sprintf("docker.io/library/hello:%d", i))
		_, err := src.Resolve(t.Context(), fmt.Sprint(i))
		must(t, err)
		if i == 0 {
			open, err = src.Fetch(t.Context(), describe("", img.layer))
			must(t, err)
		}
	}
	want(t, "files", count(), keepIdle+1)
	s.took()
	img := save(t, "1")
	must(t, read(src, describe("", img.layer))(t.Context()))
	want(t, "read what went", s.took(), []string{"GET /images/" + img.id.String() + "/get"})
	must(t, s.Close())
	want(t, "files", count(), 1)
	_, err := io.Copy(io.Discard, open)
	must(t, err)
	must(t, open.Close())
	want(t, "files", count(), 0)
	wantErr(t, "read in what was closed", read(src, describe("", img.layer))(t.Context()), context.Canceled)
}

// TestLeftBehind is what a killed process had fetched: it goes with the next image, unless its process lives.
func TestLeftBehind(t *testing.T) {
	dir := t.TempDir()
	s, img := newShop(t, Options{TempDir: dir}), save(t, "hello")
	s.has(img, "docker.io/library/hello:v1")
	for name, age := range map[string]time.Duration{"old": time.Hour, "new": 0} {
		path := filepath.Join(dir, "regfs-engine-"+name+".tar")
		must(t, os.WriteFile(path, []byte("left"), 0o600))
		must(t, os.Chtimes(path, time.Time{}, time.Now().Add(-age)))
	}
	src, _ := at(t, s.Engine, "docker.io", "hello")
	_, err := src.Resolve(t.Context(), "v1")
	must(t, err)
	_, old := os.Stat(filepath.Join(dir, "regfs-engine-old.tar"))
	_, young := os.Stat(filepath.Join(dir, "regfs-engine-new.tar"))
	if old == nil || young != nil {
		t.Errorf("the old one: %v; the new one: %v", old, young)
	}
	for _, f := range s.images.fetched {
		must(t, os.Chtimes(f.src.(*spooled).file.Name(), time.Time{}, time.Now().Add(-time.Hour)))
	}
	removeLeft(dir)
	for _, f := range s.images.fetched {
		_, err := os.Stat(f.src.(*spooled).file.Name())
		must(t, err)
	}
}

// TestBadSaves: what the engine sends is no image, ends early or never.
func TestBadSaves(t *testing.T) {
	img := save(t, "hello")
	for what, test := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"nothing":         {says(http.StatusOK, ""), image.ErrInvalid},
		"garbage":         {says(http.StatusOK, "garbage"), image.ErrInvalid},
		"half of it":      {says(http.StatusOK, string(img.tar[:len(img.tar)/2])), image.ErrInvalid},
		"a broken stream": {cut(string(img.tar[:1000])), image.ErrUnavailable},
		"silence":         {hang, image.ErrUnavailable},
		"a failure":       {says(http.StatusInternalServerError, `{"message":"no such layer"}`), image.ErrUnavailable},
		"another layer":   {says(http.StatusOK, string(bytes.Replace(img.tar, []byte("hello"), []byte("HELLO"), 1))), image.ErrDigest},
	} {
		dir, timeout := t.TempDir(), time.Minute
		if what == "silence" {
			timeout = 20 * time.Millisecond
		}
		s := newShop(t, Options{Timeout: timeout, TempDir: dir})
		s.has(img, "docker.io/library/hello:v1")
		s.add("GET /images/"+img.id.String()+"/get", test.answer)
		src, _ := at(t, s.Engine, "docker.io", "hello")
		ends(t, what, func() error {
			if _, err := src.Resolve(t.Context(), "v1"); err != nil {
				return err
			}
			return read(src, describe("", img.layer))(t.Context())
		}, test.want)
		must(t, s.Close())
		left, err := os.ReadDir(dir)
		must(t, err)
		want(t, "files after "+what, len(left), 0)
	}
}
