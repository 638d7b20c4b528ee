package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
)

// settling says who has the staging looked at.
type settling int

const (
	settleQuietly settling = iota // who wrote another file than index.json
	settleIndex                   // who wrote index.json
	settleAll                     // who wants to know whether all is pushed
)

// absence is how long the repository is believed not to have a blob.
const absence = 10 * time.Second

// Fsync pushes what is whole, and fails if something is not.
func (l *Staging) Fsync(ctx context.Context, v View) error {
	l.mu.Lock()
	clear(l.absent)
	clear(l.noTag)
	l.wants = nil
	l.mu.Unlock()
	return l.settle(ctx, v, settleAll)
}

// errDiscarded ends a push whose staging was thrown away.
var errDiscarded = errors.New("it was thrown away meanwhile")

// settle pushes the image if all of it is here or there, unless it is thrown away meanwhile.
func (l *Staging) settle(ctx context.Context, v View, who settling) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.life, func() { cancel(errDiscarded) })()
	err := l.settleNow(ctx, v, who)
	if err != nil && context.Cause(ctx) == errDiscarded {
		return fmt.Errorf("push %s: %w", l.site, errDiscarded)
	}
	return err
}

// settleNow is settle until the context ends. One does that at a time.
func (l *Staging) settleNow(ctx context.Context, v View, who settling) error {
	select {
	case l.pushing <- struct{}{}:
		defer func() { <-l.pushing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	p, err := l.plan(ctx, v)
	var index *indexError
	switch {
	case err != nil:
		l.failed(err)
		if errors.Is(err, image.ErrRefused) {
			l.stickTo(map[digest.Digest]bool{}) // only another index.json helps
		}
		if errors.As(err, &index) && who == settleQuietly {
			return nil
		}
		return fmt.Errorf("push %s: %w", l.site, err)
	case p == nil:
		return l.unfinished(ctx, v, who)
	}
	defer p.release()
	return l.carryOut(ctx, p, who)
}

// noIndex is why nothing is pushed that has no list of what there is.
const noIndex = "index.json is missing, or lists nothing yet"

// unfinished is what becomes of a staging without an index.json: over a published image, or a repository's own layout, it asks for
// nothing, and what it has of that is there already.
func (l *Staging) unfinished(ctx context.Context, v View, who settling) error {
	l.lacks(nil, noIndex)
	now, err := l.now(ctx, v, l.site.Tag)
	if err != nil {
		return err
	}
	if now.Digest != "" || l.site.Tag == "" {
		return l.alreadyThere(ctx, v, now)
	}
	l.mu.Lock()
	idle := !l.hasBelow(".") || l.report.state == Pushed
	l.mu.Unlock()
	if who != settleAll || idle {
		return nil
	}
	return fmt.Errorf("push %s: %s: %w", l.site, noIndex, image.ErrNotFound)
}

// now is what a tag names for the writer, the zero Descriptor for nothing. That there is nothing is remembered for a while, as the
// absence of blobs is.
func (l *Staging) now(ctx context.Context, v View, tag string) (image.Descriptor, error) {
	l.mu.Lock()
	since := l.noTag[tag]
	l.mu.Unlock()
	if tag == "" || time.Since(since) < absence {
		return image.Descriptor{}, nil
	}
	d, err := v.Now(ctx, tag)
	if !isMissing(err) {
		return d, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noTag[tag] = time.Now()
	return image.Descriptor{}, nil
}

// alreadyThere lets go of what is part of the published image, if there is one, and of a marker that is all there is beside.
func (l *Staging) alreadyThere(ctx context.Context, v View, now image.Descriptor) error {
	p, err := l.newPlan(ctx, v)
	if err != nil {
		return err
	}
	defer p.release()
	if now.Digest != "" {
		p.current = []image.Descriptor{now}
	}
	for _, d := range p.current {
		if err := p.keepNone(ctx, d, 0); err != nil {
			return err
		}
	}
	l.letGoReached(p)
	l.mu.Lock()
	finished := l.onlySettled()
	l.mu.Unlock()
	if finished {
		l.letGoMarker()
		l.pushed(p)
	}
	l.tidy()
	return nil
}

func (l *Staging) carryOut(ctx context.Context, p *plan, who settling) error {
	if len(p.missing) > 0 {
		l.lacks(p.missing, "")
		if who == settleAll {
			return fmt.Errorf("push %s: %w", l.site, p.need())
		}
		return nil
	}
	if len(p.images)+len(p.current)+len(p.extras) == 0 {
		l.lacks(nil, "index.json lists no image for it yet")
		if who == settleAll && p.loose {
			return fmt.Errorf("push %s: index.json lists no image for it yet: %w", l.site, image.ErrNotFound)
		}
		return nil
	}
	if err := l.push(ctx, p); err != nil {
		l.failed(err)
		l.stickTo(p.reached)
		l.mu.Lock()
		clear(l.there) // the registry may have lost what was known to be there
		l.mu.Unlock()
		return fmt.Errorf("push %s: %w", l.site, err)
	}
	l.done(p)
	return nil
}

// stickTo has only those try again who write what the image is made of. Others may be writing another one over it, and want to hear of
// theirs.
func (l *Staging) stickTo(parts map[digest.Digest]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stuck = parts
}

// push copies the images and what refers to them; the tags come last.
func (l *Staging) push(ctx context.Context, p *plan) error {
	if len(p.images)+len(p.extras) == 0 {
		return nil
	}
	l.pushes(p)
	sink, err := l.sink(ctx)
	if err != nil {
		return err
	}
	to := &beside{sink, l}
	for _, d := range p.extras {
		if _, err := copy.Run(ctx, to, p, d, copy.Options{Events: l.told, Parts: copy.Fitting}); err != nil {
			return err
		}
	}
	for _, d := range p.images {
		o := copy.Options{Tags: []string{d.tag}, Events: l.told, Parts: copy.Fitting}
		now, err := copy.Run(ctx, to, p, d.Descriptor, o)
		if err != nil {
			return err
		}
		p.view.Saw(d.tag, now)
	}
	return nil
}

// Manifest implements copy.Origin.
func (p *plan) Manifest(ctx context.Context, d image.Descriptor) ([]byte, error) {
	if h := p.held[d.Digest]; h != nil {
		return h.bytes(ctx)
	}
	_, raw, err := p.src.Manifest(ctx, d.Digest.String())
	return raw, err
}

// Content implements copy.Origin. What is not staged is there, as far as is known.
func (p *plan) Content(_ context.Context, d image.Descriptor) (image.Content, error) {
	if h := p.held[d.Digest]; h != nil {
		return h.content, nil
	}
	if len(d.URLs) > 0 && !p.l.known(d.Digest) {
		return image.Content{}, fmt.Errorf("%s: %w", d.Digest, image.ErrNotFound)
	}
	return image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) {
		return nil, fmt.Errorf("%s is not in the repository any more: write it, too: %w", d.Digest, image.ErrNotFound)
	}}, nil
}

// acted tells whether that very index.json was acted upon: what it says must not be done a second time, when others may have
// moved the tag since.
func (l *Staging) acted(f *File, version uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastIndex == f && l.lastVersion == version
}

func (l *Staging) known(dgst digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.there[thing{dgst, false}]
}

// isThere tells whether the repository has a blob or manifest. Either answer is remembered, or every file that is written would
// cost a request for every one that is not yet.
//
// A manifest is asked for as one: some registries have the blob of that digest, and no manifest.
func (l *Staging) isThere(ctx context.Context, src image.Source, what thing) (bool, error) {
	l.mu.Lock()
	there, since := l.there[what], l.absent[what]
	l.mu.Unlock()
	if there || time.Since(since) < absence {
		return there, nil
	}
	var err error
	if what.isManifest {
		_, err = src.Resolve(ctx, what.digest.String())
	} else {
		_, err = src.Stat(ctx, what.digest)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.there[what] = true
	case isMissing(err):
		l.absent[what] = time.Now()
	default:
		return false, err
	}
	return err == nil, nil
}

// done lets go of what was pushed. What was merely looked at stays, and index.json too if it lists what is not understood.
func (l *Staging) done(p *plan) {
	l.letGoReached(p)
	for _, dgst := range p.lists {
		if h := p.held[dgst]; h != nil && !p.loose {
			l.letGo(h.file, h.at, h.version)
		}
	}
	if !p.loose {
		l.letGo(p.index, v1.ImageIndexFile, p.version)
		l.letGoMarker()
	}
	l.pushed(p)
	l.tidy()
}

func (l *Staging) letGoReached(p *plan) {
	for dgst, h := range p.held {
		if h != nil && p.reached[dgst] {
			l.letGo(h.file, h.at, h.version)
		}
	}
}

// letGoMarker lets go of the file oci-layout, which says the same in every layout.
func (l *Staging) letGoMarker() {
	e, ok := l.Lookup(v1.ImageLayoutFile)
	if !ok || e.File == nil {
		return
	}
	e.File.io.RLock()
	version := e.File.version
	e.File.io.RUnlock()
	l.letGo(e.File, v1.ImageLayoutFile, version)
}

// letGo drops a file that is published now, unless it has changed since; at once, or when it is not open any more.
func (l *Staging) letGo(f *File, at string, version uint64) {
	f.io.RLock()
	defer f.io.RUnlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.names[at]; f.version == version && n != nil && n.file == f {
		f.settled = version
	}
}

// tidy drops what was let go and is not open, and ends the staging if nothing else is in it.
func (l *Staging) tidy() {
	l.mu.Lock()
	var files []*File
	for at, n := range l.names {
		if n.file != nil && n.file.settled != 0 && n.file.handles == 0 && l.drop(at, false) == nil {
			files = append(files, n.file)
		}
	}
	ends := func() {}
	if len(l.names) == 0 || l.report.state == Pushed && l.onlyFolders() {
		ends = l.finish()
	}
	l.mu.Unlock()
	for _, f := range files {
		f.unlinked()
	}
	ends()
}

// onlyFolders tells whether there is nothing but the folders of every layout, and what was hidden of the image before.
func (l *Staging) onlyFolders() bool {
	for at, n := range l.names {
		if n.kind == Regular || n.kind == Folder && !isUsual(at) {
			return false
		}
	}
	return true
}

// onlySettled tells whether every file was let go but the marker of a layout, which says nothing.
func (l *Staging) onlySettled() bool {
	for at, n := range l.names {
		if n.kind == Regular && n.file.settled == 0 && at != v1.ImageLayoutFile {
			return false
		}
	}
	return true
}

// isUsual tells the folders that every layout has.
func isUsual(at string) bool {
	return at == Top || at == "." || at == v1.ImageBlobsDir || isAlgorithm(at)
}

func isAlgorithm(at string) bool {
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		if at == v1.ImageBlobsDir+"/"+alg.String() {
			return true
		}
	}
	return false
}
