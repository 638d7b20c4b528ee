package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// Some layers end in a table of contents: what their files are, where the content of each begins in the blob, and the digests of
// that content, chunk by chunk. Where the manifest names the digest of the table, an index is made of it alone, and the blob is
// not read: its decompressed stream is then that of all chunks, one behind the other, and nothing else. Each is a span.

// errTable is a table that is not the one that the manifest vouches for, or can't be understood. The blob is scanned instead.
var errTable = errors.New("its table of contents is not used")

// maxTable is how long a table may be in bytes, unpacked.
const maxTable = 256 << 20

// maxTableEntry is how much of a table may be read for a single entry, in bytes.
const maxTableEntry = 4 << 20

// Annotations of a layer's descriptor that vouch for a table.
const (
	// The digest of an eStargz layer's table, unpacked (stargz-snapshotter, docs/estargz.md, "Content Verification").
	noteEstargz = "containerd.io/snapshot/stargz/toc.digest"
	// The digest of a zstd:chunked layer's table as it is in the blob, and where that is. Older writers left "github" out.
	noteChunked      = "io.github.containers.zstd-chunked.manifest-checksum"
	notePosition     = "io.github.containers.zstd-chunked.manifest-position"
	noteOldChunked   = "io.containers.zstd-chunked.manifest-checksum"
	noteOldPosition  = "io.containers.zstd-chunked.manifest-position"
	positionTypeCRFS = 1
)

// voucher is what a manifest says of a layer's table.
type voucher struct {
	kind     spanKind // how the chunks are compressed
	checksum string
	position string // zstd:chunked has it here, eStargz in the blob
}

// vouched tells whether a manifest vouches for a table. A layer that is both formats has the table at the place that is known.
func vouched(a map[string]string) (v voucher, ok bool) {
	for _, keys := range [][2]string{{noteChunked, notePosition}, {noteOldChunked, noteOldPosition}} {
		if a[keys[0]] != "" && a[keys[1]] != "" {
			return voucher{spanZstd, a[keys[0]], a[keys[1]]}, true
		}
	}
	return voucher{spanGzip, a[noteEstargz], ""}, a[noteEstargz] != ""
}

// tabulate makes an index of the table of a blob: errTable if it is not to be used. The error of a place that can't read parts of
// blobs is ErrUnsupported.
func tabulate(store Store, p *extracts, v voucher) (*os.File, error) {
	d, err := newDraft(store)
	if err != nil {
		return nil, err
	}
	defer d.close()
	t := &table{catalog: catalog{sorter: &sorter{store: store}}, chunker: chunker{spans: d.spans, kind: v.kind}}
	defer t.sorter.close()
	if err = t.run(d, store, p, v); err == nil {
		var file *os.File
		if file, err = d.write(store); err == nil {
			return file, nil
		}
	}
	return nil, p.blame(err)
}

// extracts reads parts of a blob, which nobody has verified.
type extracts struct {
	ctx  context.Context
	src  image.Source
	d    image.Descriptor
	blob image.Blob
	err  error // why the blob can't be read
}

func (p *extracts) size() int64 { return p.blob.Size() }

// open opens n bytes from off on.
func (p *extracts) open(off, n int64) (io.ReadCloser, error) {
	if file := p.blob.File(); file != nil {
		return io.NopCloser(io.NewSectionReader(file, off, n)), nil
	}
	r, err := p.src.FetchRange(p.ctx, p.d, off, n)
	if err != nil {
		p.err = err
		return nil, err
	}
	return &extract{r, p}, nil
}

// blame says whose fault an error is.
func (p *extracts) blame(err error) error {
	if p.err != nil {
		return p.err
	}
	if here := (*localError)(nil); errors.As(err, &here) {
		return here.error
	}
	return fmt.Errorf("%w: %w", errTable, err)
}

// extract has an error that is not the fault of what the blob contains stay in extracts.err, too.
type extract struct {
	io.ReadCloser
	p *extracts
}

func (r *extract) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	if err != nil && err != io.EOF {
		r.p.err = err
	}
	return n, err
}

// table makes a draft of a table.
type table struct {
	catalog
	chunker
}

func (t *table) run(d *draft, store Store, p *extracts, v voucher) error {
	want, err := digest.Parse(v.checksum)
	if err != nil {
		return fmt.Errorf("the manifest's digest of it: %w", err)
	}
	if v.kind == spanZstd {
		err = t.readChunked(p, v.position, want)
	} else {
		err = t.readEstargz(p, want)
	}
	if err != nil {
		return err
	}
	d.size, d.problems = t.off, t.problems
	return d.build(store, t.sorter, t.seq)
}

// verified parses the JSON in r, while whole, which r reads from, is summed up to its end. That it is another one counts for more
// than that it makes no sense.
func (t *table) verified(r, whole io.Reader, sum digest.Verifier) error {
	err := t.parse(r)
	if _, rest := io.Copy(io.Discard, whole); err == nil {
		err = rest
	}
	if !sum.Verified() {
		return errors.Join(fmt.Errorf("it has another digest than the manifest says: %w", image.ErrDigest), err)
	}
	return err
}

// parse reads a table, one entry after the other.
func (t *table) parse(r io.Reader) error {
	in := &allowance{r: r}
	dec := jsontext.NewDecoder(in)
	version := 0
	err := members(dec, in, func(key string) error {
		switch key {
		case "version":
			return json.UnmarshalDecode(dec, &version)
		case "entries":
			return t.entries(dec, in)
		}
		return dec.SkipValue()
	})
	if err != nil {
		return err
	}
	if version != 1 {
		return fmt.Errorf("its version is %d", version)
	}
	return t.end()
}

// members reads an object.
func members(dec *jsontext.Decoder, in *allowance, member func(key string) error) error {
	in.renew()
	if err := token(dec, jsontext.KindBeginObject); err != nil {
		return err
	}
	for dec.PeekKind() == jsontext.KindString {
		in.renew()
		key, err := dec.ReadToken()
		if err != nil {
			return err
		}
		if err := member(key.String()); err != nil {
			return err
		}
	}
	return token(dec, jsontext.KindEndObject)
}

func (t *table) entries(dec *jsontext.Decoder, in *allowance) error {
	if err := token(dec, jsontext.KindBeginArray); err != nil {
		return err
	}
	for dec.PeekKind() == jsontext.KindBeginObject {
		in.renew()
		var e tocEntry
		if err := json.UnmarshalDecode(dec, &e); err != nil {
			return err
		}
		if err := t.entry(&e); err != nil {
			return fmt.Errorf("%.200q: %w", e.Name, err)
		}
	}
	return token(dec, jsontext.KindEndArray)
}

func token(dec *jsontext.Decoder, want jsontext.Kind) error {
	got, err := dec.ReadToken()
	if err == nil && got.Kind() != want {
		err = fmt.Errorf("%v instead of %v", got.Kind(), want)
	}
	return err
}

// allowance is a reader that gives no more than maxTableEntry bytes until it is renewed.
type allowance struct {
	r    io.Reader
	left int
}

func (a *allowance) renew() { a.left = maxTableEntry }

func (a *allowance) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, fmt.Errorf("an entry of more than %d bytes: %w", maxTableEntry, errTooMuch)
	}
	n, err := a.r.Read(p[:min(len(p), a.left)])
	a.left -= n
	return n, err
}
