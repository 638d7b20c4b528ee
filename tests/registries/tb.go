package registries

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
)

// TB is what registries need of a test or a benchmark: testing.T and testing.B have it, and Main has it for programs that
// are neither.
type TB interface {
	Helper()
	Context() context.Context
	TempDir() string
	Cleanup(func())
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Main runs fn as the whole of a program that is no test, and returns its exit code: 0, or 1 after Fatalf and Skipf, which
// print to standard error. Whatever fn does, everything registered with Cleanup is run before Main returns. SIGINT and
// SIGTERM cancel the context, on which fn has to return.
func Main(fn func(t TB)) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	p := &program{ctx: ctx, failed: true}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer p.cleanup()
		fn(p)
		p.failed = false
	}()
	<-done
	if p.failed {
		return 1
	}
	return 0
}

// program is the TB of Main. Only the goroutine of fn uses it.
type program struct {
	ctx      context.Context
	cleanups []func()
	// failed holds until fn has returned, so that a panic or a Goexit counts.
	failed bool
}

func (p *program) Helper()                         {}
func (p *program) Context() context.Context        { return p.ctx }
func (p *program) Cleanup(fn func())               { p.cleanups = append(p.cleanups, fn) }
func (p *program) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (p *program) Fatalf(format string, args ...any) {
	p.Logf(format, args...)
	runtime.Goexit()
}

func (p *program) Skipf(format string, args ...any) { p.Fatalf(format, args...) }

func (p *program) TempDir() string {
	dir, err := os.MkdirTemp("", "regfs-")
	if err != nil {
		p.Fatalf("%v", err)
	}
	p.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			p.Logf("%v", err)
		}
	})
	return dir
}

func (p *program) cleanup() {
	for _, fn := range slices.Backward(p.cleanups) {
		fn()
	}
}
