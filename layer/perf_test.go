package layer

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	kgzip "github.com/klauspost/compress/gzip"
)

func TestPerf(t *testing.T) {
	b, err := os.ReadFile("/tmp/perf/a.tar.gz")
	if err != nil {
		t.Skip()
	}
	for range 3 {
		t0 := time.Now()
		r, _ := kgzip.NewReader(bufio.NewReaderSize(bytes.NewReader(b), 256<<10))
		n, _ := io.Copy(io.Discard, r)
		plain := time.Since(t0)
		t0 = time.Now()
		f, err := scan(folderStore{t.TempDir()}, bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(t0)
		info, _ := f.Stat()
		t.Logf("%d bytes, plain %v (%.0f MB/s), scan %v, ratio %.2f, index %.2f %%", n, plain, float64(n)/plain.Seconds()/1e6, took, took.Seconds()/plain.Seconds(), 100*float64(info.Size())/float64(len(b)))
		f.Close()
	}
	p := newPlace(t)
	d := p.add(b)
	ff, err := p.Layers.open(t.Context(), p.blobs, d)
	if err != nil {
		t.Fatal(err)
	}
	u := ff.(*used)
	var c, i, e int
	c, i, e = int(u.rest(secData, 0)), int(u.rest(secInodes, 0)), int(u.rest(secNames, 0)+u.rest(secEntries, 0))
	t.Logf("data %d inodes %d entries %d spans %d", c, i, e, u.rest(secSpans, 0))
	buf := make([]byte, 4096)
	t0 := time.Now()
	for range 500 {
		if _, err := u.content(t.Context(), buf, rand.Int64N(u.size-4096)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("random 4 KiB: %v", time.Since(t0)/500)
}
