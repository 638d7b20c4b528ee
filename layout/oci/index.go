package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// maxIndex is the longest index.json that is read, in bytes: some two hundred thousand images.
const maxIndex = 64 << 20

// emptyIndex is the index.json of a layout without images.
const emptyIndex = `{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageIndex + `","manifests":[]}`

// AnnotationFullName is the full name of an image with its tag, in an index.json of docker, containerd or nerdctl.
const AnnotationFullName = "io.containerd.image.name"

// entry is one image of an index.json.
type entry struct {
	image.Descriptor        // media type, digest and size only
	name             string // what it goes by, "" for none
	full             string // its full name, "" for none
	foreign          bool   // it is another repository's
	raw              []byte // as it is written
}

// index is an index.json: its entries, and all around them as it is written.
type index struct {
	head, tail []byte // up to and with the bracket that opens the list, and from the one that closes it on
	entries    []entry
	repository string // whose tags the names are, "" for no one's
}

// index reads index.json, as it is now.
func (l *Layout) index(ctx context.Context) (*index, error) {
	raw, err := files.Read(ctx, l.files, v1.ImageIndexFile, maxIndex)
	if errors.Is(err, fs.ErrNotExist) && l.tar {
		raw, err = []byte(emptyIndex), nil
	}
	if err != nil {
		return nil, err
	}
	x, err := parseIndex(raw)
	if err == nil && l.repository != "" {
		x.within(l.repository)
	}
	return x, err
}

// within has the names be the tags of a repository.
func (x *index) within(repository string) {
	x.repository = repository
	for i := range x.entries {
		e := &x.entries[i]
		e.name, e.foreign = "", e.full != ""
		if tag, ok := strings.CutPrefix(e.full, repository+":"); ok && image.ValidTag(tag) {
			e.name, e.foreign = tag, false
		}
	}
}

// Entries are the images that an index.json lists, in its order: media type, digest, size, and those of the annotations that name
// them. What is no index.json is ErrInvalid.
func Entries(raw []byte) ([]image.Descriptor, error) {
	x, err := parseIndex(raw)
	if err != nil {
		return nil, err
	}
	var all []image.Descriptor
	for _, e := range x.entries {
		e.Annotations = annotations(e.name, e.full)
		all = append(all, e.Descriptor)
	}
	return all, nil
}

func annotations(name, full string) map[string]string {
	all := map[string]string{}
	if name != "" {
		all[v1.AnnotationRefName] = name
	}
	if full != "" {
		all[AnnotationFullName] = full
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// parseIndex reads an index.json. What is no JSON, or names content by impossible digests or sizes, is ErrInvalid.
func parseIndex(raw []byte) (*index, error) {
	if !json.Valid(raw) {
		return nil, fmt.Errorf("%s is not JSON: %w", v1.ImageIndexFile, image.ErrInvalid)
	}
	p := &indexParser{raw: raw, dec: json.NewDecoder(bytes.NewReader(raw))}
	if err := p.object(); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", v1.ImageIndexFile, err, image.ErrInvalid)
	}
	if p.index.head == nil {
		return nil, fmt.Errorf("%s has no manifests: %w", v1.ImageIndexFile, image.ErrInvalid)
	}
	return &p.index, nil
}

// indexParser takes an index.json apart without letting go of how it is written.
type indexParser struct {
	raw   []byte
	dec   *json.Decoder
	index index
}

func (p *indexParser) object() error {
	if start, err := p.dec.Token(); err != nil || start != json.Delim('{') {
		return errors.New("it is no object")
	}
	for p.dec.More() {
		key, err := p.dec.Token()
		if err != nil {
			return err
		}
		// Other readers are not as strict, and would see another list.
		if strings.EqualFold(key.(string), "manifests") {
			err = p.list()
		} else {
			err = p.dec.Decode(&json.RawMessage{})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *indexParser) list() error {
	if p.index.head != nil {
		return errors.New("it has two lists of manifests")
	}
	start, err := p.dec.Token()
	if err != nil || start != json.Delim('[') {
		return errors.New("its manifests are no list")
	}
	p.index.head = p.raw[:p.dec.InputOffset()]
	for p.dec.More() {
		if err := p.entry(); err != nil {
			return err
		}
	}
	if _, err := p.dec.Token(); err != nil {
		return err
	}
	p.index.tail = p.raw[p.dec.InputOffset()-1:]
	return nil
}

func (p *indexParser) entry() error {
	var doc struct {
		MediaType   string        `json:"mediaType"`
		Digest      digest.Digest `json:"digest"`
		Size        int64         `json:"size"`
		Annotations struct {
			// Nothing else of them is of use here, and there may be very many.
			Name string `json:"org.opencontainers.image.ref.name"`
			Full string `json:"io.containerd.image.name"`
		} `json:"annotations"`
	}
	var raw json.RawMessage
	if err := p.dec.Decode(&raw); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return err
	}
	if err := doc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %s: %v", files.Clean(doc.Digest.String()), err)
	}
	if doc.Size < 0 {
		return fmt.Errorf("%s has the size %d", doc.Digest, doc.Size)
	}
	d := image.Descriptor{MediaType: doc.MediaType, Digest: doc.Digest, Size: doc.Size}
	p.index.entries = append(p.index.entries, entry{Descriptor: d, name: doc.Annotations.Name, full: doc.Annotations.Full, raw: raw})
	return nil
}

// bytes is the index.json again. What was not changed is written as it was.
func (x *index) bytes() []byte {
	var b bytes.Buffer
	b.Write(x.head)
	for i, e := range x.entries {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(e.raw)
	}
	b.Write(x.tail)
	return b.Bytes()
}

// newEntry is d under a name, or under none.
func (x *index) newEntry(d image.Descriptor, name string) entry {
	d = image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	e := entry{Descriptor: d, name: name}
	if x.repository != "" && name != "" {
		e.full = x.repository + ":" + name
	}
	d.Annotations = annotations(e.name, e.full)
	e.raw = marshal(d)
	return e
}

// put makes d what a name names, in the place of what it named. Without a name, d is listed unless it is, under whatever name.
func (x *index) put(d image.Descriptor, name string) (changed bool) {
	i := slices.IndexFunc(x.entries, func(e entry) bool {
		return name != "" && e.name == name || name == "" && e.Digest == d.Digest
	})
	switch {
	case i < 0:
		x.entries = append(x.entries, x.newEntry(d, name))
		return true
	case name == "":
		return false
	}
	x.entries[i] = x.newEntry(d, name)
	rest := slices.DeleteFunc(x.entries[i+1:], func(e entry) bool { return e.name == name })
	x.entries = x.entries[:i+1+len(rest)]
	return true
}

// remove takes entries out, and tells whether there were any.
func (x *index) remove(which func(entry) bool) bool {
	before := len(x.entries)
	x.entries = slices.DeleteFunc(x.entries, which)
	return len(x.entries) < before
}

// find is the first entry that is what is looked for.
func (x *index) find(which func(entry) bool) (entry, bool) {
	i := slices.IndexFunc(x.entries, which)
	if i < 0 {
		return entry{}, false
	}
	return x.entries[i], true
}
