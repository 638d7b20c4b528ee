package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

const (
	// keepIdle is how many images stay fetched that nobody reads.
	keepIdle = 3
	// keepKnown is how many images are remembered, without their content.
	keepKnown = 1024
)

// known is what an image is made of: that never changes, and is known once the image was fetched.
type known struct {
	id       digest.Digest
	manifest image.Descriptor
	raw      []byte
	parts    map[digest.Digest]image.Descriptor // the manifest too
}

// images are those that were fetched from the engine, which gives an image as a whole only.
type images struct {
	client *client
	dir    string
	ctx    context.Context // ends with the Engine
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	fetched map[digest.Digest]*fetched
	idle    []*fetched // the one used last stands last
	known   map[digest.Digest]*known
	seen    map[image.Repository]map[digest.Digest]bool // what was read in a repository stays readable when its name moves on
}

// fetched is an image in a file, or on its way into one.
type fetched struct {
	id    digest.Digest
	ready chan struct{} // closed when there is an archive, or an error
	src   image.Source
	err   error
	stop  context.CancelFunc
	users int
	gone  bool // nobody can come to use it any more
}

func newImages(c *client, dir string) *images {
	m := &images{
		client: c, dir: dir, fetched: map[digest.Digest]*fetched{}, known: map[digest.Digest]*known{},
		seen: map[image.Repository]map[digest.Digest]bool{},
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

// close ends what is on its way, and gives up what nobody reads.
func (m *images) close() {
	m.mu.Lock()
	m.stop()
	m.mu.Unlock()
	m.wg.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.idle {
		m.drop(f)
	}
	m.idle = nil
}

// open fetches an image unless it is here already. Many may wait for one that is on its way, which ends when nobody does.
func (m *images) open(ctx context.Context, id digest.Digest) (*fetched, error) {
	f, err := m.take(id)
	if err != nil {
		return nil, err
	}
	select {
	case <-f.ready:
		err = f.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		m.release(f)
		return nil, err
	}
	return f, nil
}

// take is the image, for one user more. A release has to follow.
func (m *images) take(id digest.Digest) (*fetched, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return nil, fmt.Errorf("it was closed: %w", context.Canceled)
	}
	f := m.fetched[id]
	if f == nil {
		f = &fetched{id: id, ready: make(chan struct{})}
		var ctx context.Context
		ctx, f.stop = context.WithCancel(m.ctx)
		m.fetched[id] = f
		m.wg.Go(func() { m.fetch(ctx, f) })
	}
	f.users++
	m.rest(f)
	return f, nil
}

// fetch is how an image comes to be here.
func (m *images) fetch(ctx context.Context, f *fetched) {
	src, err := m.client.save(ctx, m.dir, f.id)
	m.mu.Lock()
	defer m.mu.Unlock()
	f.src, f.err = src, err
	close(f.ready)
	if err != nil {
		m.forget(f)
	} else if f.gone && f.users == 0 {
		src.Close()
	}
}

// forget makes f one that nobody comes to use any more.
func (m *images) forget(f *fetched) {
	f.gone = true
	if m.fetched[f.id] == f {
		delete(m.fetched, f.id)
	}
}

// release ends one use of f.
func (m *images) release(f *fetched) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.users--
	if f.users > 0 {
		return
	}
	select {
	case <-f.ready:
	default:
		m.forget(f)
		f.stop()
		return
	}
	if f.gone || m.ctx.Err() != nil {
		m.drop(f)
		return
	}
	m.rest(f)
}

// rest lets idle be those that nobody uses, and no more than there is room for.
func (m *images) rest(f *fetched) {
	for i, other := range m.idle {
		if other == f {
			m.idle = append(m.idle[:i:i], m.idle[i+1:]...)
			break
		}
	}
	if f.users == 0 {
		m.idle = append(m.idle, f)
	}
	if len(m.idle) > keepIdle {
		m.drop(m.idle[0])
		m.idle = m.idle[1:]
	}
}

// drop gives up what was fetched, and nobody uses.
func (m *images) drop(f *fetched) {
	m.forget(f)
	f.stop()
	if f.src != nil {
		f.src.Close()
	}
}

// save writes what the engine has under an ID into a file, and opens that as the archive it is.
func (c *client) save(ctx context.Context, dir string, id digest.Digest) (image.Source, error) {
	body, err := c.do(ctx, request{method: http.MethodGet, path: "/images/" + id.String() + "/get", long: true})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return spool(ctx, dir, body)
}

// look says what an image is made of, and fetches it to know. It is part of a repository from then on.
func (m *images) look(ctx context.Context, at image.Repository, id digest.Digest) (*known, error) {
	m.mu.Lock()
	k := m.known[id]
	m.mu.Unlock()
	if k == nil {
		var err error
		if k, err = m.read(ctx, id); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remember(at, k)
	return k, nil
}

// remember keeps what is known. Who looked at that many images can have them fetched again.
func (m *images) remember(at image.Repository, k *known) {
	if len(m.known) >= keepKnown && m.known[k.id] == nil {
		clear(m.known)
		clear(m.seen)
	}
	m.known[k.id] = k
	if m.seen[at] == nil {
		m.seen[at] = map[digest.Digest]bool{}
	}
	m.seen[at][k.id] = true
}

// read reads what a fetched image is made of.
func (m *images) read(ctx context.Context, id digest.Digest) (*known, error) {
	f, err := m.open(ctx, id)
	if err != nil {
		return nil, err
	}
	defer m.release(f)
	k := &known{id: id, parts: map[digest.Digest]image.Descriptor{}}
	if k.manifest, k.raw, err = f.src.Manifest(ctx, ""); err != nil {
		return nil, err
	}
	err = image.Walk(ctx, f.src, k.manifest, func(d image.Descriptor, _ *image.Manifest, err error) error {
		if errors.Is(err, image.ErrNotFound) {
			return nil // of an index, an engine has some platforms only
		}
		k.parts[d.Digest] = d
		return err
	})
	return k, err
}

// in lists what is known of a repository.
func (m *images) in(at image.Repository) []*known {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*known
	for id := range m.seen[at] {
		all = append(all, m.known[id])
	}
	return all
}

// lose makes an image no part of a repository any more.
func (m *images) lose(at image.Repository, id digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.seen[at], id)
}

// content opens a part of an image.
func (m *images) content(ctx context.Context, id digest.Digest, open func(image.Source) (io.ReadCloser, error)) (io.ReadCloser, error) {
	f, err := m.open(ctx, id)
	if err != nil {
		return nil, err
	}
	r, err := open(f.src)
	if err != nil {
		m.release(f)
		return nil, err
	}
	return &using{ReadCloser: r, release: sync.OnceFunc(func() { m.release(f) })}, nil
}

// using is content of a fetched image, which is in use until it is closed.
type using struct {
	io.ReadCloser
	release func()
}

func (p *using) Close() error {
	defer p.release()
	return p.ReadCloser.Close()
}
