package copy

import (
	"context"
	"errors"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// mill makes of a layer, whose content is src's and described by have, what w says, in a file. It closes src. The events call the
// layer by the name it had.
func (r *run) mill(ctx context.Context, was, have image.Descriptor, src io.ReadCloser, w work) (*output, error) {
	defer src.Close()
	verified, err := image.Verify(src, have)
	if err != nil {
		return nil, err
	}
	in := &intake{ctx: ctx, r: verified, tell: func(n int64) { r.Events(Event{Descriptor: was, State: Moving, Sent: n}) }}
	out, err := newTemp(r.TempDir)
	if err != nil {
		return nil, err
	}
	got, err := r.grind(ctx, in, out, have, w)
	if err != nil {
		out.file.Close()
		return nil, in.blame(err)
	}
	got.Digest, got.Size = digest.NewDigest(digest.Canonical, out.hash), out.size
	return &output{got, out.content(), false, func() { out.file.Close() }}, nil
}

// grind does the work: what it reads is decrypted, decompressed, compressed and encrypted, as w says, in this order.
func (r *run) grind(ctx context.Context, in *intake, out *temp, have image.Descriptor, w work) (result, error) {
	got := result{Descriptor: image.Descriptor{Annotations: map[string]string{}}}
	from, to, end := io.Reader(in), io.Writer(out), func() error { return nil }
	if w.decrypt {
		plain, err := unseal(r.Decrypt, in, have.Annotations)
		if err != nil {
			return got, err
		}
		from = plain
	}
	if w.encrypt {
		s, err := seal(r.Encrypt, out, have, got.Annotations)
		if err != nil {
			return got, err
		}
		defer s.abort()
		to, end = s, s.finish
	}
	err := r.press(ctx, from, to, w, &got)
	if err == nil {
		_, err = io.Copy(io.Discard, from) // what stands behind the end of a compressed stream counts, too
	}
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	if err == nil {
		err = end()
	}
	return got, err
}

// press compresses a tar, or measures it and lets its bytes pass.
func (r *run) press(ctx context.Context, from io.Reader, to io.Writer, w work, got *result) error {
	tarHash := w.hash()
	if w.to == KeepCompression {
		if !w.measure {
			_, err := io.CopyBuffer(to, struct{ io.Reader }{from}, make([]byte, aheadBuffer))
			return err
		}
		passed := io.TeeReader(from, to)
		if err := unpack(ctx, passed, tarHash); err != nil {
			return err
		}
		got.diffID = digest.NewDigest(digest.SHA256, tarHash)
		_, err := io.Copy(io.Discard, passed)
		return err
	}
	packed, err := compress(to, Compression{To: w.to, Level: r.Compression.Level}, got.Annotations)
	if err != nil {
		return err
	}
	if err := unpack(ctx, from, io.MultiWriter(tarHash, packed)); err != nil {
		packed.Close()
		return err
	}
	if err := packed.Close(); err != nil {
		return err
	}
	got.diffID = digest.NewDigest(w.algorithm(), tarHash)
	return w.verify(got.diffID)
}

// algorithm is that of the digest of the layer's tar.
func (w work) algorithm() digest.Algorithm {
	if w.diffID.Validate() == nil {
		return w.diffID.Algorithm()
	}
	return digest.Canonical
}

func (w work) hash() hash.Hash { return w.algorithm().Hash() }

// unpack decompresses beside the writing.
func unpack(ctx context.Context, from io.Reader, to io.Writer) error {
	tar, err := decompress(from)
	if err != nil {
		return err
	}
	defer tar.Close()
	a := readAhead(ctx, tar)
	defer a.Close()
	_, err = a.WriteTo(to)
	return err
}

// intake reads a layer, and tells how far that is. It ends with the context.
type intake struct {
	ctx  context.Context
	r    io.Reader
	n    int64
	tell func(int64)
	err  error
}

func (in *intake) Read(p []byte) (int, error) {
	if in.err == nil {
		in.err = in.ctx.Err()
	}
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.r.Read(p)
	in.n += int64(n)
	if n > 0 {
		in.tell(in.n)
	}
	in.err = err
	return n, err
}

// blame finds out whose error err is: one of the reading goes first, since who reads makes others of it. What can't be decompressed
// may be something else than was asked for.
func (in *intake) blame(err error) error {
	if errors.Is(err, image.ErrInvalid) {
		_, _ = io.Copy(io.Discard, in) // in.err tells
	}
	if in.err != nil && in.err != io.EOF {
		return in.err
	}
	return err
}

// temp is a file for content on its way. It has no name any more when it is written: nothing stays of it, however this ends.
type temp struct {
	file *os.File
	hash hash.Hash
	size int64
}

func newTemp(dir string) (*temp, error) {
	file, err := os.CreateTemp(dir, "regfs-layer-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return &temp{file: file, hash: digest.Canonical.Hash()}, nil
}

func (t *temp) Write(p []byte) (int, error) {
	n, err := t.file.Write(p)
	t.hash.Write(p[:n])
	t.size += int64(n)
	return n, err
}

// content is what was written, to be read any number of times until the file is closed.
func (t *temp) content() image.Content {
	return image.Content{Open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(t.file, off, max(t.size-off, 0))), nil
	}}
}
