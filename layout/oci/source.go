package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// mediaTypeBlob is what is said of content that nothing tells the type of.
const mediaTypeBlob = "application/octet-stream"

// Resolve implements image.Source. A tag is the whole name of an image in index.json (org.opencontainers.image.ref.name), and of
// several that share it the first, as it is elsewhere. A digest is that of any manifest in the layout, listed or not; "@N" is the
// image at that position of index.json.
func (l *Layout) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	d, err := l.resolve(ctx, ref)
	if err != nil {
		return image.Descriptor{}, l.failed("resolve", ref, err)
	}
	return d, nil
}

// Manifest implements image.Source.
func (l *Layout) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	d, raw, err := l.manifest(ctx, ref)
	if err != nil {
		return image.Descriptor{}, nil, l.failed("read manifest", ref, err)
	}
	return d, raw, nil
}

func (l *Layout) resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	if dgst := digest.Digest(ref); dgst.Validate() == nil {
		d, _, err := l.readManifest(ctx, dgst, "")
		return d, err
	}
	e, err := l.named(ctx, ref)
	if err != nil {
		return image.Descriptor{}, err
	}
	if !image.IsManifest(e.MediaType) {
		d, _, err := l.readManifest(ctx, e.Digest, e.MediaType)
		return d, err
	}
	file, _, err := l.files.Open(ctx, blobPath(e.Digest))
	if err != nil {
		return image.Descriptor{}, err
	}
	return e.Descriptor, file.Close()
}

func (l *Layout) manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	if dgst := digest.Digest(ref); dgst.Validate() == nil {
		return l.readManifest(ctx, dgst, "")
	}
	e, err := l.named(ctx, ref)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	d, raw, err := l.readManifest(ctx, e.Digest, e.MediaType)
	if err == nil && d.Size != e.Size {
		err = fmt.Errorf("%s has %d bytes and not the %d it is said to have: %w", e.Digest, d.Size, e.Size, image.ErrDigest)
	}
	return d, raw, err
}

// named is the entry of a name or, for "", the only one there is.
func (l *Layout) named(ctx context.Context, name string) (entry, error) {
	if err := ctx.Err(); err != nil {
		return entry{}, err
	}
	x, err := l.index(ctx)
	if err != nil {
		return entry{}, err
	}
	if position, ok := strings.CutPrefix(name, "@"); ok {
		return x.at(position)
	}
	if name == "" {
		return x.only()
	}
	e, ok := x.find(func(e entry) bool { return e.name == name })
	if !ok {
		return e, fmt.Errorf("no image has that name: %w", image.ErrNotFound)
	}
	return e, nil
}

// at is the entry at a position, counted from 0.
func (x *index) at(position string) (entry, error) {
	n, err := strconv.ParseUint(position, 10, 31)
	if err != nil {
		return entry{}, fmt.Errorf("@ is for a position, as in @0: %w", image.ErrNotFound)
	}
	if n >= uint64(len(x.entries)) {
		return entry{}, fmt.Errorf("images are counted from @0, and there are %d: %w", len(x.entries), image.ErrNotFound)
	}
	return x.entries[n], nil
}

// only is the one entry there is, or that has a tag of the repository.
func (x *index) only() (entry, error) {
	entries := x.entries
	if x.repository != "" {
		entries = slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.name == "" })
	}
	if len(entries) == 0 {
		return entry{}, fmt.Errorf("there is no image: %w", image.ErrNotFound)
	}
	first := entries[0]
	if slices.ContainsFunc(entries, func(e entry) bool { return e.Digest != first.Digest }) {
		const most = 5
		names := x.names("")
		if len(names) > most {
			names = append(names[:most], "…")
		}
		return entry{}, fmt.Errorf("there are several images, name one (%s): %w", files.Clean(strings.Join(names, ", ")), image.ErrNotFound)
	}
	return first, nil
}

// names are those of all images that sort after "after", in order.
func (x *index) names(after string) []string {
	var names []string
	for _, e := range x.entries {
		if e.name > after {
			names = append(names, e.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// readManifest reads and verifies a manifest. What it is it says itself; else mediaType tells or, where that is "", index.json; else
// its looks. Content that is no manifest is ErrNotFound, unless mediaType said that it was one.
func (l *Layout) readManifest(ctx context.Context, dgst digest.Digest, mediaType string) (image.Descriptor, []byte, error) {
	raw, err := l.readVerified(ctx, dgst)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	var doc struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(raw, &doc) == nil && doc.MediaType == "" && mediaType == "" {
		mediaType = l.listedType(ctx, dgst)
	}
	m, err := image.ParseManifest(mediaType, raw)
	if err != nil && !image.IsManifest(mediaType) {
		err = fmt.Errorf("%s is no image, and no index of images: %w", dgst, image.ErrNotFound)
	}
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	return image.Descriptor{MediaType: m.MediaType, Digest: dgst, Size: int64(len(raw))}, raw, nil
}

// readVerified reads what can be a manifest.
func (l *Layout) readVerified(ctx context.Context, dgst digest.Digest) ([]byte, error) {
	file, size, err := l.files.Open(ctx, blobPath(dgst))
	if err != nil {
		return nil, err
	}
	r, err := image.Verify(file, image.Descriptor{Digest: dgst, Size: size})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > image.MaxManifest {
		return nil, fmt.Errorf("%s has %d bytes, and no manifest has more than %d: %w", dgst, size, image.MaxManifest, image.ErrNotFound)
	}
	return io.ReadAll(&reader{ctx, r})
}

// listedType is what index.json calls a digest, if it lists it; an index.json that can't be read lists nothing.
func (l *Layout) listedType(ctx context.Context, dgst digest.Digest) string {
	x, err := l.index(ctx)
	if err != nil {
		return ""
	}
	e, _ := x.find(func(e entry) bool { return e.Digest == dgst })
	return e.MediaType
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.ReadCloser
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.ReadCloser.Read(p)
}

// Stat implements image.Source. What can be a manifest is read to tell whether it is one.
func (l *Layout) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	d, err := l.stat(ctx, dgst)
	if err != nil {
		return image.Descriptor{}, l.failed("stat", dgst.String(), err)
	}
	return d, nil
}

func (l *Layout) stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	file, size, err := l.openBlob(ctx, dgst)
	if err != nil {
		return image.Descriptor{}, err
	}
	defer file.Close()
	var first [1]byte
	if _, err := file.ReadAt(first[:], 0); err == nil && first[0] == '{' && size <= image.MaxManifest {
		if d, _, err := l.readManifest(ctx, dgst, ""); err == nil {
			return d, nil
		}
	}
	return image.Descriptor{MediaType: mediaTypeBlob, Digest: dgst, Size: size}, ctx.Err()
}

// Fetch implements image.Source.
func (l *Layout) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	file, _, err := l.openBlob(ctx, d.Digest)
	if err != nil {
		return nil, l.failed("fetch", d.Digest.String(), err)
	}
	return image.Verify(&reader{ctx, file}, d)
}

// FetchRange implements image.Source.
func (l *Layout) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	file, size, err := l.openBlob(ctx, d.Digest)
	if err == nil && (off < 0 || n < 0 || n > size-off) {
		file.Close()
		err = fmt.Errorf("no %d bytes at %d of %d: %w", n, off, size, image.ErrInvalid)
	}
	if err != nil {
		return nil, l.failed("fetch", d.Digest.String(), err)
	}
	return &section{reader{ctx, file}, io.NewSectionReader(file, off, n), n}, nil
}

// openBlob opens content of any digest that somebody may ask for.
func (l *Layout) openBlob(ctx context.Context, dgst digest.Digest) (files.File, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	if err := dgst.Validate(); err != nil {
		return nil, 0, fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	return l.files.Open(ctx, blobPath(dgst))
}

// section is a part of a file. It ends early only with an error.
type section struct {
	reader
	part io.Reader
	left int64
}

func (s *section) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.part.Read(p)
	if s.left -= int64(n); err == io.EOF && s.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Tags implements image.Source: the names of the images in index.json, sorted.
func (l *Layout) Tags(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		x, err := l.index(ctx)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield("", l.failed("list the tags", "", err))
			return
		}
		for _, name := range x.names(after) {
			if !yield(name, nil) {
				return
			}
		}
	}
}

// Referrers implements image.Source, by reading every manifest that index.json lists, and the index that clients keep under a
// name made of the subject's digest (distribution-spec, "Referrers Tag Schema").
func (l *Layout) Referrers(ctx context.Context, d image.Descriptor, artifactType string) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		seen := map[digest.Digest]bool{}
		for found, err := range l.referrers(ctx, d.Digest) {
			if err != nil {
				yield(image.Descriptor{}, l.failed("list the referrers of", d.Digest.String(), err))
				return
			}
			if seen[found.Digest] || artifactType != "" && found.ArtifactType != artifactType {
				continue
			}
			seen[found.Digest] = true
			if !yield(found, nil) {
				return
			}
		}
	}
}

func (l *Layout) referrers(ctx context.Context, subject digest.Digest) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		if err := subject.Validate(); err != nil {
			yield(image.Descriptor{}, fmt.Errorf("%v: %w", err, image.ErrNotFound))
			return
		}
		x, err := l.index(ctx)
		if err != nil {
			yield(image.Descriptor{}, err)
			return
		}
		for _, e := range x.entries {
			found, err := l.refersTo(ctx, e, subject)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, image.ErrInvalid) || errors.Is(err, image.ErrNotFound) {
				continue // what is not there, or no image, is nobody's referrer
			}
			if err != nil {
				yield(image.Descriptor{}, err)
				return
			}
			for _, d := range found {
				if !yield(d, nil) {
					return
				}
			}
		}
	}
}

// refersTo is what an entry of index.json says of a subject's referrers: that it is one, or that it is their index.
func (l *Layout) refersTo(ctx context.Context, e entry, subject digest.Digest) ([]image.Descriptor, error) {
	d, raw, err := l.readManifest(ctx, e.Digest, e.MediaType)
	if err != nil {
		return nil, err
	}
	m, err := image.ParseManifest(d.MediaType, raw)
	switch {
	case err != nil:
		return nil, err
	case e.name == strings.Replace(subject.String(), ":", "-", 1) && m.IsIndex():
		return m.Manifests, nil
	case m.Subject == nil || m.Subject.Digest != subject:
		return nil, nil
	}
	d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
	if d.ArtifactType == "" && m.Config != nil {
		d.ArtifactType = m.Config.MediaType
	}
	return []image.Descriptor{d}, nil
}
