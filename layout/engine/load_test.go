package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// taker is an engine that takes any image.
type taker struct {
	files map[string][]byte // of the archive it was given
	order []string
}

func (k *taker) load(w http.ResponseWriter, r *http.Request) {
	k.files, k.order = map[string][]byte{}, nil
	for t := tar.NewReader(r.Body); ; {
		h, err := t.Next()
		if err != nil {
			break
		}
		k.files[h.Name], _ = io.ReadAll(t)
		k.order = append(k.order, h.Name)
	}
	io.WriteString(w, `{"status":"Loading layer","progressDetail":{"current":1},"id":"x"}`+"\r\n"+`{"stream":"Loaded image: x\n"}`+"\r\n")
}

// inspect answers with the image it was given.
func (k *taker) inspect(w http.ResponseWriter, _ *http.Request) {
	for name := range k.files {
		if config, ok := strings.CutSuffix(name, ".json"); ok && name != "manifest.json" {
			io.WriteString(w, `{"Id":"sha256:`+config+`"}`)
		}
	}
}

func (k *taker) answers() answers {
	return answers{"POST /images/load": k.load, "GET /images/docker.io/library/hello:v1/json": k.inspect}
}

// TestArchive is what the engine is given: manifest.json first, then what it names, each once and with no zstd in it.
func TestArchive(t *testing.T) {
	k := &taker{}
	e := serve(t, Options{}, k.answers())
	_, sink := at(t, e, "docker.io", "library/hello")
	one, two := layer(t, "one", 0o644, bytes.Repeat([]byte("one"), 100_000)), layer(t, "two", 0o644, []byte("two"))
	squeeze := func(plain []byte) []byte {
		z, err := zstd.NewWriter(nil)
		must(t, err)
		return z.EncodeAll(plain, nil)
	}
	p := push(t, sink, v1.ImageConfig{}, "+zstd", squeeze, one, two, one)
	must(t, sink.Tag(t.Context(), p.Descriptor, p.raw, "v1"))
	var index []struct {
		Config           string
		RepoTags, Layers []string
	}
	must(t, json.Unmarshal(k.files["manifest.json"], &index))
	if len(index) != 1 || len(index[0].Layers) != 3 || index[0].Layers[0] != index[0].Layers[2] {
		t.Fatalf("manifest.json: %s", k.files["manifest.json"])
	}
	want(t, "names", index[0].RepoTags, []string{"docker.io/library/hello:v1"})
	want(t, "config", index[0].Config, p.config.Digest.Encoded()+".json")
	want(t, "files", k.order, []string{"manifest.json", index[0].Config, index[0].Layers[0], index[0].Layers[1]})
	for i, plain := range [][]byte{one, two} {
		if !bytes.Equal(k.files[index[0].Layers[i]], plain) {
			t.Errorf("layer %d is not what it was", i)
		}
	}
}

// TestModernArchive is what engines from Docker 25 on are given: an image layout as well, with everything as it was pushed. It gets its
// name when it was loaded.
func TestModernArchive(t *testing.T) {
	k, a := &taker{}, answers{"GET /version": says(http.StatusOK, `{"ApiVersion":"1.45","MinAPIVersion":"1.24"}`)}
	e := serve(t, Options{}, a)
	_, sink := at(t, e, "docker.io", "library/hello")
	p := push(t, sink, v1.ImageConfig{}, "+gzip", func([]byte) []byte { return append(bytes.Clone(zstdMagic), "as it is"...) }, nil)
	id, named := p.Digest.String(), ""
	a["POST /images/load"] = func(w http.ResponseWriter, r *http.Request) {
		k.load(w, r)
		a["GET /images/"+id+"/json"] = says(http.StatusOK, `{"Id":"`+id+`"}`)
		a["POST /images/"+id+"/tag"] = func(w http.ResponseWriter, r *http.Request) {
			named = r.URL.Query().Get("repo") + ":" + r.URL.Query().Get("tag")
			w.WriteHeader(http.StatusCreated)
		}
	}
	must(t, sink.Tag(t.Context(), p.Descriptor, p.raw, "v1"))
	want(t, "name", named, "docker.io/library/hello:v1")
	var m v1.Manifest
	must(t, json.Unmarshal(p.raw, &m))
	config, layer, manifest := blobName(m.Config.Digest), blobName(m.Layers[0].Digest), blobName(p.Digest)
	want(t, "files", k.order, []string{"manifest.json", "oci-layout", "index.json", manifest, config, layer})
	want(t, "manifest.json", string(k.files["manifest.json"]), `[{"Config":"`+config+`","RepoTags":null,"Layers":["`+layer+`"]}]`)
	want(t, "manifest", string(k.files[manifest]), string(p.raw))
	for _, d := range []image.Descriptor{m.Config, m.Layers[0]} {
		want(t, "blob", describe(d.MediaType, k.files[blobName(d.Digest)]), d)
	}
	var index v1.Index
	must(t, json.Unmarshal(k.files["index.json"], &index))
	want(t, "index.json", index.Manifests, []image.Descriptor{p.Descriptor})
}

// TestBrokenZstd, or what is only called so.
func TestBrokenZstd(t *testing.T) {
	e := serve(t, Options{}, (&taker{}).answers())
	_, sink := at(t, e, "docker.io", "library/hello")
	broken := func([]byte) []byte { return append(bytes.Clone(zstdMagic), "garbage"...) }
	p := push(t, sink, v1.ImageConfig{}, "+zstd", broken, nil)
	wantErr(t, "tag what is no zstd", sink.Tag(t.Context(), p.Descriptor, p.raw, "v1"), image.ErrInvalid)
}

// TestLoadFails in each way an engine has, and never goes well by accident.
func TestLoadFails(t *testing.T) {
	const other = `{"Id":"sha256:1111111111111111111111111111111111111111111111111111111111111111"}`
	for what, test := range map[string]struct {
		load, inspect http.HandlerFunc
		want          error
	}{
		"refuses":               {says(200, `{"stream":"Loading"}{"errorDetail":{"message":"invalid diffID for layer 0"},"error":"invalid diffID for layer 0"}`), nil, image.ErrRefused},
		"refuses in old words":  {says(200, `{"error":"archive/tar: invalid tar header"}`), nil, image.ErrRefused},
		"refuses without words": {says(200, `{"error":"\u0000"}`), nil, image.ErrRefused},
		"is full":               {says(200, `{"errorDetail":{"message":"Error processing tar file: no space left on device"}}`), nil, image.ErrQuota},
		"answers no":            {says(400, `{"message":"bad parameter"}`), nil, image.ErrRefused},
		"breaks":                {says(500, ``), nil, image.ErrUnavailable},
		"answers early":         {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"error":"no"}`) }, nil, image.ErrRefused},
		"hangs up":              {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, image.ErrUnavailable},
		"is cut short":          {cut(`{"stream":"Loading"}{"str`), nil, image.ErrUnavailable},
		"talks garbage":         {says(200, "loaded!"), nil, image.ErrUnavailable},
		"talks for ever":        {endless(`{"stream":"`, "x"), nil, image.ErrUnavailable},
		"loads nothing":         {says(200, `{"stream":"done"}`), says(404, `{"message":"no such image"}`), image.ErrNotFound},
		"loads another one":     {says(200, `{"stream":"done"}`), says(200, other), image.ErrRefused},
	} {
		e := serve(t, Options{}, answers{"POST /images/load": test.load, "GET /images/docker.io/library/hello:v1/json": test.inspect})
		_, sink := at(t, e, "docker.io", "library/hello")
		p := push(t, sink, v1.ImageConfig{}, "", unpacked, layer(t, "hello", 0o644, make([]byte, 1<<20)))
		ends(t, "tag where the engine "+what, func() error { return sink.Tag(t.Context(), p.Descriptor, p.raw, "v1") }, test.want)
	}
}

// TestLoadStalls: an engine that does not read, and one that reads and says nothing.
func TestLoadStalls(t *testing.T) {
	silent := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	for what, load := range map[string]http.HandlerFunc{"does not read": hang, "says nothing": silent} {
		e := serve(t, Options{Timeout: 50 * time.Millisecond}, answers{"POST /images/load": load})
		_, sink := at(t, e, "docker.io", "library/hello")
		p := push(t, sink, v1.ImageConfig{}, "", unpacked, layer(t, "hello", 0o644, make([]byte, 1<<20)))
		ends(t, "tag where the engine "+what, func() error {
			return sink.Tag(t.Context(), p.Descriptor, p.raw, "v1")
		}, image.ErrUnavailable, context.DeadlineExceeded)
		e = serve(t, Options{}, answers{"POST /images/load": load})
		_, sink = at(t, e, "docker.io", "library/hello")
		p = push(t, sink, v1.ImageConfig{}, "", unpacked, layer(t, "hello", 0o644, make([]byte, 1<<20)))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		ends(t, "tag, cancelled, where the engine "+what, func() error {
			return sink.Tag(ctx, p.Descriptor, p.raw, "v1")
		}, context.Canceled)
	}
}

// TestImageThatIsThere is not loaded again, nor is anything pushed for it: it gets one name more.
func TestImageThatIsThere(t *testing.T) {
	var query string
	a := answers{}
	e := serve(t, Options{}, a)
	_, sink := at(t, e, "docker.io", "library/hello")
	p := push(t, sink, v1.ImageConfig{}, "", unpacked, layer(t, "hello", 0o644, nil))
	a["GET /images/"+p.config.Digest.String()+"/json"] = says(200, `{"Id":"`+p.config.Digest.String()+`"}`)
	a["POST /images/"+p.config.Digest.String()+"/tag"] = func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		w.WriteHeader(http.StatusCreated)
	}
	must(t, sink.Expect(t.Context(), p.Descriptor, p.raw))
	how, err := sink.Push(t.Context(), p.config, image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) {
		t.Error("the content was opened")
		return nil, os.ErrInvalid
	}})
	if how != image.Skipped || err != nil {
		t.Errorf("push what is there: %s, %v", how, err)
	}
	must(t, sink.Tag(t.Context(), p.Descriptor, p.raw, "v1"))
	want(t, "query", query, "repo=docker.io%2Flibrary%2Fhello&tag=v1")
}

// TestContainerd is an engine that calls an image by a manifest of its own: it is known by its layers, and by what the engine said.
func TestContainerd(t *testing.T) {
	const id = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
	plain := layer(t, "hello", 0o644, nil)
	inspect := says(http.StatusOK, `{"Id":"`+id+`","RootFS":{"Layers":["`+describe("", plain).Digest.String()+`"]}}`)
	e := serve(t, Options{}, answers{
		"POST /images/load":           says(http.StatusOK, `{"stream":"Loaded image ID: `+id+`\n"}`),
		"GET /images/" + id + "/json": inspect, "GET /images/docker.io/library/hello:v1/json": inspect,
	})
	_, sink := at(t, e, "docker.io", "library/hello")
	p := push(t, sink, v1.ImageConfig{}, "", unpacked, plain)
	must(t, sink.Tag(t.Context(), p.Descriptor, p.raw, "v1"))
	_, err := sink.Push(t.Context(), p.Descriptor, bring(p.raw))
	must(t, err)
}

// TestExpect refuses what an engine can't hold, and says what that is.
func TestExpect(t *testing.T) {
	e := serve(t, Options{}, nil)
	_, sink := at(t, e, "docker.io", "library/hello")
	config := `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:` + strings.Repeat("0", 64) + `","size":1}`
	layers := func(mediaType string) string {
		return `"layers":[{"mediaType":"` + mediaType + `","digest":"sha256:` + strings.Repeat("1", 64) + `","size":1}]`
	}
	for name, test := range map[string]struct{ mediaType, doc, says string }{
		"an image":       {v1.MediaTypeImageManifest, config + "," + layers("application/vnd.oci.image.layer.v1.tar+gzip"), ""},
		"Docker's":       {image.MediaTypeDockerManifest, config + "," + layers("application/vnd.docker.image.rootfs.diff.tar.gzip"), ""},
		"no layers":      {v1.MediaTypeImageManifest, config, ""},
		"an index":       {v1.MediaTypeImageIndex, `"manifests":[]`, "one platform"},
		"schema 1":       {image.MediaTypeDockerSchema1, `"fsLayers":[]`, "schema 1"},
		"an artifact":    {v1.MediaTypeImageManifest, strings.Replace(config, "image.config", "empty", 1), "no image"},
		"other layers":   {v1.MediaTypeImageManifest, config + "," + layers("text/plain"), "text/plain"},
		"encrypted":      {v1.MediaTypeImageManifest, config + "," + layers("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "encrypted"},
		"another digest": {v1.MediaTypeImageManifest, strings.Replace(config, "sha256:", "sha512:"+strings.Repeat("0", 64), 1), "sha256 only"},
	} {
		version := "2"
		if image.IsSchema1(test.mediaType) {
			version = "1"
		}
		raw := []byte(`{"schemaVersion":` + version + `,"mediaType":"` + test.mediaType + `",` + test.doc + `}`)
		err := sink.Expect(t.Context(), describe(test.mediaType, raw), raw)
		if test.says == "" {
			must(t, err)
			continue
		}
		wantErr(t, name, err, image.ErrUnsupported)
		if err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v does not say %q", name, err, test.says)
		}
		if _, err := sink.Push(t.Context(), describe(test.mediaType, raw), bring(raw)); !cmp.Equal(err != nil, true) {
			t.Errorf("%s can be pushed", name)
		}
	}
}

// TestMissingParts: an image of what nobody pushed.
func TestMissingParts(t *testing.T) {
	e := serve(t, Options{}, nil)
	_, sink := at(t, e, "docker.io", "library/hello")
	p := push(t, sink, v1.ImageConfig{}, "", unpacked, layer(t, "hello", 0o644, nil))
	other := serve(t, Options{}, nil)
	_, elsewhere := at(t, other, "docker.io", "library/hello")
	err := elsewhere.Tag(t.Context(), p.Descriptor, p.raw, "v1")
	wantErr(t, "tag what was not pushed", err, image.ErrNotFound)
}

// TestKept is what was pushed: for a day as long as there is no image of it, and then for as long as somebody may want it once more.
func TestKept(t *testing.T) {
	k := &taker{}
	e := serve(t, Options{}, k.answers())
	_, sink := at(t, e, "docker.io", "library/hello")
	p := push(t, sink, v1.ImageConfig{}, "", unpacked, layer(t, "hello", 0o644, nil))
	later := func(what string, d time.Duration, there bool) {
		t.Helper()
		for _, b := range e.pushed.blobs {
			b.used = time.Now().Add(-d)
		}
		e.pushed.settle(nil)
		want(t, what, e.pushed.blobs[p.config.Digest] != nil, there)
	}
	later("an hour after the push", time.Hour, true)
	push(t, sink, v1.ImageConfig{}, "", unpacked, layer(t, "hello", 0o644, nil)) // by somebody else
	must(t, sink.Tag(t.Context(), p.Descriptor, p.raw, "v1"))
	later("while the other one is on his way", time.Hour, true)
	must(t, sink.Tag(t.Context(), p.Descriptor, p.raw, "v1"))
	later("after that", time.Minute, true)
	later("an hour after that", time.Hour, false)
	push(t, sink, v1.ImageConfig{}, "", unpacked, layer(t, "hello", 0o644, nil))
	later("two days after a push", 2*keepPushed, false)
}

// TestNothingIsLeft of what was pushed, or is being pushed, on any disk.
func TestNothingIsLeft(t *testing.T) {
	dir := t.TempDir()
	e := serve(t, Options{TempDir: dir}, nil)
	_, sink := at(t, e, "docker.io", "library/hello")
	push(t, sink, v1.ImageConfig{}, "", unpacked, layer(t, "hello", 0o644, nil))
	left, err := os.ReadDir(dir)
	must(t, err)
	want(t, "files", len(left), 0)
	must(t, e.Close())
	_, err = sink.Push(t.Context(), describe("application/octet-stream", []byte("x")), bring([]byte("x")))
	wantErr(t, "push to what was closed", err, context.Canceled)
}
