package layer

import (
	"context"
	"iter"
)

// leaf is a file of the root filesystem that is no folder.
type leaf struct {
	m *merge
	part
}

func (l *leaf) Stat(ctx context.Context) (Info, error) {
	info, err := l.m.stat(ctx, l.part)
	if err != nil {
		return Info{}, err
	}
	info.Ino = l.number()
	info.Links, err = l.m.count(ctx, l.part, info.Links)
	return info, err
}

func (l *leaf) Xattrs(ctx context.Context) (map[string]string, error) {
	return l.m.xattrs(ctx, l.part)
}

func (l *leaf) Lookup(_ context.Context, name string) (File, error) {
	return nil, notFound(name)
}

func (l *leaf) List(context.Context) iter.Seq2[Entry, error] {
	return func(func(Entry, error) bool) {}
}

func (l *leaf) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	f, err := l.m.open(ctx, l.layer)
	if err != nil {
		return 0, err
	}
	defer f.release()
	return f.readAt(ctx, l.ino, p, off)
}

// xattrs are those that a layer has for its file.
func (m *merge) xattrs(ctx context.Context, p part) (map[string]string, error) {
	f, err := m.open(ctx, p.layer)
	if err != nil {
		return nil, err
	}
	defer f.release()
	return f.xattrs(p.ino)
}
