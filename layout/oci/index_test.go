package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

const (
	a = digest.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	b = digest.Digest("sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
)

// written is an index.json as others write it, with much that this package does not know.
const written = `{
   "x-before": {"manifests": [1, 2.50]},
   "schemaVersion": 2,
   "manifests": [
      {"mediaType": "m", "digest": "` + string(a) + `", "size": 1, "annotations": {"org.opencontainers.image.ref.name": "v1", "x": "<\u00e4>"}, "y": 1e2},
      {"digest": "` + string(b) + `", "size": 2},
      {"mediaType": "m", "digest": "` + string(b) + `", "size": 2, "annotations": {"org.opencontainers.image.ref.name": "v1"}}
   ],
   "x-after": [null]
}
`

func parse(t *testing.T, raw string) *index {
	t.Helper()
	x, err := parseIndex([]byte(raw))
	must(t, err)
	return x
}

func TestParseIndex(t *testing.T) {
	var got []string
	for _, e := range parse(t, written).entries {
		got = append(got, fmt.Sprintf("%s %s %d %s", e.MediaType, e.Digest[:8], e.Size, e.name))
	}
	want(t, "entries", got, []string{"m sha256:a 1 v1", " sha256:b 2 ", "m sha256:b 2 v1"})
}

// TestIndexIsKept: what is not changed is written as it was.
func TestIndexIsKept(t *testing.T) {
	x := parse(t, written)
	first := string(x.entries[0].raw)
	if !strings.Contains(written, first) {
		t.Errorf("an entry is %s", first)
	}
	d := image.Descriptor{MediaType: "n", Digest: a, Size: 3}
	x.put(d, "v2")
	entry := `{"mediaType":"n","digest":"` + string(a) + `","size":3,"annotations":{"org.opencontainers.image.ref.name":"v2"}}`
	head, rest, _ := strings.Cut(written, "\n      {")
	_, tail, _ := strings.Cut(rest, "\n   ]")
	entries := string(x.entries[0].raw) + "," + string(x.entries[1].raw) + "," + string(x.entries[2].raw) + "," + entry
	want(t, "with one more", string(x.bytes()), head+entries+"]"+tail)
	want(t, "read again", parse(t, string(x.bytes())).names(""), []string{"v1", "v2"})
}

func TestPut(t *testing.T) {
	x := parse(t, written)
	d := image.Descriptor{MediaType: "n", Digest: a, Size: 3}
	want(t, "put", x.put(d, "v1"), true)
	want(t, "all of a name are one now", len(x.entries), 2)
	want(t, "in the place of the first", x.entries[0].Digest, a)
	want(t, "put without a name what is there", x.put(d, ""), false)
	want(t, "put without a name", x.put(image.Descriptor{Digest: digest.FromString("c")}, ""), true)
	want(t, "put without a name", x.put(image.Descriptor{Digest: digest.FromString("c")}, ""), false)
	want(t, "put without a name", len(x.entries), 3)
	want(t, "remove", x.remove(func(e entry) bool { return e.name == "v1" }), true)
	want(t, "remove again", x.remove(func(e entry) bool { return e.name == "v1" }), false)
	want(t, "names", x.names(""), nil)
}

var hostile = map[string]string{
	"nothing":               "",
	"text":                  "hello",
	"an array":              "[]",
	"no manifests":          "{}",
	"null":                  `{"manifests":null}`,
	"an object":             `{"manifests":{}}`,
	"two lists":             `{"manifests":[],"manifests":[]}`,
	"two lists, to some":    `{"manifests":[],"Manifests":[]}`,
	"cut off":               `{"manifests":[`,
	"more after it":         `{"manifests":[]} {}`,
	"an entry that is none": `{"manifests":[1]}`,
	"no digest":             `{"manifests":[{"size":1}]}`,
	"a path as digest":      `{"manifests":[{"digest":"sha256:../../../etc/passwd","size":1}]}`,
	"an unknown hash":       `{"manifests":[{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":1}]}`,
	"a negative size":       `{"manifests":[{"digest":"` + string(a) + `","size":-1}]}`,
	"a huge size":           `{"manifests":[{"digest":"` + string(a) + `","size":1e30}]}`,
	"a name that is none":   `{"manifests":[{"digest":"` + string(a) + `","size":1,"annotations":{"org.opencontainers.image.ref.name":{}}}]}`,
	"deep":                  `{"manifests":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`,
}

func TestParseIndexRefuses(t *testing.T) {
	for name, raw := range hostile {
		_, err := parseIndex([]byte(raw))
		wantErr(t, name, err, image.ErrInvalid)
	}
}

// TestHostileIndex is found in a layout that was open before.
func TestHostileIndex(t *testing.T) {
	dir := t.TempDir()
	l := create(t, dir)
	d, raw := pushImage(t, l, "hello")
	all := maps.Clone(hostile)
	all["huge"] = emptyIndex + strings.Repeat(" ", maxIndex)
	for name, content := range all {
		writeFile(t, content, dir, "index.json")
		_, err := l.Resolve(t.Context(), "v1")
		wantErr(t, name+": resolve", err, image.ErrInvalid)
		_, err = tags(t.Context(), l)
		wantErr(t, name+": tags", err, image.ErrInvalid)
		wantErr(t, name+": tag", l.Tag(t.Context(), d, raw, "v1"), image.ErrInvalid)
		wantErr(t, name+": delete", l.Delete(t.Context(), "v1"), image.ErrInvalid)
		want(t, name+": it is as it was", len(readFile(t, dir, "index.json")), len(content))
	}
	resolve(t, l, d.Digest.String(), d)
}

// FuzzIndex: whatever comes, what is let through can be used as it is, and is written as it was.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(written), "v1")
	f.Add([]byte(emptyIndex), "")
	for _, raw := range hostile {
		f.Add([]byte(raw), "v1")
	}
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		x, err := parseIndex(raw)
		if err != nil {
			if !errors.Is(err, image.ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
			return
		}
		for _, e := range x.entries {
			if e.Digest.Validate() != nil || e.Size < 0 || !bytes.Contains(raw, e.raw) {
				t.Errorf("let %+v through", e)
			}
		}
		same(t, "unchanged", raw, x.bytes())
		x.put(image.Descriptor{MediaType: "m", Digest: digest.FromString("new"), Size: 1}, strings.ToValidUTF8(name, "?"))
		again, err := parseIndex(x.bytes())
		if err != nil || len(again.entries) != len(x.entries) {
			t.Errorf("with one more: %s, %v", x.bytes(), err)
		}
	})
}

// same compares the meaning of two documents.
func same(t *testing.T, what string, one, other []byte) {
	t.Helper()
	var documents [2]any
	for i, raw := range [][]byte{one, other} {
		if err := json.Unmarshal(raw, &documents[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(documents[0], documents[1]) {
		t.Errorf("%s: %s and %s differ", what, one, other)
	}
}
