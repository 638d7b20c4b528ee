package fs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// made is a file whose content comes from a function: JSON that regfs writes, a digest, a status.
type made struct {
	file
	ino     uint64
	steady  bool // the content never changes
	content func(ctx context.Context) ([]byte, error)
}

func (m *made) Attr(ctx context.Context) (Attr, error) {
	b, err := m.content(ctx)
	if err != nil {
		return Attr{}, err
	}
	return Attr{Ino: m.ino, Mode: fileMode, Size: int64(len(b)), Fixed: m.steady, Made: !m.steady}, nil
}

func (m *made) Open(ctx context.Context) (image.Blob, error) {
	b, err := m.content(ctx)
	if err != nil {
		return nil, err
	}
	if m.steady {
		return memory(b), nil
	}
	return &live{content: m.content, seen: b}, nil
}

// text is a fixed file of a few bytes.
func (t *Tree) text(key, content string) *made {
	return &made{ino: t.ino(key), steady: true, content: func(context.Context) ([]byte, error) { return []byte(content), nil }}
}

// memory is content that is all there.
type memory []byte

func (m memory) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m memory) Ready(context.Context, int64, int) (*os.File, error) { return nil, nil }

func (m memory) Size() int64    { return int64(len(m)) }
func (m memory) File() *os.File { return nil }
func (m memory) Close() error   { return nil }

// live is content as it was when it was opened. Where it has only grown since, a read at its end goes on, as tail -f wants.
type live struct {
	content func(ctx context.Context) ([]byte, error)
	mu      sync.Mutex
	seen    memory
}

func (l *live) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if off > 0 && off == l.seen.Size() {
		b, err := l.content(ctx)
		if err != nil {
			return 0, err
		}
		if bytes.HasPrefix(b, l.seen) {
			l.seen = b
		}
	}
	return l.seen.ReadAt(ctx, p, off)
}

func (l *live) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen.Size()
}

func (l *live) Ready(context.Context, int64, int) (*os.File, error) { return nil, nil }
func (l *live) File() *os.File                                      { return nil }
func (l *live) Close() error                                        { return nil }

// content is a file that shows a blob or a manifest of a repository, byte for byte.
type content struct {
	file
	repo *repository
	d    image.Descriptor
	ino  uint64
}

func (c *content) Attr(context.Context) (Attr, error) {
	return Attr{Ino: c.ino, Mode: fileMode, Size: c.d.Size, Links: sharedLinks, Fixed: true}, nil
}

// sharedLinks is the link count of what shows under several names, whatever the number, so that du and tar take it once.
const sharedLinks = 2

// Open counts as use of the repository by the process: a version it looks at stays while it reads.
func (c *content) Open(ctx context.Context) (image.Blob, error) {
	b, err := c.repo.tree.o.Blobs.Open(ctx, c.repo.src, c.d)
	if err != nil {
		return nil, err
	}
	return &held{b, c.repo.tree.pins.hold(callerOf(ctx), c.repo.path)}, nil
}

// Origin implements Node.
func (c *content) Origin() (image.Repository, image.Descriptor, bool) { return c.repo.at, c.d, true }

func (c *content) XattrNames(context.Context) ([]string, error) { return xattrNames(c.d), nil }

func (c *content) Xattr(_ context.Context, name string) (string, error) { return xattr(c.d, name) }

// held is a Blob whose closing is told.
type held struct {
	image.Blob
	release func()
}

func (h *held) Close() error {
	h.release()
	return h.Blob.Close()
}

// The extended attributes of all that has a descriptor.
const (
	xattrOwn        = "user.oci."
	xattrDigest     = xattrOwn + "digest"
	xattrMediaType  = xattrOwn + "mediatype"
	xattrAnnotation = xattrOwn + "annotation."
)

// Linux takes no longer names and values.
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

func xattrNames(d image.Descriptor) []string {
	all := []string{xattrDigest, xattrMediaType}
	for key, value := range d.Annotations {
		if name := xattrAnnotation + key; key != "" && len(name) <= maxXattrName && len(value) <= maxXattrValue && !strings.Contains(key, "\x00") {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// showable are the annotations that extended attributes can show, in all no more than one listing of them: whoever made the
// manifest decides how many there are, and they stay in memory for as long as the kernel knows the file.
func showable(annotations map[string]string) map[string]string {
	room := maxXattrValue
	shown := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if room -= len(key) + len(annotations[key]); room < 0 {
			break
		}
		shown[key] = annotations[key]
	}
	return shown
}

func xattr(d image.Descriptor, name string) (string, error) {
	key, annotation := strings.CutPrefix(name, xattrAnnotation)
	value, ok := d.Annotations[key]
	switch {
	case name == xattrDigest:
		return d.Digest.String(), nil
	case name == xattrMediaType:
		return d.MediaType, nil
	case annotation && ok:
		return value, nil
	}
	return "", fmt.Errorf("extended attribute %s: %w", name, image.ErrNotFound)
}

// titled are the names of an artifact's blobs: by their title annotation, or as Helm names a chart's parts, which have none.
// A title is a relative slash path; what would lead out of the folder is not shown.
func titled(m *image.Manifest) map[string]image.Descriptor {
	files := map[string]image.Descriptor{}
	for _, d := range m.Layers {
		name := d.Annotations[v1.AnnotationTitle]
		if name == "" {
			name = helmName(m, d.MediaType)
		}
		if _, taken := files[name]; !taken && isLocal(name) {
			files[name] = d
		}
	}
	return files
}

func helmName(m *image.Manifest, mediaType string) string {
	chart, version := m.Annotations[v1.AnnotationTitle], m.Annotations[v1.AnnotationVersion]
	if chart == "" || version == "" {
		return ""
	}
	switch mediaType {
	case "application/vnd.cncf.helm.chart.content.v1.tar+gzip":
		return chart + "-" + version + ".tgz"
	case "application/vnd.cncf.helm.chart.provenance.v1.prov":
		return chart + "-" + version + ".tgz.prov"
	}
	return ""
}

// isLocal tells whether every component of a slash path is a name that a folder can show.
func isLocal(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 255 || strings.Contains(part, "\x00") {
			return false
		}
	}
	return true
}
