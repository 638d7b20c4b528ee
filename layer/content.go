package layer

import (
	"container/list"
	"context"
	"sync"
)

// contents remembers the decompressed content of spans, under a limit of memory; the least recently used goes first. What is asked
// for by several at once is made once.
type contents struct {
	mu    sync.Mutex
	limit int64
	used  int64
	order *list.List
	spans map[spanKey]*list.Element
}

// spanKey names a span: the index, by the name it is kept under, and which one it is.
type spanKey struct {
	index string
	span  int
}

// spanContent is the content of a span, or what keeps it from being there, once ready is closed.
type spanContent struct {
	key   spanKey
	cost  int64
	ready chan struct{}
	*decoded
	err error
}

func newContents(limit int64) *contents {
	return &contents{limit: limit, order: list.New(), spans: map[spanKey]*list.Element{}}
}

// get is the content of a span, and whether the caller must have it made.
func (c *contents) get(key spanKey, cost int64) (s *spanContent, isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.spans[key]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*spanContent), false
	}
	s = &spanContent{key: key, cost: cost, ready: make(chan struct{})}
	c.spans[key] = c.order.PushFront(s)
	c.used += cost
	for c.used > c.limit && c.order.Len() > 1 {
		c.drop(c.order.Back())
	}
	return s, true
}

// has tells whether the content of a span is there, or being made.
func (c *contents) has(key spanKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spans[key] != nil
}

// settle ends the making of a span's content. A failure is not remembered.
func (c *contents) settle(s *spanContent, d *decoded, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.decoded, s.err = d, err
	close(s.ready)
	if e := c.spans[s.key]; err != nil && e != nil && e.Value == s {
		c.drop(e)
	}
}

func (c *contents) drop(e *list.Element) {
	s := c.order.Remove(e).(*spanContent)
	delete(c.spans, s.key)
	c.used -= s.cost
}

// wait waits until the content is there.
func (s *spanContent) wait(ctx context.Context) error {
	select {
	case <-s.ready:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
