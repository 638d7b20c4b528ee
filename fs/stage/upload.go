package stage

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
)

// earlyAt is how much of a blob has to be written, in order, for its upload to begin beside the writing, in bytes.
const earlyAt = 1 << 20

// upload is a blob on its way before anybody waits for it.
type upload struct {
	cancel  context.CancelFunc
	done    chan struct{}
	started bool // the staging's lock is held for it, as for taken
	taken   bool // somebody who waits does it instead
	how     image.How
	err     error
}

// begin uploads a blob beside whatever else happens: one that is whole, or, with follow, one that is still being written in
// order under its own name. What comes of it is asked for by the push.
func (l *Staging) begin(dgst digest.Digest, f *File, follow bool) {
	if follow && !l.store.room.TryAcquire(1) {
		return
	}
	ctx, cancel := context.WithCancel(l.store.ctx)
	u := &upload{cancel: cancel, done: make(chan struct{}), started: follow}
	if !l.enlist(dgst, u) || !l.store.spawn(func() { l.upload(ctx, u, dgst, f, follow) }) {
		cancel()
		if follow {
			l.store.room.Release(1)
		}
	}
}

// enlist makes u the upload of a blob, if there is none.
func (l *Staging) enlist(dgst digest.Digest, u *upload) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone || l.uploads[dgst] != nil || l.there[thing{dgst, false}] {
		return false
	}
	l.uploads[dgst] = u
	return true
}

// spawn runs fn, and has Close wait for its end. It does not after Close.
func (s *Store) spawn(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.work.Go(fn)
	return true
}

func (l *Staging) upload(ctx context.Context, u *upload, dgst digest.Digest, f *File, follow bool) {
	defer u.cancel()
	if follow || l.start(ctx, u) {
		u.how, u.err = l.send(ctx, dgst, f, follow)
		l.store.room.Release(1)
	} else {
		u.err = context.Canceled
	}
	l.mu.Lock()
	if l.uploads[dgst] == u {
		delete(l.uploads, dgst)
	}
	if u.err == nil {
		l.there[thing{dgst, false}] = true
		delete(l.absent, thing{dgst, false})
	}
	l.mu.Unlock()
	close(u.done)
}

// start waits for room, and tells whether the upload is still this one's to do.
func (l *Staging) start(ctx context.Context, u *upload) bool {
	if l.store.room.Acquire(ctx, 1) != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u.started = !u.taken
	if u.taken {
		l.store.room.Release(1)
	}
	return u.started
}

// send pushes the blob. What fails is not told: nobody waits for it yet, and who does will try again.
func (l *Staging) send(ctx context.Context, dgst digest.Digest, f *File, follow bool) (image.How, error) {
	sink, err := l.sink(ctx)
	if err != nil {
		return "", err
	}
	d := image.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: -1}
	content := image.Content{Verified: true, Open: func(ctx context.Context, off int64) (io.ReadCloser, error) {
		return f.follow(ctx, dgst, off)
	}}
	if !follow {
		h, err := f.hold(ctx, blobPath(dgst), dgst)
		if err != nil || h == nil {
			return "", fmt.Errorf("%s changed: %w", dgst, errBroken)
		}
		defer h.release()
		if h.isManifest(ctx) {
			return "", errNoBlob
		}
		content, d.Size = h.content, h.size
	}
	content.Sent = func(n int64) { l.told(copy.Event{Descriptor: d, State: copy.Moving, Sent: n}) }
	how, err := sink.Push(ctx, d, content)
	if err != nil {
		l.told(copy.Event{Descriptor: d, State: copy.Waiting})
		return "", err
	}
	l.told(copy.Event{Descriptor: d, State: copy.Done, How: how})
	return how, nil
}

// errNoBlob ends the upload of a manifest: it is no blob, and goes when all that it names is there.
var errNoBlob = errors.New("this is a manifest")

// await is the result of the upload of a blob that is on its way: ok is false where there is none, and whoever asks has to push it.
// One that has not started is his from then on.
func (l *Staging) await(ctx context.Context, dgst digest.Digest) (how image.How, ok bool, err error) {
	l.mu.Lock()
	u := l.uploads[dgst]
	if u != nil && !u.started {
		u.taken = true
		delete(l.uploads, dgst)
		u.cancel()
		u = nil
	}
	l.mu.Unlock()
	if u == nil {
		return "", false, nil
	}
	select {
	case <-u.done:
		return u.how, u.err == nil, nil
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
}

// errBroken ends an upload whose file is no longer what was being sent.
var errBroken = fmt.Errorf("the file has changed: %w", image.ErrDigest)

// follower reads a file that is being written in order, as far as it goes, and ends when it has been found to be the blob it is
// called.
type follower struct {
	ctx  context.Context
	f    *File
	d    *data
	at   string
	off  int64
	file io.ReaderAt
}

func (f *File) follow(ctx context.Context, dgst digest.Digest, off int64) (io.ReadCloser, error) {
	f.io.RLock()
	defer f.io.RUnlock()
	in, err := f.data.use()
	if err != nil {
		return nil, err
	}
	return &follower{ctx, f, f.data, blobPath(dgst), off, in}, nil
}

func (r *follower) Read(p []byte) (int, error) {
	for {
		limit, whole, grown, err := r.look()
		switch {
		case err != nil:
			return 0, err
		case r.off < limit:
			n, err := r.file.ReadAt(p[:min(int64(len(p)), limit-r.off)], r.off)
			r.off += int64(n)
			return n, err
		case whole:
			return 0, io.EOF
		}
		select {
		case <-grown:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

// look tells how far the file goes, whether that is all, and what to wait for else. One that is not written in order any more, for it
// has a hole, say, can't be followed.
func (r *follower) look() (limit int64, whole bool, grown <-chan struct{}, err error) {
	r.f.io.RLock()
	defer r.f.io.RUnlock()
	r.f.l.mu.Lock()
	at := r.f.path
	r.f.l.mu.Unlock()
	if r.f.hash == nil || r.f.data != r.d || at != r.at || r.f.hashed < r.off || r.f.hashed != r.f.size {
		return 0, false, nil, errBroken
	}
	return r.f.hashed, r.f.judged == r.f.version, r.f.grown, nil
}

func (r *follower) Close() error {
	r.d.release()
	return nil
}

// Blobs is the Tag of the Site whose blobs are pushed one by one, and belong to no image.
const Blobs = "@blobs"

// put pushes a blob that is whole, now.
func (l *Staging) put(ctx context.Context, dgst digest.Digest, f *File) error {
	sink, err := l.sink(ctx)
	if err != nil {
		return err
	}
	at := blobPath(dgst)
	h, err := f.hold(ctx, at, dgst)
	if err != nil || h == nil {
		return err
	}
	defer h.release()
	d := image.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: h.size}
	if _, err := (&beside{sink, l}).Push(ctx, d, h.content); err != nil {
		l.rejected(at, err)
		return fmt.Errorf("push %s@%s: %w", l.site.Repository, dgst, err)
	}
	l.letGo(f, at, h.version)
	l.tidy()
	return nil
}
