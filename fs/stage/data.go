package stage

import (
	"errors"
	"io"
	"os"
	"sync"
)

// data is the content of a staged file on disk. It is made when something is written, open while it is used, and goes away
// when it is removed and nobody uses it any more.
type data struct {
	path string

	mu    sync.Mutex
	file  *os.File
	users int
	pins  int // of users, those who need the content to stay as it is
	gone  bool
}

// use opens the content, until release.
func (d *data) use() (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		f, err := os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if d.gone { // removed before it was ever opened
			os.Remove(d.path)
		}
		d.file = f
	}
	d.users++
	return d.file, nil
}

func (d *data) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users--; d.users == 0 {
		d.file.Close()
		d.file = nil
	}
}

// pin is use by who needs the content to stay as it is: who wants to change it copies it first.
func (d *data) pin() (*os.File, error) {
	f, err := d.use()
	if err == nil {
		d.mu.Lock()
		d.pins++
		d.mu.Unlock()
	}
	return f, err
}

func (d *data) unpin() {
	d.mu.Lock()
	d.pins--
	d.mu.Unlock()
	d.release()
}

func (d *data) pinned() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pins > 0
}

// remove takes the content off the disk. Who uses it keeps it.
func (d *data) remove() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.gone {
		d.gone = true
		os.Remove(d.path)
	}
}

func (d *data) removed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone
}

// clone copies the first n bytes into another data.
func (d *data) clone(to *data, n int64) error {
	from, err := d.use()
	if err != nil {
		return err
	}
	defer d.release()
	f, err := to.use()
	if err != nil {
		return err
	}
	defer to.release()
	_, err = io.Copy(io.NewOffsetWriter(f, 0), io.NewSectionReader(from, 0, n))
	return err
}

// reader reads data from off on, up to n bytes of it, and releases it when closed.
type reader struct {
	*io.SectionReader
	d    *data
	once sync.Once
}

func (d *data) reader(off, n int64) (io.ReadCloser, error) {
	f, err := d.use()
	if err != nil {
		return nil, err
	}
	return &reader{SectionReader: io.NewSectionReader(f, off, max(n-off, 0)), d: d}, nil
}

func (r *reader) Close() error {
	err := errors.New("closed twice")
	r.once.Do(func() { r.d.release(); err = nil })
	return err
}
