package layer

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

func TestTableNotThere(t *testing.T) {
	raw := everyKind(t)
	wrong := digest.FromString("something else").String()
	for name, c := range map[string]struct {
		format  string
		change  func(notes map[string]string)
		problem string
	}{
		"eStargz, another digest":       {"eStargz", func(n map[string]string) { n[noteEstargz] = wrong }, "digest"},
		"eStargz, no digest":            {"eStargz", func(n map[string]string) { n[noteEstargz] = "sha256:12" }, "digest"},
		"eStargz, an unknown algorithm": {"eStargz", func(n map[string]string) { n[noteEstargz] = "md5:" + strings.Repeat("0", 32) }, "digest"},
		"no eStargz":                    {"zstd:chunked", func(n map[string]string) { clear(n); n[noteEstargz] = wrong }, "place"},
		"chunked, another digest":       {"zstd:chunked", func(n map[string]string) { n[noteChunked] = wrong }, "digest"},
		"chunked, no position":          {"zstd:chunked", func(n map[string]string) { n[notePosition] = "1:2:3" }, "position"},
		"chunked, five numbers":         {"zstd:chunked", func(n map[string]string) { n[notePosition] += ":1" }, "position"},
		"chunked, a negative position":  {"zstd:chunked", func(n map[string]string) { n[notePosition] = "-5:100:1000:1" }, "position"},
		"chunked, too far":              {"zstd:chunked", func(n map[string]string) { n[notePosition] = "100:9223372036854775807:1000:1" }, "position"},
		"chunked, no number":            {"zstd:chunked", func(n map[string]string) { n[notePosition] = "100:99999999999999999999:1000:1" }, "position"},
		"chunked, another type":         {"zstd:chunked", func(n map[string]string) { n[notePosition] = "100:100:1000:2" }, "position"},
		"chunked, too large":            {"zstd:chunked", func(n map[string]string) { n[notePosition] = "100:100:999999999:1" }, "unpacked"},
		"chunked, elsewhere":            {"zstd:chunked", func(n map[string]string) { n[notePosition] = "100:100:1000:1" }, "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			blob, notes := tabled[c.format](t, raw)
			c.change(notes)
			p.scannedInstead(t, blob, notes, c.problem)
		})
	}
}

// scannedInstead tests that a layer is shown as if nobody vouched for a table, and that the reason is told once for each time that it
// is opened.
func (p *place) scannedInstead(t *testing.T, blob []byte, notes map[string]string, problem string) {
	t.Helper()
	d := p.add(blob)
	want := factsOf(t, newPlace(t).with(blob).mustOpen(t, d))
	d.Annotations = notes
	for range 2 {
		p.problems = nil
		if diff := cmp.Diff(want, factsOf(t, p.mustOpen(t, d))); diff != "" {
			t.Error(diff)
		}
		if len(p.problems) != 1 || !strings.Contains(p.problems[0], problem) {
			t.Errorf("problems %q without %q", p.problems, problem)
		}
		p.again()
	}
}

func TestTableAtOtherPlaces(t *testing.T) {
	blob, notes := makeEstargz(t, everyKind(t))
	t.Run("that have no ranges", func(t *testing.T) {
		p := newPlace(t)
		d := p.add(blob)
		want := factsOf(t, newPlace(t).with(blob).mustOpen(t, d))
		d.Annotations = notes
		f, err := p.Layers.open(t.Context(), &rangeless{p.blobs, image.ErrUnsupported}, d)
		if err != nil {
			t.Fatal(err)
		}
		defer f.release()
		if diff := cmp.Diff(want, factsOf(t, f)); diff != "" || len(p.problems) > 0 {
			t.Error(diff, p.problems)
		}
	})
	t.Run("that can't be reached", func(t *testing.T) {
		p := newPlace(t)
		d := p.add(blob)
		d.Annotations = notes
		if _, err := p.Layers.open(t.Context(), &rangeless{p.blobs, image.ErrUnavailable}, d); !errors.Is(err, image.ErrUnavailable) {
			t.Error(err)
		}
		if p.fetched.Load() != 0 || p.mustOpen(t, d) == nil || p.fetched.Load() >= int64(len(blob)) {
			t.Error("it was scanned")
		}
	})
}

type rangeless struct {
	*blobs
	err error
}

func (r *rangeless) FetchRange(context.Context, image.Descriptor, int64, int64) (io.ReadCloser, error) {
	return nil, r.err
}

func TestIndexNameOfTables(t *testing.T) {
	d := image.Descriptor{Digest: digest.FromString("x"), Size: 1}
	seen := map[string]bool{}
	for _, notes := range []map[string]string{
		nil, {noteEstargz: "a"}, {noteEstargz: "b"}, {noteChunked: "a", notePosition: "b"}, {noteChunked: "a", notePosition: "c"}, {noteChunked: "b", notePosition: "b"},
	} {
		d.Annotations = notes
		seen[indexName(d)] = true
	}
	if len(seen) != 6 {
		t.Errorf("%d names: %v", len(seen), seen)
	}
	d.Annotations = map[string]string{noteChunked: "a", "unrelated": "b"}
	if name := indexName(d); name != indexName(image.Descriptor{Digest: d.Digest}) {
		t.Error(name)
	}
}

// scanned is a sound archive, without its end.
func scanned(t testing.TB) []byte {
	return tarOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "scanned"}}, func(string) []byte { return []byte("hello") })[:1024]
}

// stored is a gzip member that compresses nothing.
func stored(b []byte) []byte {
	all := []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")
	for part := range slices.Chunk(b, math.MaxUint16) {
		all = binary.LittleEndian.AppendUint16(append(all, 0), uint16(len(part)))
		all = append(binary.LittleEndian.AppendUint16(all, ^uint16(len(part))), part...)
	}
	all = append(all, 1, 0, 0, 0xff, 0xff)
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(all, crc32.ChecksumIEEE(b)), uint32(len(b)))
}

// wrapEstargz makes an eStargz layer with this table behind a sound archive.
func wrapEstargz(t testing.TB, table []byte) ([]byte, map[string]string) {
	first := stored(scanned(t))
	last := stored(tarOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: estargzTable}}, func(string) []byte { return table }))
	footer := slices.Concat([]byte("\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x1a\x00SG\x16\x00"), fmt.Appendf(nil, "%016xSTARGZ", len(first)),
		[]byte("\x01\x00\x00\xff\xff"), make([]byte, 8))
	return slices.Concat(first, last, footer), map[string]string{noteEstargz: digest.FromBytes(table).String()}
}

var packer, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))

// wrapChunked makes a zstd:chunked layer of it.
func wrapChunked(t testing.TB, table []byte) ([]byte, map[string]string) {
	first := packer.EncodeAll(append(scanned(t), make([]byte, 1024)...), nil)
	packed := packer.EncodeAll(table, nil)
	frame := append(binary.LittleEndian.AppendUint32([]byte("\x50\x2a\x4d\x18"), uint32(len(packed))), packed...)
	return slices.Concat(first, frame), map[string]string{
		noteOldChunked: digest.FromBytes(packed).String(), noteOldPosition: fmt.Sprintf("%d:%d:%d:1", len(first)+8, len(packed), len(table)),
	}
}

var wraps = map[string]func(t testing.TB, table []byte) ([]byte, map[string]string){"eStargz": wrapEstargz, "zstd:chunked": wrapChunked}

const aDigest = `"chunkDigest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"`

func TestTableHostile(t *testing.T) {
	entries := func(s string) string { return `{"version":1,"entries":[` + s + `]}` }
	for name, c := range map[string]struct{ table, problem string }{
		"empty":                  {" ", "EOF"},
		"no JSON":                {"hello", "invalid"},
		"no object":              {"[]", "instead of"},
		"cut":                    {`{"version":1,"entries":[{"type":"dir","name":"a"`, "EOF"},
		"entries are no list":    {`{"version":1,"entries":{}}`, "instead of"},
		"version 2":              {`{"version":2,"entries":[]}`, "version"},
		"no version":             {`{"entries":[]}`, "version"},
		"no type":                {entries(`{"name":"a"}`), "type"},
		"unknown type":           {entries(`{"name":"a","type":"socket"}`), "type"},
		"a size that is no size": {entries(`{"name":"a","type":"reg","size":"1"}`), "string"},
		"a size without end":     {entries(`{"name":"a","type":"reg","size":99999999999999999999}`), "number"},
		"negative size":          {entries(`{"name":"a","type":"reg","size":-1,"offset":10,` + aDigest + `}`), "bytes"},
		"more than all":          {entries(`{"name":"a","type":"reg","size":9223372036854775807,"offset":10,` + aDigest + `}`), "too much"},
		"more than all together": {entries(strings.Repeat(`{"name":"a","type":"reg","size":1099511627776,"chunkType":"zeros"},`, 2) + `{}`), "too much"},
		"too large a chunk":      {entries(`{"name":"a","type":"reg","size":67108865,"offset":10,` + aDigest + `}`), "too much"},
		"no offset":              {entries(`{"name":"a","type":"reg","size":5,` + aDigest + `}`), "begins at 0"},
		"negative offset":        {entries(`{"name":"a","type":"reg","size":5,"offset":-1,` + aDigest + `}`), "begins at -1"},
		"out of the blob":        {entries(`{"name":"a","type":"reg","size":5,"offset":1000000,` + aDigest + `}`), "begins at"},
		"ends out of the blob":   {entries(`{"name":"a","type":"reg","size":5,"offset":10,"endOffset":1000000,` + aDigest + `}`), "ends at"},
		"ends at its beginning":  {entries(`{"name":"a","type":"reg","size":5,"offset":10,"endOffset":10,` + aDigest + `}`), "ends at"},
		"inner offset":           {entries(`{"name":"a","type":"reg","size":5,"offset":10,"innerOffset":67108864,` + aDigest + `}`), "too much"},
		"negative inner offset":  {entries(`{"name":"a","type":"reg","size":5,"offset":10,"innerOffset":-1,` + aDigest + `}`), "too much"},
		"no digest":              {entries(`{"name":"a","type":"reg","size":5,"offset":10}`), "digest"},
		"another digest":         {entries(`{"name":"a","type":"reg","size":5,"offset":10,"chunkDigest":"sha512:2cf2"}`), "digest"},
		"no hex":                 {entries(`{"name":"a","type":"reg","size":5,"offset":10,"chunkDigest":"sha256:` + strings.Repeat("x", 64) + `"}`), "byte"},
		"backwards": {entries(`{"name":"a","type":"reg","size":5,"offset":20,` + aDigest + `},
			{"name":"b","type":"reg","size":5,"offset":10,` + aDigest + `}`), "ends at"},
		"a chunk of nothing":    {entries(`{"name":"a","type":"chunk","chunkSize":1,"offset":10,` + aDigest + `}`), "no sense"},
		"a chunk of a folder":   {entries(`{"name":"a","type":"dir"},{"name":"a","type":"chunk","chunkSize":1,"offset":10,` + aDigest + `}`), "no sense"},
		"a chunk too much":      {entries(`{"name":"a","type":"reg","size":5,"offset":10,` + aDigest + `},{"name":"a","type":"chunk","chunkOffset":5,"chunkSize":1,"offset":20,` + aDigest + `}`), "no sense"},
		"chunks that overlap":   {entries(`{"name":"a","type":"reg","size":5,"chunkSize":3,"offset":10,` + aDigest + `},{"name":"a","type":"chunk","chunkOffset":2,"chunkSize":3,"offset":20,` + aDigest + `}`), "no sense"},
		"a chunk missing":       {entries(`{"name":"a","type":"reg","size":5,"chunkSize":3,"offset":10,` + aDigest + `},{"name":"b","type":"dir"}`), "no sense"},
		"the last one missing":  {entries(`{"name":"a","type":"reg","size":5,"chunkSize":3,"offset":10,` + aDigest + `}`), "no sense"},
		"a negative chunk":      {entries(`{"name":"a","type":"reg","size":5,"chunkSize":-3,"offset":10,` + aDigest + `}`), "no sense"},
		"a chunk of a type":     {entries(`{"name":"a","type":"reg","size":5,"chunkType":"ones","offset":10,` + aDigest + `}`), "type"},
		"a time":                {entries(`{"name":"a","type":"dir","modtime":"yesterday"}`), "time"},
		"an attribute":          {entries(`{"name":"a","type":"dir","xattrs":{"a":"*"}}`), "base64"},
		"a long entry":          {entries(`{"name":"a","type":"dir","linkName":"` + strings.Repeat("a", 3*maxTableEntry) + `"}`), "too much"},
		"a long unknown member": {`{"a":"` + strings.Repeat("a", 3*maxTableEntry) + `"}`, "too much"},
		"much space":            {`{"version":1,` + strings.Repeat(" ", 3*maxTableEntry) + `"entries":[]}`, "too much"},
		"deep":                  {`{"a":` + strings.Repeat("[", 20_000), "depth"},
	} {
		for format, wrap := range wraps {
			t.Run(format+", "+name, func(t *testing.T) {
				blob, notes := wrap(t, []byte(c.table))
				newPlace(t).scannedInstead(t, blob, notes, c.problem)
			})
		}
	}
}

// Like a scan does, a table leaves out what no file system can hold.
func TestTableLeavesOut(t *testing.T) {
	table := `{"unknown":[{}],"version":1,"entries":[
		{"name":"../a","type":"dir"}, {"name":"a/../../b","type":"symlink","linkName":"x"}, {"name":"c","type":"hardlink","linkName":"../x"},
		{"name":"d","type":"dir","uid":-1}, {"name":"e","type":"symlink"}, {"name":"/f//g","type":"dir","mode":16877},
		{"name":"` + strings.Repeat("n", 256) + `","type":"dir"}, {"name":"h","type":"dir","xattrs":{"trusted.overlay.redirect":"eA==","user.x":"eA=="}},
		{"name":"./stargz.index.json","type":"reg"},{"name":"/.prefetch.landmark","type":"reg","size":2,"chunkType":"zeros"}]}`
	for format, wrap := range wraps {
		t.Run(format, func(t *testing.T) {
			p := newPlace(t)
			blob, notes := wrap(t, []byte(table))
			d := p.add(blob)
			d.Annotations = notes
			folder := func(mode uint32) Info { return Info{Mode: unix.S_IFDIR | mode, Links: 1, Mtime: time.Unix(0, 0)} }
			implied := facts{Info: folder(0o755)}
			implied.Info.Implied = true
			got := factsOf(t, p.mustOpen(t, d))
			implied.Info.Mtime = got[""].Info.Mtime // that it has one
			want := map[string]facts{"": implied, "f": implied, "f/g": {Info: folder(0o755)}, "h": {Info: folder(0), Xattrs: map[string]string{"user.x": "x"}}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if len(p.problems) != 6 {
				t.Errorf("%d problems: %q", len(p.problems), p.problems)
			}
		})
	}
}
