package image

import (
	"fmt"
	"hash"
	"io"
)

// Verify reads r and vouches for it: the reader ends in io.EOF only if all that came matched d, and in ErrDigest if it was
// too short, too long or something else. Nothing past d.Size is returned. A d.Size of -1 leaves the length to the digest.
func Verify(r io.ReadCloser, d Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		r.Close()
		return nil, fmt.Errorf("digest %q: %v: %w", d.Digest, err, ErrInvalid)
	}
	return &verifier{ReadCloser: r, want: d, hash: d.Digest.Algorithm().Hash()}, nil
}

type verifier struct {
	io.ReadCloser
	want Descriptor
	hash hash.Hash
	n    int64
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	if v.want.Size >= 0 && v.n+int64(n) > v.want.Size {
		return 0, fmt.Errorf("%s: more than %d bytes came: %w", v.want.Digest, v.want.Size, ErrDigest)
	}
	v.hash.Write(p[:n])
	v.n += int64(n)
	if err == io.EOF {
		err = v.verdict()
	}
	return n, err
}

func (v *verifier) verdict() error {
	if v.want.Size >= 0 && v.n != v.want.Size {
		return fmt.Errorf("%s: %d bytes came instead of %d: %w", v.want.Digest, v.n, v.want.Size, ErrDigest)
	}
	alg := v.want.Digest.Algorithm()
	if got := fmt.Sprintf("%s:%x", alg, v.hash.Sum(nil)); got != v.want.Digest.String() {
		return fmt.Errorf("%s: the content has the digest %s: %w", v.want.Digest, got, ErrDigest)
	}
	return io.EOF
}
