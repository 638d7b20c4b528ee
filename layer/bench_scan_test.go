package layer

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	kgzip "github.com/klauspost/compress/gzip"
)

// BenchmarkScan indexes a layer of real files, beside nothing but decompressing it, and reads it at random.
func BenchmarkScan(b *testing.B) {
	dir := os.Getenv("BENCHTAR")
	if dir == "" {
		dir = "/usr/lib/python3"
	}
	raw, err := exec.CommandContext(b.Context(), "tar", "-C", dir, "-c", ".").Output()
	if err != nil {
		b.Skip(err)
	}
	blob := piped(b, raw, "gzip", "-6")
	store := folderStore{b.TempDir()}
	var plain, scanned time.Duration
	var index int64
	for b.Loop() {
		began := time.Now()
		r, err := kgzip.NewReader(bufio.NewReaderSize(bytes.NewReader(blob), 256<<10))
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, r)
		plain += time.Since(began)
		began = time.Now()
		file, err := scan(store, bytes.NewReader(blob))
		if err != nil {
			b.Fatal(err)
		}
		scanned += time.Since(began)
		info, _ := file.Stat()
		index = info.Size()
		file.Close()
	}
	b.ReportMetric(scanned.Seconds()/plain.Seconds(), "x-gunzip")
	b.ReportMetric(100*float64(index)/float64(len(blob)), "%-index")
	b.ReportMetric(float64(len(raw))*float64(b.N)/1e6/plain.Seconds(), "MB/s-gunzip")
	benchReads(b, blob)
}

func benchReads(b *testing.B, blob []byte) {
	l, _, d := lone(b, blob)
	f, err := l.open(b.Context(), nil, d)
	if err != nil {
		b.Fatal(err)
	}
	defer f.release()
	u := f.(*used)
	const reads = 300
	rnd := rand.New(rand.NewPCG(1, 2))
	began := time.Now()
	for range reads {
		l.spans = newContents(1) // nothing is remembered
		if _, err := u.content(b.Context(), make([]byte, 4096), rnd.Int64N(u.size-4096)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(time.Since(began).Microseconds())/1000/reads, "ms/4KiB")
}
