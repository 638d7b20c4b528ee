package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
)

// progress shows how blobs fare that are copied or indexed: a line for each blob and manifest that is done and, on a terminal, a bar below them for each
// one that moves. It is safe for concurrent use.
type progress struct {
	out   io.Writer // of lines
	quiet bool      // only what Write is told is shown
	board *mpb.Progress
	// draw has the board drawn, stop ends its being drawn now and again, and stopped tells when that has ended.
	draw          chan any
	stop, stopped chan struct{}

	mu   sync.Mutex
	bars map[digest.Digest]*mpb.Bar
}

func newProgress(out io.Writer, quiet bool) *progress {
	p := &progress{out: out, quiet: quiet, bars: map[digest.Digest]*mpb.Bar{}}
	if !quiet && isTerminal(out) {
		p.draw, p.stop, p.stopped = make(chan any), make(chan struct{}), make(chan struct{})
		p.board = mpb.New(mpb.WithOutput(out), mpb.WithManualRefresh(p.draw))
		p.out = p.board // which writes above the bars
		go p.redraw()
	}
	return p
}

// refresh is how often the board is drawn.
const refresh = 120 * time.Millisecond

// redraw draws the board until it is stopped. The library would do that by itself, and lose the lines that were written after it did it last.
func (p *progress) redraw() {
	defer close(p.stopped)
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			p.draw <- now
		case <-p.stop:
			return
		}
	}
}

// isTerminal tells whether out is one that bars can be drawn on.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// tell takes note of what happened.
func (p *progress) tell(e copy.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.State {
	case copy.Moving:
		p.moves(e)
	case copy.Done:
		p.drop(e.Descriptor.Digest)
		p.line(e)
	case copy.Failed:
		p.drop(e.Descriptor.Digest)
	}
}

// moves draws a bar. Manifests move too fast to be seen.
func (p *progress) moves(e copy.Event) {
	d := e.Descriptor
	if p.board == nil || image.IsManifest(d.MediaType) {
		return
	}
	bar := p.bars[d.Digest]
	if bar == nil {
		bar = newBar(p.board, d)
		p.bars[d.Digest] = bar
	}
	bar.SetCurrent(e.Sent)
}

// newBar is a bar that ends only when it is told to: what was sent may have to be sent again.
func newBar(board *mpb.Progress, d image.Descriptor) *mpb.Bar {
	bar := board.AddBar(0,
		mpb.PrependDecorators(decor.Name(short(d.Digest)+"  ")),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
			return fmt.Sprintf("%10s / %s", size(s.Current), size(d.Size))
		})),
	)
	bar.SetTotal(max(d.Size, 0), false)
	return bar
}

func (p *progress) drop(dgst digest.Digest) {
	if bar := p.bars[dgst]; bar != nil {
		bar.Abort(true)
		delete(p.bars, dgst)
	}
}

func (p *progress) line(e copy.Event) {
	if p.quiet {
		return
	}
	what := ""
	if image.IsManifest(e.Descriptor.MediaType) {
		what = "manifest "
	}
	// Who does not see it can't be told either.
	fmt.Fprintf(p.out, "%s  %10s  %s%s\n", short(e.Descriptor.Digest), size(e.Descriptor.Size), what, e.How)
}

// Write writes whole lines above the bars, always: they are what went wrong.
func (p *progress) Write(lines []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(lines)
}

// close leaves nothing but lines on the terminal.
func (p *progress) close() {
	p.mu.Lock()
	for dgst := range p.bars {
		p.drop(dgst)
	}
	p.mu.Unlock()
	if p.board == nil {
		return
	}
	close(p.stop)
	<-p.stopped
	p.draw <- nil
	p.draw <- nil // when this is taken, the other one has been
	p.board.Wait()
}

// short is enough of a digest to tell it from others.
func short(dgst digest.Digest) string {
	const most = len("sha256:") + 12
	return strings.ToValidUTF8(string(dgst[:min(len(dgst), most)]), "?")
}

func size(n int64) string {
	if n < 0 {
		return "?"
	}
	return units.CustomSize("%.4g %s", float64(n), 1000, []string{"B", "kB", "MB", "GB", "TB", "PB"})
}
