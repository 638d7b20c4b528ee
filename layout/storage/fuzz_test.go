//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// FuzzLayer: whatever a layer is, its tar ends, and well only if it is what it should be.
func FuzzLayer(f *testing.F) {
	plain := []byte("not a tar, but what is one?")
	w, _ := zstd.NewWriter(nil)
	for _, seed := range [][]byte{nil, plain, zipped(plain), w.EncodeAll(plain, nil), {0x42, 0x5A, 0x68}, {0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00},
		[]byte("\x1f\x8b\b7000000\x00\x00")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 1<<16 {
			return
		}
		r := unpacked(io.NopCloser(bytes.NewReader(raw)), digest.FromBytes(plain))
		defer r.Close()
		got, err := io.ReadAll(io.LimitReader(r, 1<<24))
		if right := bytes.Equal(got, plain); err == nil && !right && len(got) < 1<<24 || r.whole && !right {
			t.Errorf("%q is taken for whole, %v", got, err)
		}
	})
}

// FuzzConfig: what a config says of diff IDs is there for each layer, and sound.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"created":"2001-09-09T01:46:40Z","rootfs":{"diff_ids":["` + digest.FromString("x").String() + `"]}}`))
	f.Add([]byte(`{"created":1,"rootfs":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := describe("", raw)
		u := unpacking{m: &image.Manifest{Config: &d, Layers: make([]image.Descriptor, 1)}}
		if err := u.parseConfig(raw); err != nil {
			return
		}
		if len(u.diffIDs) != 1 || u.diffIDs[0].Validate() != nil || u.config == nil {
			t.Errorf("%s is taken for %+v", raw, u)
		}
	})
}

// FuzzParse: a store's place is absolute, or none.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "/a", "vfs@/a+/b:c=d,e", "@", "+", ":", "@+:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		o, err := parse(spec)
		if err == nil && (o.GraphRoot == "" || o.GraphRoot[0] != '/' || o.RunRoot == "" || o.RunRoot[0] != '/') {
			t.Errorf("%q is %+v", spec, o)
		}
	})
}
