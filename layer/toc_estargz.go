package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"

	"github.com/opencontainers/go-digest"
)

// An eStargz blob ends in an empty gzip member of this size, whose extra field says where the table begins.
const footerSize = 51

// The end of the blob is fetched with as much before it as tables mostly have: of the blob this part, in bytes within these limits.
const (
	tailPart = 128
	minTail  = 64 << 10
	maxTail  = 1 << 20
)

const estargzTable = "stargz.index.json"

// readEstargz reads the table of an eStargz blob: a gzip member with a tar archive of one file.
func (t *table) readEstargz(p *extracts, want digest.Digest) error {
	packed, off, err := openEstargz(p)
	if err != nil {
		return err
	}
	defer packed.Close()
	t.limit = off
	unzipped := newGunzip(bufio.NewReaderSize(packed, 64<<10), func() int64 { return 0 }, nil)
	tr := tar.NewReader(io.LimitReader(unzipped, maxTable+maxRaw))
	h, err := tr.Next()
	if err != nil {
		return fmt.Errorf("no table at %d: %w", off, noEOF(err))
	}
	if h.Name != estargzTable || h.Typeflag != tar.TypeReg || h.Size > maxTable {
		return fmt.Errorf("%.50q of %d bytes is no table", h.Name, h.Size)
	}
	sum := want.Verifier()
	json := io.TeeReader(tr, sum)
	return t.verified(json, json, sum)
}

// openEstargz opens the member that has the table, and says where it is.
func openEstargz(p *extracts) (io.ReadCloser, int64, error) {
	size := p.size()
	tailOff := max(0, size-min(max(size/tailPart, minTail), maxTail))
	tail, err := p.read(tailOff, size-tailOff)
	if err != nil {
		return nil, 0, err
	}
	off, ok := parseFooter(tail)
	end := size - footerSize
	if !ok || off <= 0 || off >= end || end-off > maxTable {
		return nil, 0, fmt.Errorf("the blob's end tells no place of it")
	}
	if off >= tailOff {
		return io.NopCloser(bytes.NewReader(tail[off-tailOff : end-tailOff])), off, nil
	}
	first, err := p.open(off, tailOff-off)
	if err != nil {
		return nil, 0, err
	}
	return &joined{io.MultiReader(first, bytes.NewReader(tail[:end-tailOff])), first}, off, nil
}

type joined struct {
	io.Reader
	io.Closer
}

// read reads n bytes from off on.
func (p *extracts) read(off, n int64) ([]byte, error) {
	r, err := p.open(off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return b, noEOF(err)
}

// parseFooter is where the table begins, by the last bytes of an eStargz blob.
func parseFooter(tail []byte) (off int64, ok bool) {
	if len(tail) < footerSize {
		return 0, false
	}
	f := tail[len(tail)-footerSize:]
	const member, extra, magic = "\x1f\x8b\x08\x04", "\x1a\x00SG\x16\x00", "STARGZ"
	if string(f[:4]) != member || string(f[10:16]) != extra || string(f[32:38]) != magic {
		return 0, false
	}
	off, err := strconv.ParseInt(string(f[16:32]), 16, 64)
	return off, err == nil
}
