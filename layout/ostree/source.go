package ostree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// images are those of one repository; of all, where it has no name. Blobs are everybody's.
type images struct {
	repo       *Repo
	repository image.Repository
}

var (
	_ image.Source = (*images)(nil)
	_ image.Sink   = (*images)(nil)
)

// The files of an image's commit, and of a blob's.
const (
	manifestFile = "/manifest.json"
	contentFile  = "/content"
)

// mediaTypeBlob is what is said of content that nothing tells the type of.
const mediaTypeBlob = "application/octet-stream"

func (s *images) failed(op, object string, err error) error {
	if s.repository.Host != "" && !strings.Contains(object, ":") {
		object = s.repository.String() + ":" + object
	}
	return s.repo.failed(op, object, err)
}

// Resolve implements image.Source.
func (s *images) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	d, _, err := s.Manifest(ctx, ref)
	return d, err
}

// Manifest implements image.Source.
func (s *images) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	d, raw, err := s.manifest(ctx, ref)
	if err != nil {
		return image.Descriptor{}, nil, s.failed("read manifest", ref, err)
	}
	return d, raw, nil
}

func (s *images) manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	if dgst := digest.Digest(ref); dgst.Validate() == nil {
		return s.digested(ctx, dgst)
	}
	if s.repository.Host != "" && image.ValidTag(ref) {
		d, raw, err := s.read(ctx, imageBranch(s.repository, ref).ref, manifestFile, digest.Canonical)
		if !errors.Is(err, image.ErrNotFound) {
			return d, raw, err
		}
	}
	all, err := s.repo.branches(ctx)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	b, err := s.named(all, ref)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	return s.read(ctx, b.ref, manifestFile, digest.Canonical)
}

// named is the branch of a tag or, where images have no names, of the only one.
func (s *images) named(all branches, ref string) (branch, error) {
	if s.repository.Host == "" && ref == "" && len(all.images) == 1 {
		return all.images[0], nil
	}
	if s.repository.Host == "" {
		return branch{}, fmt.Errorf("there are %d images: write the full name of one: %w", len(all.images), image.ErrNotFound)
	}
	b, ok := all.find(s.repository, ref)
	if !ok {
		return b, fmt.Errorf("no image has that name: %w", image.ErrNotFound)
	}
	return b, nil
}

// read reads a manifest. Content that is none is ErrNotFound.
func (s *images) read(ctx context.Context, ref, path string, alg digest.Algorithm) (image.Descriptor, []byte, error) {
	r, err := s.repo.cat(ctx, ref, path)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, image.MaxManifest+1))
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	m, err := image.ParseManifest("", raw)
	if err != nil && path == contentFile {
		err = fmt.Errorf("it is no image, and no index of images: %w", image.ErrNotFound)
	}
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	return image.Descriptor{MediaType: m.MediaType, Digest: alg.FromBytes(raw), Size: int64(len(raw))}, raw, nil
}

// digested reads a manifest by its digest. skopeo wrote none that could be found by it.
func (s *images) digested(ctx context.Context, dgst digest.Digest) (image.Descriptor, []byte, error) {
	d, raw, err := s.read(ctx, blobBranch(dgst), contentFile, dgst.Algorithm())
	if err == nil && d.Digest != dgst {
		err = fmt.Errorf("what is there has the digest %s: %w", d.Digest, image.ErrDigest)
	}
	if !errors.Is(err, image.ErrNotFound) {
		return d, raw, err
	}
	all, failure := s.repo.branches(ctx)
	if failure != nil {
		return d, raw, failure
	}
	for _, b := range all.images {
		if b.repository != s.repository && s.repository.Host != "" {
			continue
		}
		if d, raw, err := s.read(ctx, b.ref, manifestFile, dgst.Algorithm()); err == nil && d.Digest == dgst || ctx.Err() != nil {
			return d, raw, err
		}
	}
	return image.Descriptor{}, nil, err
}

// Stat implements image.Source.
func (s *images) Stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	d, err := s.stat(ctx, dgst)
	if err != nil {
		return image.Descriptor{}, s.failed("stat", dgst.String(), s.unpacked(ctx, dgst, err))
	}
	return d, nil
}

func (s *images) stat(ctx context.Context, dgst digest.Digest) (image.Descriptor, error) {
	if err := dgst.Validate(); err != nil {
		return image.Descriptor{}, fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	out, err := s.repo.run(ctx, "ls", blobBranch(dgst), contentFile)
	if err != nil {
		return image.Descriptor{}, err
	}
	size, err := parseSize(out)
	return image.Descriptor{MediaType: mediaTypeBlob, Digest: dgst, Size: size}, err
}

// parseSize reads what "ostree ls" prints of a file: mode, owner, group, size and name.
func parseSize(line string) (int64, error) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "-") {
		return 0, fmt.Errorf("it is no file: %w", image.ErrInvalid)
	}
	size, err := strconv.ParseInt(fields[3], 10, 64)
	if err != nil || size < 0 {
		return 0, fmt.Errorf("it has the size %q: %w", fields[3], image.ErrInvalid)
	}
	return size, nil
}

// unpacked says of a layer that skopeo wrote why it is not there.
func (s *images) unpacked(ctx context.Context, dgst digest.Digest, err error) error {
	if !errors.Is(err, image.ErrNotFound) {
		return err
	}
	if _, err := s.repo.run(ctx, "show", "--print-metadata-key=tarsplit.output", blobBranch(dgst)); err == nil {
		return fmt.Errorf("the layer is here only unpacked, as skopeo wrote it, which can't be read: %w", image.ErrUnsupported)
	}
	return err
}

// Fetch implements image.Source.
func (s *images) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	r, err := s.fetch(ctx, d.Digest)
	if err != nil {
		return nil, s.failed("fetch", d.Digest.String(), err)
	}
	return image.Verify(r, d)
}

func (s *images) fetch(ctx context.Context, dgst digest.Digest) (io.ReadCloser, error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	r, err := s.repo.cat(ctx, blobBranch(dgst), contentFile)
	if err != nil {
		return nil, s.unpacked(ctx, dgst, err)
	}
	return r, nil
}

// FetchRange implements image.Source: ErrUnsupported, since the program reads from the start only.
func (s *images) FetchRange(_ context.Context, d image.Descriptor, _, _ int64) (io.ReadCloser, error) {
	return nil, s.failed("fetch a part of", d.Digest.String(), fmt.Errorf("files are read from their start: %w", image.ErrUnsupported))
}

// Tags implements image.Source.
func (s *images) Tags(ctx context.Context, after string) iter.Seq2[string, error] {
	return s.repo.sorted(ctx, "list the tags", after, func(b branch) (string, bool) { return b.tag, b.repository == s.repository })
}

// Referrers implements image.Source: none are known.
func (s *images) Referrers(ctx context.Context, d image.Descriptor, _ string) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(image.Descriptor{}, s.failed("list the referrers of", d.Digest.String(), err))
		}
	}
}

// Close implements image.Source.
func (s *images) Close() error { return nil }
