package dir

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// maxSignatures is how much the signatures of one manifest may be together, in bytes.
const maxSignatures = 16 << 20

// Signatures reads the signatures of the image, or of a manifest below it, in their order and as they are. ErrNotFound where there
// is no such manifest; one that nobody signed has none.
func (x *Dir) Signatures(ctx context.Context, dgst digest.Digest) ([][]byte, error) {
	all, err := x.signatures(ctx, dgst)
	if err != nil {
		return nil, x.failed("read the signatures of", dgst.String(), err)
	}
	return all, nil
}

func (x *Dir) signatures(ctx context.Context, dgst digest.Digest) ([][]byte, error) {
	prefix, signed, err := x.signed(ctx, dgst)
	if err != nil || !signed {
		return nil, err
	}
	var all [][]byte
	for room := int64(maxSignatures); ; {
		raw, err := x.folder.ReadFile(signatureFile(prefix, len(all)+1), room)
		if errors.Is(err, fs.ErrNotExist) {
			return all, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		all = append(all, raw)
		room -= int64(len(raw))
	}
}

// signed tells what the names of a manifest's signatures begin with, and whether such files would be its own.
func (x *Dir) signed(ctx context.Context, dgst digest.Digest) (prefix string, own bool, err error) {
	d, _, err := x.manifest(ctx, dgst.String())
	if err != nil {
		return "", false, err
	}
	root, raw, err := x.root(ctx, d.Digest.Algorithm())
	if err != nil || root.Digest != d.Digest {
		return blobFile(d.Digest) + ".", true, nil
	}
	pending, err := x.pending()
	return "", pending != digest.FromBytes(raw), err
}

// pendingFile is there while an image is replaced whose signatures must not be taken for the new one's: it has the new one's digest.
// As soon as that is what manifest.json has, the signatures that are there are another image's.
const pendingFile = ".unfinished"

// pending is the digest of the image that somebody was about to put in the place of another, "" for none.
func (x *Dir) pending() (digest.Digest, error) {
	const most = 1000
	raw, err := x.folder.ReadFile(pendingFile, most)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return digest.Digest(strings.TrimSpace(string(raw))), err
}

// settle brings to an end what somebody who was killed had begun.
func (x *Dir) settle() error {
	pending, err := x.pending()
	if err != nil || pending == "" {
		return err
	}
	raw, err := x.folder.ReadFile(manifestFile, image.MaxManifest)
	if err == nil && digest.FromBytes(raw) == pending {
		return x.unsign()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return x.folder.Remove(pendingFile)
}

// unsign removes the signatures of what manifest.json was.
func (x *Dir) unsign() error {
	err := x.folder.Each(func(e fs.DirEntry) error {
		if rootSignature.MatchString(e.Name()) {
			return x.folder.Remove(e.Name())
		}
		return nil
	})
	if err != nil {
		return err
	}
	return x.folder.Remove(pendingFile)
}

// replaceSigned runs replace, which makes manifest.json what raw is, so that at no time another image's signatures are taken for its own.
func (x *Dir) replaceSigned(raw []byte, replace func() error) error {
	has, err := x.hasSignatures()
	if err != nil {
		return err
	}
	if !has {
		return replace()
	}
	err = x.folder.Replace(pendingFile, []byte(digest.FromBytes(raw)+"\n"))
	if err == nil {
		err = x.folder.Sync()
	}
	if err == nil {
		err = replace()
	}
	if err == nil {
		err = x.unsign()
	}
	return err
}

func (x *Dir) hasSignatures() (bool, error) {
	has := false
	err := x.folder.Each(func(e fs.DirEntry) error {
		has = has || rootSignature.MatchString(e.Name())
		return nil
	})
	return has, err
}
