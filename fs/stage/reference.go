package stage

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
)

// Reference is content that is somewhere else: the first N bytes of a blob that a repository has.
type Reference struct {
	From       image.Repository `json:"from"`
	Descriptor image.Descriptor `json:"descriptor"`
	N          int64            `json:"n"`
}

// whole tells whether it is all of the blob.
func (r *Reference) whole() bool { return r.N == r.Descriptor.Size }

// Refer makes n bytes of a blob at off the file's content there, as copy_file_range(2) wants it, and moves none of them. That
// works for an empty file and the blob's start, and goes on from there; else it is ErrUnsupported, and whoever asks copies.
func (f *File) Refer(from image.Repository, d image.Descriptor, off, n, at int64) (int64, error) {
	f.io.Lock()
	defer f.io.Unlock()
	had := int64(0)
	if f.ref != nil {
		had = f.ref.N
	}
	same := f.ref == nil && f.size == 0 || f.ref != nil && f.ref.From == from && f.ref.Descriptor.Digest == d.Digest
	if !same || off != had || at != had || d.Size < 0 {
		return 0, fmt.Errorf("copy by reference into the middle of a file: %w", image.ErrUnsupported)
	}
	n = min(n, d.Size-off)
	if n <= 0 {
		return 0, nil
	}
	f.ref = &Reference{from, image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, had + n}
	f.size, f.hash = f.ref.N, nil
	f.altered()
	return n, f.noteRef()
}

// noteRef writes down what the content is now. The content's lock is held.
func (f *File) noteRef() error {
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	if n := f.l.names[f.path]; n == nil || n.file != f {
		return nil
	}
	return f.l.note(record{Path: f.path, Kind: Regular, File: f.record()})
}

// source opens the repository that a reference is to.
func (s *Store) source(ctx context.Context, from image.Repository) (image.Source, error) {
	host, err := s.o.Host(from.Host)
	if err != nil {
		return nil, err
	}
	return host.Source(ctx, from.Name)
}

func (f *File) openRef(ctx context.Context, ref *Reference) (image.Blob, error) {
	src, err := f.l.store.source(ctx, ref.From)
	if err != nil {
		return nil, err
	}
	return f.l.store.o.Blobs.Open(ctx, src, ref.Descriptor)
}

// readRef reads what a reference names, without the content's lock: it can take as long as a download.
func (f *File) readRef(ctx context.Context, p []byte, off int64) (int, error) {
	f.io.RLock()
	ref := f.ref
	f.io.RUnlock()
	if ref == nil {
		return f.ReadAt(ctx, p, off)
	}
	if off >= ref.N {
		return 0, io.EOF
	}
	b, err := f.openRef(ctx, ref)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	return b.ReadAt(ctx, p[:min(int64(len(p)), ref.N-off)], off)
}

// materialise brings the first n bytes of what a reference names to the disk, for somebody is about to change them. The lock is held.
func (f *File) materialise(ctx context.Context, n int64) error {
	if f.ref == nil {
		return nil
	}
	n = min(n, f.ref.N)
	if n > 0 {
		if err := f.fetch(ctx, n); err != nil {
			return err
		}
	}
	f.ref, f.size, f.hash, f.hashed = nil, n, nil, 0
	if n == 0 {
		f.hash = digest.SHA256.Hash()
	}
	return f.noteRef()
}

func (f *File) fetch(ctx context.Context, n int64) error {
	b, err := f.openRef(ctx, f.ref)
	if err != nil {
		return err
	}
	defer b.Close()
	out, err := f.data.use()
	if err != nil {
		return err
	}
	defer f.data.release()
	_, err = io.Copy(io.NewOffsetWriter(out, 0), io.NewSectionReader(readerAt{ctx, b}, 0, n))
	return err
}

// readerAt is a Blob for who reads without a context.
type readerAt struct {
	ctx context.Context
	b   image.Blob
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return r.b.ReadAt(r.ctx, p, off) }

func (f *File) rehashRef(ctx context.Context, alg digest.Algorithm) (digest.Digest, error) {
	b, err := f.openRef(ctx, f.ref)
	if err != nil {
		return "", err
	}
	defer b.Close()
	h := alg.Hash()
	if _, err := io.Copy(h, io.NewSectionReader(readerAt{ctx, b}, 0, f.ref.N)); err != nil {
		return "", err
	}
	return digest.NewDigest(alg, h), nil
}

// contentLocked is the file as it is now, which has the digest that it is held for: nothing that is written later changes it.
// release is to be called in the end. The content's lock is held.
func (f *File) contentLocked(ctx context.Context) (c image.Content, release func(), err error) {
	if f.ref != nil {
		src, err := f.l.store.source(ctx, f.ref.From)
		return copy.Stream(src, f.ref.From, f.ref.Descriptor), func() {}, err
	}
	d, size := f.data, f.size
	if _, err := d.pin(); err != nil {
		return image.Content{}, nil, err
	}
	open := func(_ context.Context, off int64) (io.ReadCloser, error) { return d.reader(off, size) }
	return image.Content{Verified: true, Open: open}, d.unpin, nil
}

// refType is the media type of what the file refers to, "" where that is not known.
func (f *File) refType() string {
	f.io.RLock()
	defer f.io.RUnlock()
	if f.ref == nil {
		return ""
	}
	return f.ref.Descriptor.MediaType
}
