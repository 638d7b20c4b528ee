package stage

import (
	"context"

	"github.com/regfs/regfs/image"
)

// sink is what all of the staging is pushed to. There is one, since a place may keep the blobs it was sent with who sent them until
// there is an image of them. It is closed when the staging has ended, or its store is closed.
func (l *Staging) sink(ctx context.Context) (image.Sink, error) {
	l.sinkMu.Lock()
	defer l.sinkMu.Unlock()
	if l.opened != nil {
		return l.opened, nil
	}
	if l.sinkOver {
		return nil, ErrGone
	}
	host, err := l.store.o.Host(l.site.Host)
	if err != nil {
		return nil, err
	}
	sink, err := host.Sink(ctx, l.site.Name)
	if err != nil {
		return nil, err
	}
	l.opened = sink
	return sink, nil
}

// closeSink closes the sink for good, when nobody uses it any more.
func (l *Staging) closeSink() error {
	l.sinkMu.Lock()
	defer l.sinkMu.Unlock()
	sink := l.opened
	l.opened, l.sinkOver = nil, true
	if sink == nil {
		return nil
	}
	return sink.Close()
}

// beside is a Sink that knows of the uploads that are under way.
type beside struct {
	image.Sink
	l *Staging
}

func (b *beside) Push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	if !image.IsManifest(d.MediaType) {
		if how, ok, err := b.l.await(ctx, d.Digest); ok || err != nil {
			return how, err
		}
		if b.l.known(d.Digest) {
			return image.Skipped, nil
		}
	}
	how, err := b.Sink.Push(ctx, d, content)
	if err == nil {
		b.l.mu.Lock()
		b.l.there[thingOf(d)] = true
		b.l.mu.Unlock()
	}
	return how, err
}

// Tag goes through to its end once it was begun: nobody could tell what an interrupted one did.
func (b *beside) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.Sink.Tag(context.WithoutCancel(ctx), d, raw, tag)
}
