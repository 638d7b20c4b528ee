package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout"
)

// zstdMagic begins what zstd compressed.
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// archive is an image as the engine takes it: the files of what docker save writes.
type archive struct {
	store  *store
	modern bool // it is an image layout as well, for engines that can keep an image as it is
	files  []file
	parts  []part
}

// file is one that is made here.
type file struct {
	name string
	data []byte
}

// part is one that was pushed.
type part struct {
	name string
	*blob
}

// archive arranges what an image takes. What was not pushed, or is not here any more, is ErrNotFound.
func (e *Engine) archive(ctx context.Context, item *item, name string) (*archive, error) {
	modern, err := e.client.modern(ctx)
	if err != nil {
		return nil, err
	}
	a := &archive{store: e.pushed, modern: modern}
	if err := a.fill(ctx, item, name); err != nil {
		a.release()
		return nil, err
	}
	return a, nil
}

// fill lists the files. Those that tell what is coming stand first.
func (a *archive) fill(ctx context.Context, item *item, name string) error {
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: a.name(*item.m.Config, ".json"), Layers: []string{}}
	if name != "" {
		entry.RepoTags = []string{name}
	}
	err := a.add(ctx, *item.m.Config, entry.Config)
	for _, l := range item.m.Layers {
		file := a.name(l, ".tar")
		if err == nil && !slices.Contains(entry.Layers, file) {
			err = a.add(ctx, l, file)
		}
		entry.Layers = append(entry.Layers, file)
	}
	if err != nil {
		return err
	}
	index, err := json.Marshal([]any{entry})
	a.files = []file{{"manifest.json", index}}
	if a.modern {
		a.files = append(a.files, item.layout()...)
	}
	return err
}

// name is what a blob is called.
func (a *archive) name(d image.Descriptor, suffix string) string {
	if a.modern {
		return blobName(d.Digest)
	}
	return d.Digest.Encoded() + suffix
}

func blobName(dgst digest.Digest) string {
	return v1.ImageBlobsDir + "/" + dgst.Algorithm().String() + "/" + dgst.Encoded()
}

// layout is what makes an image layout of the archive.
func (i *item) layout() []file {
	marker := `{"imageLayoutVersion":"` + v1.ImageLayoutVersion + `"}`
	index := layout.Index([]layout.Root{{Descriptor: i.Descriptor}})
	return []file{{v1.ImageLayoutFile, []byte(marker)}, {v1.ImageIndexFile, index}, {blobName(i.Digest), i.raw}}
}

// add takes a blob that was pushed.
func (a *archive) add(ctx context.Context, d image.Descriptor, name string) error {
	b, ok := a.store.take(d.Digest, d.Size)
	if !ok {
		return fmt.Errorf("%s, which the image takes, was not pushed, or it was removed meanwhile: %w", d.Digest, image.ErrNotFound)
	}
	if !a.modern {
		plain, err := a.store.plain(ctx, b)
		if err != nil {
			a.store.release(b)
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
		b = plain
	}
	a.parts = append(a.parts, part{name, b})
	return nil
}

// plain is b without zstd, which engines before 23 do not know.
func (s *store) plain(ctx context.Context, b *blob) (*blob, error) {
	magic := make([]byte, len(zstdMagic))
	if n, err := b.file.ReadAt(magic, 0); n < len(magic) && err == io.EOF || err == nil && !bytes.Equal(magic, zstdMagic) {
		return b, nil
	} else if err != nil {
		return nil, err
	}
	r, err := zstd.NewReader(b.open(), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	file, size, err := s.fill(ctx, invalid{r}, nil)
	if err != nil {
		return nil, err
	}
	s.release(b)
	return &blob{file: file, size: size, users: 1, loose: true}, nil
}

// invalid is content that does not decompress if it can't be read.
type invalid struct{ io.Reader }

func (r invalid) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	return n, err
}

func (a *archive) release() {
	for _, p := range a.parts {
		a.store.release(p.blob)
	}
}

// write writes the archive.
func (a *archive) write(ctx context.Context, w io.Writer) error {
	t := tar.NewWriter(w)
	var err error
	for _, f := range a.files {
		if err == nil {
			err = member(t, f.name, int64(len(f.data)), bytes.NewReader(f.data))
		}
	}
	for _, p := range a.parts {
		if err == nil {
			err = member(t, p.name, p.size, &reader{ctx, p.open()})
		}
	}
	if err != nil {
		return err
	}
	return t.Close()
}

func member(t *tar.Writer, name string, size int64, r io.Reader) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{t}, r, make([]byte, 256<<10))
	return err
}
