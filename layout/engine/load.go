package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// maxConfig is the longest config of an image that is read, in bytes.
const maxConfig = 4 << 20

// maxMessage is the longest of what an engine says while it loads an image, in bytes.
const maxMessage = 1 << 20

// item is an image that is to be put into the engine.
type item struct {
	image.Descriptor
	raw []byte
	m   *image.Manifest
}

// ids are what an engine may call the image: by its config or, where containerd keeps its images, by its manifest.
func (i *item) ids() []digest.Digest { return []digest.Digest{i.m.Config.Digest, i.Digest} }

// has tells whether the engine has an image, by one of its IDs.
func (e *Engine) has(ctx context.Context, i *item) (bool, error) {
	for _, id := range i.ids() {
		found, err := e.client.inspect(ctx, id.String())
		if err == nil && found.ID == id {
			return true, nil
		}
		if err != nil && !missing(err) {
			return false, err
		}
	}
	return false, nil
}

// name gives an image that the engine has one name more.
func (e *Engine) name(ctx context.Context, i *item, at image.Repository, tag string) error {
	var err error
	for _, id := range i.ids() {
		if err = e.client.tag(ctx, id, at, tag); !missing(err) {
			return err
		}
	}
	return err
}

// missing tells that the engine answered, and does not have it.
func missing(err error) bool {
	return errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrUnavailable)
}

// put gives the engine an image that was pushed, and a name to it. Where containerd keeps the images, a load that fails has moved the
// name before: there the name comes after it; elsewhere it comes in one step with the image.
func (e *Engine) put(ctx context.Context, i *item, at image.Repository, tag string) error {
	modern, err := e.client.modern(ctx)
	if err != nil {
		return err
	}
	if !modern {
		return e.load(ctx, i, at.String()+":"+tag)
	}
	if err := e.load(ctx, i, ""); err != nil {
		return err
	}
	return e.name(ctx, i, at, tag)
}

// load gives the engine an image that was pushed, whole, and with a name unless that is "".
func (e *Engine) load(ctx context.Context, i *item, name string) error {
	a, err := e.archive(ctx, i, name)
	if err != nil {
		return err
	}
	defer a.release()
	id, err := e.client.load(ctx, a)
	if err != nil {
		return err
	}
	return e.loaded(ctx, i, cmp.Or(name, id), a.parts[0].blob)
}

// load sends an archive. It returns the ID of an image without a name, if the engine told it.
func (c *client) load(ctx context.Context, a *archive) (id string, err error) {
	r, w := io.Pipe()
	var writing sync.WaitGroup
	defer writing.Wait()
	defer r.Close()
	writing.Go(func() { w.CloseWithError(a.write(ctx, w)) })
	// Not quiet: an engine that tells how far it is, is not silent.
	body, err := c.do(ctx, request{
		method: http.MethodPost, path: "/images/load", query: url.Values{"quiet": {"0"}}, body: r, long: true,
	})
	if err != nil {
		return "", err
	}
	defer body.Close()
	return readProgress(body)
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
	if words == "" {
		return nil
	}
	words = clean(words)
	if noRoom(words) {
		return failuref(image.ErrQuota, "the engine has no room for it: %s", words)
	}
	return failuref(image.ErrRefused, "the engine does not take it: %s", words)
}

// loaded makes sure that the engine has what it was given, and under that name or ID. Where it calls an image by a manifest of its own
// making, that image has the same layers.
func (e *Engine) loaded(ctx context.Context, i *item, name string, config *blob) error {
	if name == "" {
		has, err := e.has(ctx, i)
		if err == nil && !has {
			err = fmt.Errorf("the engine took it, and does not have it: %w", image.ErrRefused)
		}
		return err
	}
	found, err := e.client.inspect(ctx, name)
	if err != nil || slices.Contains(i.ids(), found.ID) {
		return err
	}
	var doc v1.Image
	raw, err := io.ReadAll(io.LimitReader(config.open(), maxConfig))
	if err == nil {
		err = json.Unmarshal(raw, &doc)
	}
	if err != nil || len(doc.RootFS.DiffIDs) == 0 || !slices.Equal(doc.RootFS.DiffIDs, found.RootFS.Layers) {
		return fmt.Errorf("the engine has another image under that name now, %s and not %s: %w", found.ID, i.m.Config.Digest, image.ErrRefused)
	}
	return nil
}
