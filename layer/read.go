package layer

import (
	"context"
	"fmt"
	"io"
)

// readAt reads a regular file.
func (u *used) readAt(ctx context.Context, ino inode, p []byte, off int64) (int, error) {
	r, err := u.record(ino)
	if err != nil {
		return 0, u.judge(err)
	}
	if off < 0 || off >= r.size {
		return 0, io.EOF
	}
	end := error(nil)
	if int64(len(p)) > r.size-off {
		p, end = p[:r.size-off], io.EOF
	}
	n, err := 0, error(nil)
	if r.flags&flagSparse != 0 {
		n, err = u.readSparse(ctx, ino, p, off)
	} else {
		n, err = u.content(ctx, p, r.data+off)
	}
	if err != nil {
		return n, layerError(u.d, u.judge(err))
	}
	return n, end
}

// readSparse reads from parts and from the holes between them.
func (u *used) readSparse(ctx context.Context, ino inode, p []byte, off int64) (int, error) {
	r, err := u.whole(ino)
	if err != nil {
		return 0, err
	}
	clear(p)
	// The parts follow one another in the stream.
	data, end := r.data, off+int64(len(p))
	for _, part := range r.sparse {
		from, to := max(off, part.off), min(end, part.off+part.size)
		if from < to {
			if n, err := u.content(ctx, p[from-off:to-off], data+from-part.off); err != nil {
				return int(from-off) + n, err
			}
		}
		data += part.size
	}
	return len(p), nil
}

// content reads the decompressed stream.
func (u *used) content(ctx context.Context, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		i, s, err := u.span(off + int64(n))
		if err != nil {
			return n, err
		}
		from := int(off + int64(n) - s.uoff)
		to := min(int(s.ulen), from+len(p)-n)
		if s.kind == spanZero {
			clear(p[n : n+to-from])
			n += to - from
			continue
		}
		c, err := u.decoded(ctx, i, s)
		if err != nil {
			return n, err
		}
		b, err := c.upTo(to)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], b[from:])
	}
	return n, nil
}

// decoded is the content of a span, from memory or made now. Who comes from the span before it finds the next one made, too.
func (u *used) decoded(ctx context.Context, i int, s span) (*decoded, error) {
	c, isNew := u.l.spans.get(u.key(i), s.cost())
	if isNew {
		u.make(c, i, s, false)
		if u.l.spans.has(u.key(i - 1)) {
			u.prepare(i + 1)
		}
	}
	if err := c.wait(ctx); err != nil {
		return nil, err
	}
	return c.decoded, nil
}

func (u *used) key(i int) spanKey { return spanKey{u.o.name, i} }

// cost is about what the content of a span takes in memory.
func (s *span) cost() int64 { return int64(s.ulen) + int64(s.clen)/2 }

// prepare makes all of a span's content, if there is such a span.
func (u *used) prepare(i int) {
	if i >= u.count(secSpans, spanSize) {
		return
	}
	s, err := u.spanAt(i)
	if err != nil || s.kind == spanZero {
		return // who reads it will see
	}
	if c, isNew := u.l.spans.get(u.key(i), s.cost()); isNew {
		u.make(c, i, s, true)
	}
}

// make makes the content of a span beside the caller; whole makes all of it at once.
func (u *used) make(c *spanContent, i int, s span, whole bool) {
	l, load := u.l, u.again()
	err := l.spawn(func() {
		defer load.release()
		d, err := load.load(l.ctx, i, s)
		l.spans.settle(c, d, err)
		if whole && err == nil {
			_, _ = d.upTo(int(s.ulen)) // the error stays for who reads
		}
	})
	if err != nil {
		load.release()
		l.spans.settle(c, nil, err)
	}
}

// again is one more use of the files.
func (u *used) again() *used {
	u.l.mu.Lock()
	defer u.l.mu.Unlock()
	u.o.users++
	more := *u
	return &more
}

// load makes the content of a span.
func (u *used) load(ctx context.Context, i int, s span) (*decoded, error) {
	var window []byte
	if s.refLen > 0 {
		var err error
		if window, err = u.unpack(s); err != nil {
			return nil, err
		}
	}
	if s.kind == spanKept {
		return newDecoded(s, nil, window)
	}
	return u.o.decoded(ctx, u.src, u.d, numbered{i, s}, window)
}

// unpack reads what the index kept for a span.
func (u *used) unpack(s span) ([]byte, error) {
	b, err := u.in(secData, s.ref, int(s.refLen))
	if err != nil {
		return nil, err
	}
	out, err := u.l.unzip.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("unpack: %w: %w", err, errDamaged)
	}
	return out, nil
}
