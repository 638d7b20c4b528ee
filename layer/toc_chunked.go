package layer

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// maxPackedTable is how long a zstd:chunked table may be in the blob, in bytes.
const maxPackedTable = 128 << 20

// readChunked reads the table of a zstd:chunked blob, which is in a frame that decompressors skip.
func (t *table) readChunked(p *extracts, position string, want digest.Digest) error {
	off, n, size, err := parsePosition(position, p.size())
	if err != nil {
		return err
	}
	packed, err := p.open(off, n)
	if err != nil {
		return err
	}
	defer packed.Close()
	t.limit = off
	sum := want.Verifier()
	whole := io.TeeReader(packed, sum)
	dec, err := zstd.NewReader(whole, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer dec.Close()
	return t.verified(io.LimitReader(dec, size), whole, sum)
}

// parsePosition parses what the manifest says of where the table is: "offset:length:length unpacked:type".
func parsePosition(s string, blob int64) (off, n, size int64, err error) {
	var v [4]int64
	fields := strings.Split(s, ":")
	for i := range v {
		if len(fields) != len(v) || err != nil {
			return 0, 0, 0, fmt.Errorf("its position is %.100q", s)
		}
		v[i], err = strconv.ParseInt(fields[i], 10, 64)
	}
	off, n, size = v[0], v[1], v[2]
	switch {
	case err != nil || v[3] != positionTypeCRFS:
		return 0, 0, 0, fmt.Errorf("its position is %.100q", s)
	case off <= 0 || n <= 0 || size <= 0 || off > blob || n > blob-off:
		return 0, 0, 0, fmt.Errorf("its position is %.100q in a blob of %d bytes", s, blob)
	case n > maxPackedTable || size > maxTable:
		return 0, 0, 0, fmt.Errorf("it has %d bytes, and %d unpacked: %w", n, size, errTooMuch)
	}
	return off, n, size, nil
}
