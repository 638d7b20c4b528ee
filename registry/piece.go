package registry

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/regfs/regfs/image"
)

// piece is a part of the content: the body of one request, as often as it has to be sent.
type piece struct {
	upload   *upload
	off, end int64
	kept     []byte // the part itself, where its length could not be known otherwise
	last     bool   // the content ends with it, which is to be made sure of before its last byte is sent
	patience time.Duration

	sending *sending // what is being sent now, or was at last
}

// open starts to send the piece, or starts again.
func (p *piece) open(w *watch) (io.ReadCloser, error) {
	if p.sending != nil {
		p.sending.finish()
	}
	s := &sending{piece: p, watch: w, at: p.off, kept: p.kept}
	if p.kept == nil {
		start := time.Now()
		w.pause()
		if err := p.upload.seek(p.off); err != nil {
			return nil, err
		}
		s.feed, p.upload.fed = p.upload.feed, -1
		w.expect(p.patience)
		p.upload.extend(p.upload.deadline().Add(time.Since(start)))
	}
	p.sending = s
	return s, nil
}

// sent ends the piece, and says what was wrong with the content, if that is why it failed.
func (p *piece) sent() (whole bool, err error) {
	if p.sending == nil {
		return p.off == p.end, nil
	}
	p.sending.finish()
	p.sending.mu.Lock()
	defer p.sending.mu.Unlock()
	return p.sending.at == p.end, p.sending.err
}

// sending is a piece on its way. The watch looks at it only while the registry is waited for, and not the content.
type sending struct {
	*piece
	watch *watch
	feed  *feed  // where it comes from,
	kept  []byte // or that

	mu   sync.Mutex
	at   int64
	err  error // what was wrong with the content
	over bool  // the request is: what is read from now on changes nothing
}

// Read gives out the next bytes, the last of all only if all of them are right.
func (s *sending) Read(p []byte) (int, error) {
	at := s.position()
	if at == s.end {
		return 0, io.EOF
	}
	s.await()
	start := time.Now()
	n, err := s.take(p[:min(int64(len(p)), s.end-at)])
	if err == nil && s.last && at+int64(n) == s.end && s.feed != nil {
		if err = s.feed.ended(); err == nil {
			err = s.upload.verify()
		}
	}
	return s.took(n, err, time.Since(start))
}

func (s *sending) take(p []byte) (int, error) {
	if s.feed == nil {
		return s.takeKept(p)
	}
	n, err := s.feed.Read(p)
	if err == io.EOF {
		err = &contentError{fmt.Errorf("the content ends at %d, before %d: %w", s.position(), s.upload.size, image.ErrDigest)}
	}
	return n, err
}

// takeKept copies from the buffer, which is filled anew when the request is over.
func (s *sending) takeKept(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return 0, io.ErrClosedPipe
	}
	n := copy(p, s.kept)
	s.kept = s.kept[n:]
	return n, nil
}

func (s *sending) position() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// await stops the clock.
func (s *sending) await() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.watch.pause()
	}
}

// took starts the clock again, and takes note of what was given out.
func (s *sending) took(n int, err error, waited time.Duration) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return 0, io.ErrClosedPipe
	}
	if err != nil {
		s.err = err
		return 0, err
	}
	s.at += int64(n)
	s.upload.moved(s.at, waited)
	s.watch.expect(s.patience)
	return n, nil
}

// Close is the transport's, which may still be reading.
func (s *sending) Close() error { return nil }

// finish makes what is still being read of no account.
func (s *sending) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}
