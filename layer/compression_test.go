package layer

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"io"
	mathbits "math/bits"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/regfs/regfs/cache"
)

// mixture is n bytes of text and noise in turns, so that a compressor stores some of it, and of runs.
func mixture(n int) []byte {
	rnd, noise := rand.New(rand.NewPCG(5, uint64(n))), rand.NewChaCha8([32]byte{5})
	words := strings.Fields("the quick brown fox jumps over a lazy dog while layers of tar are read at random places, again and again")
	var b bytes.Buffer
	for b.Len() < n {
		size := rnd.IntN(40_000)
		switch rnd.IntN(5) {
		case 0:
			io.CopyN(&b, noise, int64(size))
		case 1:
			b.Write(bytes.Repeat([]byte{byte(rnd.Uint32())}, size*4))
		default:
			for from := b.Len(); b.Len() < from+size; {
				b.WriteString(words[rnd.IntN(len(words))])
				b.WriteByte(" \n;"[rnd.IntN(3)])
			}
		}
	}
	return b.Bytes()[:n]
}

// oneFile is an archive of one file.
func oneFile(content []byte) []byte {
	return archive(ent{name: "file", body: string(content)})
}

// bits writes a deflate stream by hand.
type bits struct {
	out []byte
	acc uint64
	n   uint
}

func (w *bits) write(v uint64, n uint) {
	w.acc |= v << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.out = append(w.out, byte(w.acc))
		w.acc >>= 8
	}
}

// code writes a Huffman code, its highest bit first.
func (w *bits) code(v uint64, n uint) {
	w.write(mathbits.Reverse64(v)>>(64-n), n)
}

func (w *bits) align() {
	if w.n > 0 {
		w.write(0, 8-w.n)
	}
}

// literal writes one with the fixed code (RFC 1951, 3.2.6).
func (w *bits) literal(c byte) {
	if c < 144 {
		w.code(0x30+uint64(c), 8)
	} else {
		w.code(0x190+uint64(c)-144, 9)
	}
}

// member is a gzip member around a deflate stream.
func member(deflate, content []byte) []byte {
	b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, deflate...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(content))
	return binary.LittleEndian.AppendUint32(b, uint32(len(content)))
}

// oneBlock is a member that is one block from its begin to its end.
func oneBlock(content []byte) []byte {
	var w bits
	w.write(1|1<<1, 3)
	for _, c := range content {
		w.literal(c)
	}
	w.code(0, 7)
	w.align()
	return member(w.out, content)
}

// alternating is a member of stored blocks, and of fixed ones that end at every bit, of sizes as they come.
func alternating(content []byte) []byte {
	rnd := rand.New(rand.NewPCG(8, 8))
	var w bits
	for rest := content; ; {
		n := min(len(rest), rnd.IntN(60_000))
		final := uint64(0)
		if n == len(rest) {
			final = 1
		}
		if rnd.IntN(2) == 0 {
			w.write(final, 3)
			w.align()
			w.write(uint64(n)|uint64(^uint16(n))<<16, 32)
			w.out = append(w.out, rest[:n]...)
		} else {
			w.write(final|1<<1, 3)
			for _, c := range rest[:n] {
				w.literal(c)
			}
			w.code(0, 7)
		}
		if rest = rest[n:]; final == 1 {
			break
		}
	}
	w.align()
	return member(w.out, content)
}

// emptyBlocks is a member with very many blocks without content.
func emptyBlocks(content []byte) []byte {
	var w bits
	for _, chunk := range chunks(content, 2000) {
		for range 30 {
			w.write(1<<1, 3)
			w.code(0, 7)
		}
		w.write(0, 3)
		w.align()
		w.write(uint64(len(chunk))|uint64(^uint16(len(chunk)))<<16, 32)
		w.out = append(w.out, chunk...)
	}
	w.write(1|1<<1, 3)
	w.code(0, 7)
	w.align()
	return member(w.out, content)
}

func piped(t testing.TB, in []byte, name string, args ...string) []byte {
	t.Helper()
	return pipedFrom(t, bytes.NewReader(in), name, args...)
}

func pipedFrom(t testing.TB, in io.Reader, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = in
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, args, err)
	}
	return out
}

func goGzip(t testing.TB, content []byte, level int, edit func(*stdgzip.Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := stdgzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	edit(w)
	w.Write(content)
	w.Close()
	return b.Bytes()
}

// withHeaderChecksum adds the checksum of the header that RFC 1952 allows.
func withHeaderChecksum(b []byte) []byte {
	b[3] |= 2
	end := 10
	return append(append(bytes.Clone(b[:end]), byte(crc32.ChecksumIEEE(b[:end])), byte(crc32.ChecksumIEEE(b[:end])>>8)), b[end:]...)
}

// gzips are all kinds of gzip of some content.
func gzips(t testing.TB, content []byte) map[string][]byte {
	plain := func(*stdgzip.Writer) {}
	all := map[string][]byte{
		"gzip -9":         piped(t, content, "gzip", "-9"),
		"gzip --rsync":    piped(t, content, "gzip", "--rsyncable"),
		"alternating":     alternating(content),
		"empty blocks":    emptyBlocks(content),
		"members":         gz(t, chunks(content, 70_000)...),
		"tiny members":    append(gz(t, chunks(content[:20_000], 7)...), gz(t, content[20_000:])...),
		"large members":   gz(t, chunks(content, 1_500_000)...),
		"empty members":   slicesJoin(gz(t, nil, nil, nil), gz(t, content[:1_000_000]), gz(t, nil, nil), gz(t, content[1_000_000:]), gz(t, nil)),
		"padded":          append(goGzip(t, content, 1, plain), make([]byte, 2_000_000)...),
		"header fields":   goGzip(t, content, 1, func(w *stdgzip.Writer) { w.Name, w.Comment, w.Extra = "a name", "a comment", make([]byte, 60_000) }),
		"header checksum": withHeaderChecksum(goGzip(t, content, 1, plain)),
		"huffman only":    goGzip(t, content, stdgzip.HuffmanOnly, plain),
	}
	for _, level := range []int{0, 1, 6, 9} {
		all["go level "+string(rune('0'+level))] = goGzip(t, content, level, plain)
	}
	for _, level := range []int{kgzip.StatelessCompression, kgzip.BestSpeed, 5, kgzip.BestCompression} {
		var b bytes.Buffer
		w, _ := kgzip.NewWriterLevel(&b, level)
		for _, c := range chunks(content, 300_000) {
			w.Write(c)
			if level == 5 {
				w.Flush()
			}
		}
		w.Close()
		all["klauspost level "+string(rune('a'+level+3))] = b.Bytes()
	}
	if _, err := exec.LookPath("pigz"); err == nil {
		all["pigz"], all["pigz -i"] = piped(t, content, "pigz", "-p4"), piped(t, content, "pigz", "-p4", "-i", "-b", "256")
		all["pigz -11"] = append(piped(t, content[:30_000], "pigz", "-11"), gz(t, content[30_000:])...)
	}
	return all
}

func slicesJoin(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// reads are how many parts of each blob are read. FuzzGzip has more patience.
const reads = 60

func TestGzip(t *testing.T) {
	content := oneFile(mixture(9 << 18)) // three spans, the least to have one in the middle
	for name, blob := range gzips(t, content) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			randomReads(t, blob, content, reads)
		})
	}
	t.Run("one block", func(t *testing.T) {
		content := oneFile(mixture(keepFrom + 1<<20))
		randomReads(t, oneBlock(content), content, reads)
	})
}

func encode(t testing.TB, content []byte, o ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, o...)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(content)
	w.Close()
	return b.Bytes()
}

// largeZstds are kinds of zstd of some content that have it in a frame, or almost.
func largeZstds(t testing.TB, content []byte) map[string][]byte {
	return map[string][]byte{
		"one frame":    encode(t, content),
		"huge frames":  zs(t, chunks(content, 5_000_000)...),
		"large window": encode(t, content, zstd.WithWindowSize(64<<20), zstd.WithEncoderLevel(zstd.SpeedBetterCompression)),
		"zstd":         piped(t, content, "zstd", "-c"),
		"zstd --long":  piped(t, content, "zstd", "-c", "--long=27", "-3"),
	}
}

// zstds are kinds of zstd of some content that need not be large.
func zstds(t testing.TB, content []byte) map[string][]byte {
	skippable := func(n int) []byte {
		return append(binary.LittleEndian.AppendUint32([]byte{0x5a, 0x2a, 0x4d, 0x18}, uint32(n)), make([]byte, n)...)
	}
	all := map[string][]byte{
		"no checksum":    encode(t, content, zstd.WithEncoderCRC(false)),
		"frames":         zs(t, chunks(content, 300_000)...),
		"large frames":   zs(t, chunks(content, 2_500_000)...),
		"tiny frames":    append(zs(t, chunks(content[:20_000], 7)...), zs(t, content[20_000:])...),
		"zstd --no-size": piped(t, content, "zstd", "-c", "--no-check", "--no-content-size", "-1"),
		"zstd -T2":       piped(t, content, "zstd", "-c", "-T2", "-B500000"),
		"skippable":      slicesJoin(skippable(100), skippable(0), zs(t, content[:1_500_000]), skippable(3_000_000), zs(t, content[1_500_000:]), skippable(9)),
	}
	var sized bytes.Buffer // frames with their sizes in the header, and empty ones
	w, _ := zstd.NewWriter(nil, zstd.WithZeroFrames(true))
	for _, c := range chunks(content, 1_100_000) {
		sized.Write(w.EncodeAll(c, nil))
		sized.Write(w.EncodeAll(nil, nil))
	}
	all["sized frames"] = sized.Bytes()
	return all
}

func TestZstd(t *testing.T) {
	for _, test := range []struct {
		content int
		kinds   func(t testing.TB, content []byte) map[string][]byte
	}{{keepFrom + 1<<20, largeZstds}, {3 << 20, zstds}} {
		content := oneFile(append(mixture(test.content), make([]byte, 1<<20)...)) // ends in runs
		for name, blob := range test.kinds(t, content) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				randomReads(t, blob, content, reads)
			})
		}
	}
}

func TestPlain(t *testing.T) {
	content := oneFile(mixture(5 << 20))
	randomReads(t, content, content, reads)
}

// randomReads reads a blob at random, half of it from a blob that is here, and half from ranges of one that is not.
func randomReads(t *testing.T, blob, content []byte, n int) {
	t.Helper()
	p := newPlace(t)
	d := p.add(blob)
	rnd := rand.New(rand.NewPCG(6, 7))
	for _, cached := range []bool{true, false} {
		if !cached {
			p.Layers.Close()
			p.uncache(t)
		}
		p.Layers.Close()
		p.Layers = New(Options{Store: p.store, Blobs: p.cache, Memory: 3 << 20})
		f, err := p.Layers.open(t.Context(), p.blobs, d)
		if err != nil {
			t.Fatal(err)
		}
		u := f.(*used)
		if u.size != int64(len(content)) {
			t.Fatalf("the stream has %d bytes instead of %d", u.size, len(content))
		}
		before := p.fetched.Load()
		for i, off := 0, 0; i < n/2; i++ {
			if off += rnd.IntN(100_000); i%10 == 0 || off >= len(content) {
				off = rnd.IntN(len(content))
			}
			got := make([]byte, min(rnd.IntN(9000)+1, len(content)-off))
			if n, err := u.content(t.Context(), got, int64(off)); err != nil {
				t.Fatalf("%d bytes at %d: %d, %v", len(got), off, n, err)
			}
			if !bytes.Equal(got, content[off:off+len(got)]) {
				t.Fatalf("other bytes at %d", off)
			}
		}
		if cached != (p.fetched.Load() == before) && len(blob) > 200_000 && u.mostlyFetched(t) {
			t.Errorf("cached %v, and %d bytes are fetched", cached, p.fetched.Load()-before)
		}
		u.release()
	}
}

// mostlyFetched tells that most of the content is not kept in the index.
func (u *used) mostlyFetched(t *testing.T) bool {
	kept := int64(0)
	for i := range u.count(secSpans, spanSize) {
		s, err := u.spanAt(i)
		if err != nil {
			t.Fatal(err)
		}
		if s.kind == spanKept {
			kept += int64(s.ulen)
		}
	}
	return kept < u.size/2
}

// uncache has the cache lose all blobs.
func (p *place) uncache(t testing.TB) {
	t.Helper()
	p.cache.Close()
	c, err := cache.New(cache.Options{Dir: t.TempDir(), Size: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	p.cache = c
	t.Cleanup(func() { c.Close() })
}
