package stage

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// View is how who writes sees what is published.
type View interface {
	// Now is what a tag names; ErrNotFound for none.
	Now(ctx context.Context, tag string) (image.Descriptor, error)
	// Saw is told what a tag names from now on.
	Saw(tag string, d image.Descriptor)
}

// Handle is an open staged file. It is safe for concurrent use.
type Handle struct {
	*File
	wrote atomic.Bool
}

// Open opens the file. Its content stays until the Handle is closed, whatever becomes of its name. ESTALE for a file that is not
// there any more: it was pushed or removed since it was looked up.
func (f *File) Open() (*Handle, error) {
	f.io.Lock()
	defer f.io.Unlock()
	if f.open == 0 && f.data.removed() {
		return nil, fmt.Errorf("a staged file that has gone: %w", unix.ESTALE)
	}
	if f.open == 0 {
		if _, err := f.data.use(); err != nil {
			return nil, err
		}
	}
	f.open++
	f.l.mu.Lock()
	f.handles++
	f.l.mu.Unlock()
	return &Handle{File: f}, nil
}

// Close closes the handle. A file that was pushed goes away with its last one.
func (h *Handle) Close() error {
	h.io.Lock()
	if h.open--; h.open == 0 {
		h.data.release()
	}
	version := h.version
	h.io.Unlock()
	h.l.mu.Lock()
	h.handles--
	settled := h.handles == 0 && h.settled == version
	h.l.mu.Unlock()
	if settled {
		h.l.tidy()
	}
	return nil
}

// WriteAt changes the content, as pwrite(2) does.
func (h *Handle) WriteAt(ctx context.Context, p []byte, off int64) error {
	h.wrote.Store(true)
	return h.File.WriteAt(ctx, p, off)
}

// Truncate sets the length, as ftruncate(2) does.
func (h *Handle) Truncate(ctx context.Context, size int64) error {
	h.wrote.Store(true)
	return h.File.Truncate(ctx, size)
}

// Refer makes content by reference, as File.Refer does.
func (h *Handle) Refer(from image.Repository, d image.Descriptor, off, n, at int64) (int64, error) {
	h.wrote.Store(true)
	return h.File.Refer(from, d, off, n, at)
}

// Flush judges what was written through the handle, and pushes the image if that was what it lacked. The push's result is
// Flush's. One that wrote nothing has nothing to judge.
func (h *Handle) Flush(ctx context.Context, v View) error {
	if !h.wrote.Load() {
		return nil
	}
	return h.l.judge(ctx, h.File, v, true)
}

// Fsync has the disk keep the content, and pushes the image if it is whole now. Half a file is no error: more may come.
func (h *Handle) Fsync(ctx context.Context, v View) error {
	if err := h.Sync(); err != nil || !h.wrote.Load() {
		return err
	}
	return h.l.judge(ctx, h.File, v, false)
}

// RenameAndPush moves a file or folder as Rename does, and pushes the image if that was what it lacked. A file that can't be
// the blob it is to be called is refused before.
func (l *Staging) RenameAndPush(ctx context.Context, from, to string, hideFrom, exclusive bool, v View) error {
	e, _ := l.Lookup(from)
	if dgst, ok := blobDigest(to); ok && e.File != nil {
		if _, err := e.File.matches(ctx, dgst); err != nil {
			return err
		}
	}
	if err := l.Rename(from, to, hideFrom, exclusive); err != nil {
		return err
	}
	if e.Kind == Folder {
		return l.settle(ctx, v, settleQuietly)
	}
	return l.judge(ctx, e.File, v, true)
}

// judge looks at a file that may be finished. Unless strict, content that does not match its name may still come to.
func (l *Staging) judge(ctx context.Context, f *File, v View, strict bool) error {
	l.mu.Lock()
	at := f.path
	l.mu.Unlock()
	dgst, isBlob := blobDigest(at)
	switch {
	case at == v1.ImageIndexFile:
		return l.settle(ctx, v, settleIndex)
	case at == v1.ImageLayoutFile && l.completes(""):
		return l.settle(ctx, v, settleQuietly)
	case verbs[at] != nil:
		return l.verb(ctx, at, f, v)
	case !isBlob:
		return nil
	}
	whole, err := f.matches(ctx, dgst)
	if err != nil && strict {
		l.rejected(at, err)
		return err
	}
	if err != nil || !whole {
		return nil
	}
	l.accepted(at)
	if l.site.Tag == Blobs {
		return l.put(ctx, dgst, f)
	}
	l.begin(dgst, f, false)
	if !l.completes(dgst) {
		return nil
	}
	return l.settle(ctx, v, settleQuietly)
}

// completes tells whether a blob that is whole now may be what the image lacked. The marker of a layout, "", is no part of one.
func (l *Staging) completes(dgst digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.stuck != nil:
		return l.stuck[dgst]
	case l.wants == nil || dgst == "":
		return true
	}
	isManifest, wanted := l.wants[dgst]
	delete(l.wants, dgst)
	return wanted && (isManifest || len(l.wants) == 0)
}

// matches tells whether the file is the blob of that digest. An empty file is not that yet; another one is an error.
func (f *File) matches(ctx context.Context, want digest.Digest) (bool, error) {
	got, version, err := f.digest(ctx, want.Algorithm())
	if err != nil {
		return false, err
	}
	f.io.Lock()
	defer f.io.Unlock()
	switch {
	case got == want && f.version == version:
		f.judged = version
		close(f.grown)
		f.grown = make(chan struct{})
		return true, nil
	case f.size == 0 || f.version != version:
		return false, nil
	}
	return false, bad("the content of %d bytes has the digest %s and not %s, as its name says", f.size, got, want)
}

// held is a file as it was when it was looked at: nothing that is written later changes it.
type held struct {
	file    *File
	at      string
	version uint64
	size    int64
	content image.Content
	release func()
}

// hold takes the file as it is, if it is the blob of that digest; else nil.
func (f *File) hold(ctx context.Context, at string, want digest.Digest) (*held, error) {
	got, version, err := f.digest(ctx, want.Algorithm())
	if err != nil || got != want {
		return nil, err
	}
	f.io.RLock()
	defer f.io.RUnlock()
	if f.version != version {
		return nil, nil
	}
	content, release, err := f.contentLocked(ctx)
	if err != nil {
		return nil, err
	}
	return &held{f, at, version, f.size, content, release}, nil
}

// bytes reads all of what is held, if it is no longer than a manifest may be.
func (h *held) bytes(ctx context.Context) ([]byte, error) {
	if h.size > image.MaxManifest {
		return nil, bad("%s is a manifest of %d bytes, more than %d", h.at, h.size, image.MaxManifest)
	}
	r, err := h.content.Open(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, h.size+1))
	if err == nil && int64(len(raw)) != h.size {
		err = fmt.Errorf("%s: %d bytes instead of %d: %w", h.at, len(raw), h.size, io.ErrUnexpectedEOF)
	}
	return raw, err
}

// isManifest tells whether what is held is a manifest or an index by all appearances.
func (h *held) isManifest(ctx context.Context) bool {
	if h.size > image.MaxManifest {
		return false
	}
	if c := h.file.refType(); c != "" {
		return image.IsManifest(c)
	}
	raw, err := h.bytes(ctx)
	if err != nil {
		return false
	}
	_, err = image.ParseManifest("", raw)
	return err == nil
}
