package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/regfs/regfs/tests/daemon"
)

// A round of random reads so many pieces of so many bytes, of files that have at least so many.
const (
	randomReads     = 500
	randomPiece     = 4 << 10
	randomLargeness = 1 << 20
)

// random reads at random places of the large files of gzipped layers, with a new mount each time and all blobs in its cache.
func (b *bench) random() string {
	const limit = 3 * time.Millisecond
	cached := b.index(b.ref())
	random := rand.New(rand.NewPCG(1, 2))
	var means []float64
	for round := range b.runs + 1 {
		b.t.Logf("random reads: %d of %d", round, b.runs)
		d := b.mount(cached)
		files := b.openLarge(d)
		begin := time.Now()
		for range randomReads {
			b.readPiece(random, files[random.IntN(len(files))])
		}
		took := time.Since(begin)
		for _, f := range files {
			f.Close()
		}
		b.unmount(d)
		if round > 0 {
			means = append(means, took.Seconds()/randomReads)
		}
	}
	return row("4 KiB at a random place of a large file, blobs and index cached", fmt.Sprintf("the mean of %d pread(2) in rootfs", randomReads),
		spread(means, "%.5f"), "≤ "+limit.String(), median(means) <= limit.Seconds())
}

// openLarge opens the large files of the image, all of which are in gzipped layers, and reads nothing.
func (b *bench) openLarge(d *daemon.Daemon) (files []*os.File) {
	err := filepath.WalkDir(b.inside(d, ""), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		if info, err := entry.Info(); err != nil || info.Size() < randomLargeness {
			return err
		}
		f, err := os.Open(path)
		files = append(files, f)
		return err
	})
	if err != nil || len(files) == 0 {
		b.t.Fatalf("%d large files: %v", len(files), err)
	}
	return files
}

func (b *bench) readPiece(random *rand.Rand, file *os.File) {
	info, err := file.Stat()
	if err == nil {
		_, err = file.ReadAt(make([]byte, randomPiece), random.Int64N(info.Size()-randomPiece))
	}
	if err != nil {
		b.t.Fatalf("%v", err)
	}
}
