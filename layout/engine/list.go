package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"

	"github.com/regfs/regfs/image"
)

// How much is read, in bytes: of a list of images, some hundred thousand of them; of one of these; and of all that is said of an
// image, with the most of its config in it.
const (
	maxList      = 64 << 20
	maxEntry     = 1 << 20
	maxInspected = 8 << 20
)

// name is one name of an image.
type name struct {
	image.Repository
	tag string
	id  digest.Digest
}

// names lists the names of all images, in no order.
func (c *client) names(ctx context.Context) ([]name, error) {
	body, err := c.do(ctx, request{method: http.MethodGet, path: "/images/json"})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	names, err := readNames(io.LimitReader(body, maxList))
	return names, garbled(err)
}

// readNames reads a list of images, one after the other.
func readNames(r io.Reader) ([]name, error) {
	limit := &io.LimitedReader{R: r, N: maxEntry}
	dec := json.NewDecoder(limit)
	start, err := dec.Token()
	if err == nil && start != json.Delim('[') {
		err = errors.New("the images are no list")
	}
	if err != nil {
		return nil, err
	}
	var names []name
	for dec.More() {
		var doc struct {
			ID       digest.Digest `json:"Id"`
			RepoTags []string
		}
		if err := dec.Decode(&doc); err != nil {
			return nil, err
		}
		limit.N = maxEntry
		for _, text := range doc.RepoTags {
			if n, ok := parseName(text); ok && doc.ID.Validate() == nil {
				n.id = doc.ID
				names = append(names, n)
			}
		}
	}
	_, err = dec.Token()
	return names, err
}

// parseName reads a name as the engine writes it. An image that has none is listed as "<none>:<none>".
func parseName(text string) (name, bool) {
	named, err := reference.ParseNormalizedNamed(text)
	tagged, ok := named.(reference.NamedTagged)
	if err != nil || !ok {
		return name{}, false
	}
	at := image.Repository{Host: reference.Domain(tagged), Name: reference.Path(tagged)}
	return name{Repository: at, tag: tagged.Tag()}, image.ValidHost(at.Host) && image.ValidRepository(at.Name) && image.ValidTag(tagged.Tag())
}

// repository lists the names in one repository. ErrNotFound if there are none.
func (c *client) repository(ctx context.Context, at image.Repository) ([]name, error) {
	names, err := c.names(ctx)
	if err != nil {
		return nil, err
	}
	var here []name
	for _, n := range names {
		if n.Repository == at {
			here = append(here, n)
		}
	}
	if len(here) == 0 {
		return nil, failuref(image.ErrNotFound, "no image has a name in that repository")
	}
	return here, nil
}

// inspected is what the engine says of one image.
type inspected struct {
	ID     digest.Digest `json:"Id"`
	RootFS struct{ Layers []digest.Digest }
}

// inspect asks for one image, by a name with a tag, or by an ID.
func (c *client) inspect(ctx context.Context, name string) (inspected, error) {
	var found inspected
	body, err := c.do(ctx, request{method: http.MethodGet, path: "/images/" + name + "/json"})
	if err == nil {
		err = decode(body, maxInspected, &found)
	}
	if err == nil && found.ID.Validate() != nil {
		err = garbled(errors.New("an image without an ID"))
	}
	return found, err
}

// tag gives a name to an image that is there.
func (c *client) tag(ctx context.Context, id digest.Digest, at image.Repository, tag string) error {
	query := url.Values{"repo": {at.String()}, "tag": {tag}}
	return c.call(ctx, http.MethodPost, "/images/"+id.String()+"/tag", query)
}

// remove takes a name from an image, and removes the image if that was the last one it had; or an image by its ID.
func (c *client) remove(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/images/"+name, url.Values{"noprune": {"1"}})
}
