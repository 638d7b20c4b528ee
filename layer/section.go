package layer

import (
	"bufio"
	"io"
	"os"
)

// section is a part of an index while it is made: bytes that are appended, and some that are changed afterwards.
type section struct {
	file *os.File
	w    *bufio.Writer
	size int64
}

func newSection(s Store) (*section, error) {
	file, err := s.Temp()
	if err != nil {
		return nil, local(err)
	}
	return &section{file: file, w: bufio.NewWriterSize(file, 32<<10)}, nil
}

// append adds bytes and says where they are.
func (s *section) append(p []byte) (off int64, err error) {
	off = s.size
	s.size += int64(len(p))
	_, err = s.w.Write(p)
	return off, local(err)
}

// patch changes bytes, and read reads some. Appending is over by then.
func (s *section) patch(p []byte, off int64) error {
	if err := s.w.Flush(); err != nil {
		return local(err)
	}
	_, err := s.file.WriteAt(p, off)
	return local(err)
}

func (s *section) read(p []byte, off int64) error {
	if err := s.w.Flush(); err != nil {
		return local(err)
	}
	_, err := s.file.ReadAt(p, off)
	return local(err)
}

// reset forgets all.
func (s *section) reset() error {
	s.size = 0
	_, err := s.file.Seek(0, io.SeekStart)
	s.w.Reset(s.file)
	return local(err)
}

// writeTo writes all of it.
func (s *section) writeTo(w io.Writer) error {
	if err := s.w.Flush(); err != nil {
		return local(err)
	}
	_, err := io.Copy(w, io.NewSectionReader(s.file, 0, s.size))
	return local(err)
}

func (s *section) close() { s.file.Close() }

// localError is an error of what is kept here, which tells nothing about what is in a blob.
type localError struct{ error }

func (e *localError) Unwrap() error { return e.error }

func local(err error) error {
	if err == nil {
		return nil
	}
	return &localError{err}
}
