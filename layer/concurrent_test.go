package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regfs/regfs/image"
)

// Many read one layer at once, some of whom give up; all that is read is right.
func TestManyReaders(t *testing.T) {
	content := oneFile(mixture(4 << 20))
	blob := gz(t, content)
	for _, cached := range []bool{true, false} {
		t.Run(fmt.Sprintf("cached %v", cached), func(t *testing.T) {
			p := newPlace(t)
			d := p.add(blob)
			if !cached {
				if _, err := p.words(t, p.blobs, d); err != nil {
					t.Fatal(err)
				}
				p.Layers.Close()
				p.uncache(t)
			}
			p.Layers.Close()
			p.Layers = New(Options{Store: p.store, Blobs: p.cache, Memory: 3 << 20})
			var wg sync.WaitGroup
			for n := range uint64(4) {
				wg.Go(func() { readMuch(t, p, d, content, rand.New(rand.NewPCG(n, n))) })
			}
			wg.Wait()
		})
	}
}

func readMuch(t *testing.T, p *place, d image.Descriptor, content []byte, rnd *rand.Rand) {
	for i := range 24 {
		ctx, cancel := context.WithCancel(t.Context())
		f, err := p.Layers.open(ctx, p.blobs, d)
		if err != nil {
			t.Error(err)
		}
		if i%4 == 0 {
			go cancel()
		}
		off := rnd.IntN(len(content) - 10_000)
		got := make([]byte, 9000)
		n, err := f.(*used).content(ctx, got, int64(off))
		if err != nil && (i%4 != 0 || !errors.Is(err, context.Canceled)) {
			t.Error(err)
		}
		if !bytes.Equal(got[:n], content[off:off+n]) {
			t.Errorf("other bytes at %d", off)
		}
		f.release()
		cancel()
	}
}

// gate is a repository whose content comes only when it is opened.
type gate struct {
	*blobs
	open    chan struct{}
	reached chan struct{}
	once    sync.Once
	asked   atomic.Int64
}

func newGate(p *place) *gate {
	return &gate{blobs: p.blobs, open: make(chan struct{}), reached: make(chan struct{})}
}

func (g *gate) Fetch(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	return g.FetchRange(ctx, d, 0, d.Size)
}

func (g *gate) FetchRange(ctx context.Context, d image.Descriptor, off, n int64) (io.ReadCloser, error) {
	g.asked.Add(1)
	g.once.Do(func() { close(g.reached) })
	select {
	case <-g.open:
		return g.blobs.FetchRange(ctx, d, off, n)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An index is made once for all who wait for it, and goes on when the first of them has left.
func TestManyWaiters(t *testing.T) {
	p := newPlace(t)
	g := newGate(p)
	d := p.add(gz(t, archive(root, ent{name: "a", body: "x"})))
	impatient, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := p.Layers.open(impatient, g, d)
		left <- err
	}()
	<-g.reached
	var made atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			m, err := p.Layers.Index(t.Context(), g, d, func(int64) {})
			if err != nil {
				t.Error(err)
			}
			if m {
				made.Add(1)
			}
		})
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	close(g.open)
	wg.Wait()
	if g.asked.Load() != 1 {
		t.Errorf("the blob was asked for %d times", g.asked.Load())
	}
	if again, err := p.Layers.Index(t.Context(), g, d, func(int64) {}); err != nil || again {
		t.Errorf("made again: %v, %v", again, err)
	}
	if got, err := p.words(t, g, d); err != nil || !cmp.Equal(got, []string{". d755", `a f644 "x"`}) {
		t.Errorf("%q, %v", got, err)
	}
}

// Close ends what is being made, and who waits for it; nothing is left behind.
func TestCloseWhileIndexing(t *testing.T) {
	p := newPlace(t)
	g := newGate(p)
	d := p.add(gz(t, archive(root)))
	done := make(chan error)
	go func() {
		_, err := p.Layers.open(t.Context(), g, d)
		done <- err
	}()
	<-g.reached
	p.Layers.Close()
	if err := <-done; err == nil || isInvalid(err) {
		t.Errorf("%v", err)
	}
	if _, err := p.Layers.open(t.Context(), g, d); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	p.noneLeft(t, d)
	close(g.open)
}

// Indexes that nobody uses are closed when there are many, and never those that somebody uses.
func TestIdleIndexes(t *testing.T) {
	p := newPlace(t)
	held := p.add(archive(root, ent{name: "held", body: "x"}))
	f, err := p.Layers.open(t.Context(), p.blobs, held)
	if err != nil {
		t.Fatal(err)
	}
	var others []image.Descriptor
	for i := range 3 * maxIdle {
		others = append(others, p.add(archive(root, ent{name: fmt.Sprint(i)})))
	}
	var wg sync.WaitGroup
	for n := range 3 {
		wg.Go(func() {
			for i := range others {
				if got, err := p.words(t, p.blobs, others[(i+n*maxIdle/2)%len(others)]); err != nil || len(got) != 2 {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
	if e, err := f.lookup(f.root(), "held"); err != nil || e.Name != "held" {
		t.Errorf("%v, %v", e, err)
	}
	f.release()
	p.Layers.mu.Lock()
	defer p.Layers.mu.Unlock()
	if n := len(p.live); n > maxIdle {
		t.Errorf("%d are open", n)
	}
}
