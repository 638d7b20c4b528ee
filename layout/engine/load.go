package engine

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// maxConfig is the longest config of an image that is read, in bytes.
const maxConfig = 4 << 20

// maxMessage is the longest of what an engine says while it loads an image, in bytes.
const maxMessage = 1 << 20

// zstdMagic begins what zstd compressed.
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// archive is an image as the engine takes it: the files of what docker save writes.
type archive struct {
	store *store
	index []byte // manifest.json
	names []string
	parts []*blob
}

// load gives the engine an image that was pushed, whole, and with a name unless that is "". It gets the name in the same step.
func (e *Engine) load(ctx context.Context, m *image.Manifest, name string) error {
	a, err := e.archive(ctx, m, name)
	if err != nil {
		return err
	}
	defer a.release()
	r, w := io.Pipe()
	var writing sync.WaitGroup
	defer writing.Wait()
	defer r.Close()
	writing.Go(func() { w.CloseWithError(a.write(ctx, w)) })
	// Not quiet: an engine that tells how far it is, is not silent.
	body, err := e.client.do(ctx, request{
		method: http.MethodPost, path: "/images/load", query: url.Values{"quiet": {"0"}}, body: r, long: true,
	})
	if err != nil {
		return err
	}
	defer body.Close()
	id, err := readProgress(body)
	if err != nil {
		return err
	}
	return e.loaded(ctx, m, cmp.Or(name, id, m.Config.Digest.String()), a.parts[0])
}

// archive arranges what an image takes. What was not pushed, or is not here any more, is ErrNotFound.
func (e *Engine) archive(ctx context.Context, m *image.Manifest, name string) (*archive, error) {
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: m.Config.Digest.Encoded() + ".json", Layers: []string{}}
	if name != "" {
		entry.RepoTags = []string{name}
	}
	a := &archive{store: e.pushed}
	err := a.add(ctx, *m.Config, entry.Config)
	for _, l := range m.Layers {
		file := l.Digest.Encoded() + ".tar"
		if err == nil && !slices.Contains(entry.Layers, file) {
			err = a.add(ctx, l, file)
		}
		entry.Layers = append(entry.Layers, file)
	}
	if err != nil {
		a.release()
		return nil, err
	}
	a.index, err = json.Marshal([]any{entry})
	return a, err
}

// add takes a blob that was pushed.
func (a *archive) add(ctx context.Context, d image.Descriptor, name string) error {
	b, ok := a.store.take(d.Digest, d.Size)
	if !ok {
		return fmt.Errorf("%s, which the image takes, was not pushed, or it was removed meanwhile: %w", d.Digest, image.ErrNotFound)
	}
	plain, err := a.store.plain(ctx, b)
	if err != nil {
		a.store.release(b)
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	a.names = append(a.names, name)
	a.parts = append(a.parts, plain)
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
	for _, b := range a.parts {
		a.store.release(b)
	}
}

// write writes the archive. manifest.json stands first, so that a reader knows what is coming.
func (a *archive) write(ctx context.Context, w io.Writer) error {
	t := tar.NewWriter(w)
	err := member(t, "manifest.json", int64(len(a.index)), bytes.NewReader(a.index))
	for i, b := range a.parts {
		if err == nil {
			err = member(t, a.names[i], b.size, &reader{ctx, b.open()})
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

// idSaid begins what an engine says of an image without a name that it loaded; its ID follows.
const idSaid = "Loaded image ID: "

// readProgress reads what an engine says while it loads an image, to the end. It returns the ID of one without a name, if told.
func readProgress(body io.Reader) (id string, err error) {
	limit := &io.LimitedReader{R: body}
	for dec := json.NewDecoder(limit); ; {
		limit.N = maxMessage
		var said struct {
			Stream, Error string
			Detail        struct{ Message string } `json:"errorDetail"`
		}
		err := dec.Decode(&said)
		if err == io.EOF && limit.N > 0 {
			return id, nil
		}
		if err == nil {
			err = loadError(cmp.Or(said.Detail.Message, said.Error))
		}
		if err != nil {
			return "", garbled(err)
		}
		if text, ok := strings.CutPrefix(strings.TrimSpace(said.Stream), idSaid); ok && digest.Digest(text).Validate() == nil {
			id = text
		}
	}
}

// loadError is what the words mean that an engine ends with.
func loadError(words string) error {
	switch words = clean(words); {
	case words == "":
		return nil
	case noRoom(words):
		return failuref(image.ErrQuota, "the engine has no room for it: %s", words)
	}
	return failuref(image.ErrRefused, "the engine does not take it: %s", words)
}

// loaded makes sure that the engine has what it was given, and under that name or ID. It calls an image by its config's digest or, where
// containerd keeps its images, by that of a manifest of its own making: that image has the same layers.
func (e *Engine) loaded(ctx context.Context, m *image.Manifest, name string, config *blob) error {
	found, err := e.client.inspect(ctx, name)
	if err != nil || found.ID == m.Config.Digest {
		return err
	}
	var doc v1.Image
	raw, err := io.ReadAll(io.LimitReader(config.open(), maxConfig))
	if err == nil {
		err = json.Unmarshal(raw, &doc)
	}
	if err != nil || len(doc.RootFS.DiffIDs) == 0 || !slices.Equal(doc.RootFS.DiffIDs, found.RootFS.Layers) {
		return fmt.Errorf("the engine has another image under that name now, %s and not %s: %w", found.ID, m.Config.Digest, image.ErrRefused)
	}
	return nil
}
