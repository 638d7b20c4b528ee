package tarball

import (
	"context"
	"io"
	"os"
	"sync"

	"github.com/regfs/regfs/layout/internal/disk"
)

// spool keeps what comes from a reader that can be read but once, in a file without a name.
type spool struct {
	r    io.Reader
	dir  string
	once sync.Once
	done chan struct{}

	// What follows is set when done is closed.
	file *os.File
	err  error
}

func newSpool(r io.Reader, dir string) *spool {
	return &spool{r: r, dir: dir, done: make(chan struct{})}
}

// wait waits until all has come. The first one who waits begins; a context ends the waiting only, for what was read can't be read again.
func (s *spool) wait(ctx context.Context) error {
	s.once.Do(func() { go s.fill() })
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *spool) fill() {
	defer close(s.done)
	file, err := disk.Temp(s.dir)
	if err == nil {
		_, err = io.Copy(file, s.r)
	}
	s.file, s.err = file, err
}

// open opens what came, when all has.
func (s *spool) open() (*os.File, error) {
	<-s.done
	if s.err != nil {
		return nil, s.err
	}
	return disk.Again(s.file)
}

// close lets go of the file, as soon as nobody writes to it.
func (s *spool) close() error {
	s.once.Do(func() { // and it is never begun
		s.err = os.ErrClosed
		close(s.done)
	})
	go func() {
		<-s.done
		if s.file != nil {
			s.file.Close()
		}
	}()
	return nil
}
