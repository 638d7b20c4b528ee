package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/regfs/regfs/image"
)

// build opens the index of a layer, and makes it first where there is none. All who wait for it share it.
type build struct {
	l    *Layers
	name string
	src  image.Source
	d    image.Descriptor

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done is closed
	made   bool  // there was none

	mu       sync.Mutex
	waiters  int
	idle     *time.Timer
	progress []func(int64)
}

func newBuild(l *Layers, name string, src image.Source, d image.Descriptor) *build {
	b := &build{l: l, name: name, src: src, d: d, done: make(chan struct{})}
	b.ctx, b.cancel = context.WithCancel(l.ctx)
	b.idle = time.AfterFunc(time.Hour, b.abandon)
	b.idle.Stop()
	return b
}

func (b *build) enter(progress func(int64)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiters++
	b.progress = append(b.progress, progress)
	b.idle.Stop()
}

// wait waits for the end of the build. A build without anybody who waits ends soon.
func (b *build) wait(ctx context.Context) error {
	defer b.leave()
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *build) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiters--; b.waiters == 0 {
		b.progress = nil
		b.idle.Reset(grace)
	}
}

// abandon stops a build that nobody came back to; who comes now begins another.
func (b *build) abandon() {
	b.l.mu.Lock()
	defer b.l.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiters == 0 {
		if b.l.builds[b.name] == b {
			delete(b.l.builds, b.name)
		}
		b.cancel()
	}
}

func (b *build) run() {
	defer b.cancel()
	x, err := b.open()
	b.err = err
	b.l.finished(b, x, err)
	close(b.done)
	b.idle.Stop()
}

// open opens the index, and makes it where there is none, or a damaged one.
func (b *build) open() (*index, error) {
	x, err := b.kept()
	if err == nil {
		return x, nil
	}
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errDamaged) {
		return nil, err
	}
	b.made = true
	if err := b.make(); err != nil {
		return nil, err
	}
	b.l.renewed(b.name)
	return b.kept()
}

// kept opens the index that is kept, and tells what is wrong with the layer.
func (b *build) kept() (*index, error) {
	if b.l.isStale(b.name) {
		return nil, errDamaged
	}
	file, err := b.l.o.Store.OpenIndex(b.name)
	if err != nil {
		return nil, err
	}
	x, err := openIndex(file, b.l.pool)
	if err != nil {
		return nil, err
	}
	return x, b.report(x)
}

func (b *build) make() error {
	select {
	case b.l.turns <- struct{}{}:
		defer func() { <-b.l.turns }()
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	blob, err := b.l.o.Blobs.Open(b.ctx, b.src, b.d)
	if err != nil {
		return err
	}
	defer blob.Close()
	file, err := b.index(blob)
	if err != nil {
		return err
	}
	defer file.Close()
	return b.l.o.Store.PutIndex(b.name, file)
}

// index makes an index of the table of contents that the manifest vouches for, or else of the whole blob.
func (b *build) index(blob image.Blob) (*os.File, error) {
	var known []string
	if v, ok := vouched(b.d.Annotations); ok {
		file, err := tabulate(b.l.o.Store, &extracts{ctx: b.ctx, src: b.src, d: b.d, blob: blob}, v)
		switch {
		case err == nil:
			return file, nil
		case errors.Is(err, errTable):
			known = []string{strings.ReplaceAll(err.Error(), "\n", "; ")}
		case !errors.Is(err, image.ErrUnsupported):
			return nil, err
		}
	}
	return scan(b.l.o.Store, &reader{ctx: b.ctx, blob: blob, moved: b.moved}, known...)
}

// moved tells who wants to know how far it is.
func (b *build) moved(off int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.progress {
		p(off)
	}
}

// report tells what is wrong with the layer.
func (b *build) report(x *index) error {
	problems, err := x.problems()
	if err != nil {
		x.close()
		return fmt.Errorf("index: %w", err)
	}
	for _, p := range problems {
		if b.l.o.Report != nil {
			b.l.o.Report(b.d, p)
		}
	}
	return nil
}

// reader reads a blob from its start to its verified end.
type reader struct {
	ctx   context.Context
	blob  image.Blob
	off   int64
	moved func(off int64)
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.blob.ReadAt(r.ctx, p, r.off)
	r.off += int64(n)
	r.moved(r.off)
	if n > 0 && err == io.EOF {
		err = nil // it comes again
	}
	return n, err
}
