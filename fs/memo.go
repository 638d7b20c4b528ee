package fs

import (
	"container/list"
	"context"
	"sync"
)

// memo remembers what can be made again, under a limit of memory: the least recently used goes first.
type memo[K comparable, V any] struct {
	mu    sync.Mutex
	limit int
	used  int
	order *list.List
	items map[K]*list.Element
}

type memoItem[K comparable, V any] struct {
	key   K
	value V
	cost  int
}

func newMemo[K comparable, V any](limit int) *memo[K, V] {
	return &memo[K, V]{limit: limit, order: list.New(), items: map[K]*list.Element{}}
}

// get returns what is remembered, or makes it. Two at once may both make it; what costs a request is shared below.
func (m *memo[K, V]) get(ctx context.Context, key K, load func(context.Context) (V, int, error)) (V, error) {
	if v, ok := m.peek(key); ok {
		return v, nil
	}
	v, cost, err := load(ctx)
	if err == nil {
		m.put(key, v, cost)
	}
	return v, err
}

func (m *memo[K, V]) peek(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.items[key]
	if !ok {
		var none V
		return none, false
	}
	m.order.MoveToFront(e)
	return e.Value.(*memoItem[K, V]).value, true
}

// put remembers a value, at a cost in bytes. What alone is over the limit is not remembered.
func (m *memo[K, V]) put(key K, v V, cost int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.items[key]; ok {
		m.drop(e)
	}
	if cost > m.limit {
		return
	}
	m.items[key] = m.order.PushFront(&memoItem[K, V]{key, v, cost})
	m.used += cost
	for m.used > m.limit {
		m.drop(m.order.Back())
	}
}

// remove forgets a value.
func (m *memo[K, V]) remove(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.items[key]; ok {
		m.drop(e)
	}
}

func (m *memo[K, V]) drop(e *list.Element) {
	item := m.order.Remove(e).(*memoItem[K, V])
	delete(m.items, item.key)
	m.used -= item.cost
}
