package dockerarchive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// manifestJSON is that of an archive.
func manifestJSON(t *testing.T, archive string) []*item {
	t.Helper()
	items, err := parseItems([]byte(run(t, "tar", "-xOf", archive, manifestFile)))
	must(t, err)
	return items
}

func repoTags(t *testing.T, archive string) [][]string {
	t.Helper()
	var all [][]string
	for _, it := range manifestJSON(t, archive) {
		all = append(all, it.RepoTags)
	}
	return all
}

func TestPlace(t *testing.T) {
	archive, _ := filled(t)
	a, err := Open(t.Context(), archive)
	must(t, err)
	defer a.Close()
	want(t, "hosts", collect(t, a.Hosts(t.Context())), []string{"docker.io", "example.com:5000"})
	want(t, "repositories", repositories(t, a), []string{"library/hello"})
	want(t, "tags", collect(t, at(t, a, "docker.io/library/hello").Tags(t.Context(), "")), []string{"latest", "v1"})
	other := at(t, a, "example.com:5000/a/b")
	want(t, "tags", collect(t, other.Tags(t.Context(), "artifact")), []string{"multi", "v1"})
	for _, err := range at(t, a, "docker.io/library/nothing").Tags(t.Context(), "") {
		wantErr(t, "tags of what is not there", err, image.ErrNotFound)
	}
	h, err := a.Host("docker.io")
	must(t, err)
	for _, name := range []string{"", "alpine", "UPPER", "../x", "library/hello:v1", "library/hello@" + digest.FromString("").String()} {
		_, err = h.Source(t.Context(), name)
		wantErr(t, fmt.Sprintf("repository %q", name), err, image.ErrInvalid)
	}
	_, err = h.Sink(t.Context(), "library/hello")
	wantErr(t, "write where one can only read", err, image.ErrUnsupported)
}

// TestPositions are those of manifest.json, and an image for several platforms is served as a whole.
func TestPositions(t *testing.T) {
	archive, _ := filled(t)
	a, err := Open(t.Context(), archive)
	must(t, err)
	defer a.Close()
	whole := at(t, a, "")
	for position, name := range []string{"docker.io/library/hello v1", "example.com:5000/a/b v1", "example.com:5000/a/b multi"} {
		repository, tag, _ := strings.Cut(name, " ")
		d, err := at(t, a, repository).Resolve(t.Context(), tag)
		must(t, err)
		resolve(t, whole, fmt.Sprint("@", position), d)
	}
	for _, ref := range []string{"", "@3", "@", "@x", "v1"} {
		_, err := whole.Resolve(t.Context(), ref)
		wantErr(t, "resolve "+ref, err, image.ErrNotFound)
	}
}

// TestUntaggedImage is one that is put in without a name, and the only one.
func TestUntaggedImage(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "archive.tar")
	r := at(t, create(t, archive), "")
	d := tagImage(t, r, "hello", "")
	resolve(t, r, "", d)
	resolve(t, r, "@0", d)
	want(t, "names", repoTags(t, archive), [][]string{nil})
	wantErr(t, "tag without a repository", r.Tag(t.Context(), d, nil, "v1"), image.ErrInvalid)
	dir := t.TempDir()
	run(t, "skopeo", "--insecure-policy", "copy", "docker-archive:"+archive, "dir:"+dir)
}

// TestTagsMove with manifest.json, from one image to another and away.
func TestTagsMove(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "archive.tar")
	a := create(t, archive)
	r, other := at(t, a, "docker.io/library/hello"), at(t, a, "quay.io/x/y")
	first := tagImage(t, r, "hello", "v1")
	tagImage(t, other, "hello", "v1")
	want(t, "names", repoTags(t, archive), [][]string{{"docker.io/library/hello:v1", "quay.io/x/y:v1"}})
	second := tagImage(t, r, "hello again", "v1")
	want(t, "names", repoTags(t, archive), [][]string{{"docker.io/library/hello:v1"}, {"quay.io/x/y:v1"}})
	resolve(t, r, "v1", second)
	resolve(t, other, "v1", first)
	must(t, other.Delete(t.Context(), "v1"))
	want(t, "names", repoTags(t, archive), [][]string{{"docker.io/library/hello:v1"}})
	resolve(t, r, first.Digest.String(), first)
	wantErr(t, "delete again", other.Delete(t.Context(), "v1"), image.ErrNotFound)
	tagArtifact(t, r, "v1")
	want(t, "names", len(repoTags(t, archive)), 0)
}

// TestDeleteOfTwo: a manifest that another repository has a name for stays.
func TestDeleteOfTwo(t *testing.T) {
	a := create(t, filepath.Join(t.TempDir(), "archive.tar"))
	r, other := at(t, a, "docker.io/library/hello"), at(t, a, "quay.io/x/y")
	d := tagImage(t, r, "hello", "v1")
	tagImage(t, other, "hello", "v1")
	must(t, r.Delete(t.Context(), d.Digest.String()))
	_, err := r.Resolve(t.Context(), "v1")
	wantErr(t, "resolve a deleted image", err, image.ErrNotFound)
	resolve(t, other, "v1", d)
	must(t, other.Delete(t.Context(), d.Digest.String()))
	_, err = other.Resolve(t.Context(), d.Digest.String())
	wantErr(t, "resolve a deleted image", err, image.ErrNotFound)
}

// oldArchive is one of docker before version 25: two images, with a layer that both have, once as a link.
func oldArchive(t *testing.T) string {
	t.Helper()
	one, two := layerOf(t, "one"), layerOf(t, "two")
	return tarOf(t, file{"a/layer.tar", string(one)}, file{"b/layer.tar", string(two)}, file{"c/layer.tar", link + "../a/layer.tar"},
		file{"a.json", string(configOf(t, "amd64", one, two))}, file{"b.json", string(configOf(t, "arm64", one))},
		file{"repositories", `{"hello":{"v1":"b"}}`},
		file{"manifest.json", `[{"Config":"a.json","RepoTags":["hello:v1","hello:latest"],"Layers":["a/layer.tar","b/layer.tar"]},
			{"Config":"b.json","RepoTags":["quay.io/x/y:v1","not a name"],"Layers":["c/layer.tar"],"Parent":"p"}]`})
}

func TestOldForm(t *testing.T) {
	archive := oldArchive(t)
	a := create(t, archive)
	r, other := at(t, a, "docker.io/library/hello"), at(t, a, "quay.io/x/y")
	d, err := r.Resolve(t.Context(), "v1")
	must(t, err)
	resolve(t, r, "latest", d)
	resolve(t, r, d.Digest.String(), d)
	resolve(t, at(t, a, ""), "@0", d)
	second, raw, err := other.Manifest(t.Context(), "v1")
	must(t, err)
	m, err := image.ParseManifest(second.MediaType, raw)
	must(t, err)
	f, err := other.Fetch(t.Context(), m.Layers[0])
	must(t, err)
	defer f.Close()
	layer, err := io.ReadAll(f)
	must(t, err)
	want(t, "the linked layer", string(layer), string(layerOf(t, "one")))
	wantErr(t, "delete what was made", r.Delete(t.Context(), d.Digest.String()), image.ErrUnsupported)
	// A tag goes, and one moves to an image of ours: no more than that.
	must(t, r.Delete(t.Context(), "latest"))
	want(t, "names", repoTags(t, archive), [][]string{{"hello:v1"}, {"quay.io/x/y:v1", "not a name"}})
	ours := tagImage(t, other, "ours", "v1")
	want(t, "names", repoTags(t, archive), [][]string{{"hello:v1"}, {"not a name"}, {"quay.io/x/y:v1"}})
	want(t, "what else is known", manifestJSON(t, archive)[1].Parent, "p")
	resolve(t, r, "v1", d)
	resolve(t, other, "v1", ours)
	resolve(t, at(t, a, ""), "@1", second)
	if out := run(t, "tar", "-tf", archive); strings.Contains(out, namesFile) {
		t.Errorf("what docker had before manifest.json is there still: %s", out)
	}
}

// newArchive is one of docker since version 25: an OCI layout with plain layers, and manifest.json.
func newArchive(t *testing.T, annotations map[string]string) (archive string, manifest []byte) {
	t.Helper()
	plain := layerOf(t, "hello")
	config := configOf(t, "amd64", plain)
	layer := describe(v1.MediaTypeImageLayer, plain)
	manifest = marshal(t, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: describe(v1.MediaTypeImageConfig, config), Layers: []image.Descriptor{layer},
	})
	d := describe(v1.MediaTypeImageManifest, manifest)
	d.Annotations = annotations
	index := marshal(t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []image.Descriptor{d}})
	items, err := json.Marshal([]item{{
		Config: blobPath(digest.FromBytes(config)), RepoTags: []string{"hello:v1"}, Layers: []string{blobPath(layer.Digest)},
		LayerSources: []byte(`{"x":{}}`),
	}})
	must(t, err)
	return tarOf(t, file{blobPath(layer.Digest), string(plain)}, file{blobPath(digest.FromBytes(config)), string(config)},
		file{blobPath(d.Digest), string(manifest)}, file{"index.json", string(index)}, file{"manifest.json", string(items)},
		file{"oci-layout", `{"imageLayoutVersion":"1.0.0"}`}), manifest
}

// TestNewForm: an image that index.json lists is served as it is, whether that has its name or not.
func TestNewForm(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"named": {"io.containerd.image.name": "docker.io/library/hello:v1", "org.opencontainers.image.ref.name": "v1"}, "nameless": nil,
	} {
		archive, manifest := newArchive(t, annotations)
		a := create(t, archive)
		r := at(t, a, "docker.io/library/hello")
		d, raw, err := r.Manifest(t.Context(), "v1")
		must(t, err)
		want(t, name+": manifest", string(raw), string(manifest))
		resolve(t, at(t, a, ""), "", d)
		tagImage(t, at(t, a, "quay.io/x/y"), "another", "v1")
		resolve(t, r, "v1", d)
		want(t, name+": names", repoTags(t, archive), [][]string{{map[bool]string{true: "docker.io/library/hello:v1", false: "hello:v1"}[annotations != nil]},
			{"quay.io/x/y:v1"}})
	}
}

var hostile = map[string]string{
	"nothing": "", "text": "hello", "an object": "{}", "null": "null", "a number": "[1]", "wrong types": `[{"Config":1}]`, "cut off": `[{`,
	"more after it": "[] []", "too many": "[" + strings.Repeat("{},", maxItems) + "{}]",
}

func TestOpenRefuses(t *testing.T) {
	for name, content := range hostile {
		_, err := Open(t.Context(), tarOf(t, file{manifestFile, content}))
		wantErr(t, name, err, image.ErrInvalid)
	}
	for name, archive := range map[string]string{
		"no manifest.json":        tarOf(t, file{"index.json", "{}"}),
		"two of them":             tarOf(t, file{manifestFile, "[]"}, file{manifestFile, "[]"}),
		"a huge one":              tarOf(t, file{manifestFile, strings.Repeat(" ", maxManifest+1)}),
		"a link out":              tarOf(t, file{manifestFile, link + "/etc/passwd"}),
		"an index.json of no use": tarOf(t, file{manifestFile, "[]"}, file{"index.json", "[]"}),
	} {
		for _, open := range []func() (*Archive, error){
			func() (*Archive, error) { return Open(t.Context(), archive) }, func() (*Archive, error) { return Create(t.Context(), archive) },
		} {
			_, err := open()
			wantErr(t, name, err, image.ErrInvalid)
			if err != nil && !strings.Contains(err.Error(), archive) {
				t.Errorf("%s: %v does not say where", name, err)
			}
		}
	}
	_, err := Open(t.Context(), filepath.Join(t.TempDir(), "missing"))
	wantErr(t, "a missing file", err, image.ErrNotFound)
}

// TestHostileImages are refused when they are asked for, and are in nobody's way.
func TestHostileImages(t *testing.T) {
	plain := layerOf(t, "hello")
	good, lying := string(configOf(t, "amd64", plain)), string(configOf(t, "amd64", []byte("another")))
	for name, it := range map[string]string{
		"no config":           `{"Config":"missing","Layers":["l"]}`,
		"a config outside":    `{"Config":"../../etc/passwd","Layers":["l"]}`,
		"an absolute config":  `{"Config":"/etc/passwd","Layers":["l"]}`,
		"a config that is ..": `{"Config":"..","Layers":["l"]}`,
		"no layer":            `{"Config":"good","Layers":["missing"]}`,
		"a layer outside":     `{"Config":"good","Layers":["../l"]}`,
		"fewer layers":        `{"Config":"good","Layers":[]}`,
		"more layers":         `{"Config":"good","Layers":["l","l"]}`,
		"a layer as config":   `{"Config":"l","Layers":["l"]}`,
		"a config of nothing": `{"Config":"empty","Layers":[]}`,
		"no digests":          `{"Config":"digests","Layers":["l"]}`,
		"damaged gzip":        `{"Config":"good","Layers":["z"]}`,
	} {
		it = strings.Replace(it, "{", `{"RepoTags":["bad:v1"],`, 1)
		archive := tarOf(t, file{"good", good}, file{"empty", "{}"}, file{"digests", `{"rootfs":{"diff_ids":["../../x"]}}`}, file{"l", string(plain)},
			file{"z", "\x1f\x8b\x08 hello"}, file{"manifest.json", `[` + it + `,{"Config":"good","RepoTags":["good:v1"],"Layers":["l"]}]`})
		a, err := Open(t.Context(), archive)
		must(t, err)
		_, err = at(t, a, "docker.io/library/bad").Resolve(t.Context(), "v1")
		if !errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		_, err = at(t, a, "docker.io/library/good").Resolve(t.Context(), "v1")
		must(t, err)
		must(t, a.Close())
	}
	archive := tarOf(t, file{"c", lying}, file{"l", string(plain)}, file{"manifest.json", `[{"Config":"c","RepoTags":["bad:v1"],"Layers":["l"]}]`})
	a, err := Open(t.Context(), archive)
	must(t, err)
	defer a.Close()
	r := at(t, a, "docker.io/library/bad")
	_, raw, err := r.Manifest(t.Context(), "v1")
	must(t, err)
	m, err := image.ParseManifest("", raw)
	must(t, err)
	f, err := r.Fetch(t.Context(), m.Layers[0])
	must(t, err)
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	wantErr(t, "a layer that is another", err, image.ErrDigest)
}

// TestPushIsKept without a name, when the archive is closed.
func TestPushIsKept(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "archive.tar")
	a, err := Create(t.Context(), archive)
	must(t, err)
	d, _ := pushImage(t, at(t, a, "docker.io/library/hello"), "hello", "amd64")
	if _, err := os.Stat(archive); err == nil {
		t.Error("the archive is there before its time")
	}
	must(t, a.Close())
	again, err := Open(t.Context(), archive)
	must(t, err)
	defer again.Close()
	resolve(t, at(t, again, "docker.io/library/hello"), d.Digest.String(), d)
}

// FuzzManifest: whatever manifest.json says, what comes of it is a sound image, or an error of the right kind.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`[{"Config":"c","RepoTags":["a:v1"],"Layers":["l"]}]`), []byte(`{"rootfs":{"diff_ids":["`+digest.FromString("x").String()+`"]}}`))
	for _, raw := range hostile {
		f.Add([]byte(raw), []byte("{}"))
	}
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		if len(manifest) > 1<<16 {
			return
		}
		a, err := Open(t.Context(), tarOf(t, file{"l", "x"}, file{"c", string(config)}, file{manifestFile, string(manifest)}))
		if err != nil {
			wantErr(t, "open", err, image.ErrInvalid)
			return
		}
		defer a.Close()
		d, raw, err := at(t, a, "").Manifest(t.Context(), "@0")
		if err != nil {
			if !errors.Is(err, image.ErrInvalid) && !errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrUnsupported) {
				t.Errorf("manifest: %v", err)
			}
			return
		}
		want(t, "manifest", digest.FromBytes(raw), d.Digest)
		_, err = image.ParseManifest(d.MediaType, raw)
		must(t, err)
		for _, err := range a.Hosts(t.Context()) {
			must(t, err)
		}
	})
}
