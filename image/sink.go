package image

import (
	"context"
	"io"
	"strings"
)

// Sink writes one repository. It is safe for concurrent use.
//
// Every method ends: with the context, or when the place did not move a byte for as long as it was told to wait. What fails
// has left every tag as it was, unless the place took a request and its answer was lost for good.
type Sink interface {
	// Expect tells the place what is coming: the manifest or index raw, which d describes, before anything of it is pushed. A place
	// that can't hold such an image, or not with such parts, is ErrUnsupported, which says what it can't hold. It changes nothing
	// that others see. Places that keep layers in order store them as they come if they were told, and all in the end if not.
	Expect(ctx context.Context, d Descriptor, raw []byte) error
	// Push stores d, blob or manifest, unless it is there, and says how it got there. A manifest's children must be there
	// before; it gets no tag. A Size of -1 is for content that is still being made: its reader ends in io.EOF only when it
	// is whole. ErrDigest when the content does not match d; nothing is stored then.
	Push(ctx context.Context, d Descriptor, content Content) (How, error)
	// Tag stores the manifest raw, which d describes, under a tag, in one step, and moves the tag if there is one of that
	// name. Its children must be there before. With a subject in it, it can be found as a referrer from then on.
	Tag(ctx context.Context, d Descriptor, raw []byte, tag string) error
	// Delete removes one tag and nothing else, or, with a digest, a manifest and all tags of it. ErrNotFound when there is
	// no such thing, ErrUnsupported, before anything changed, where the place can't.
	Delete(ctx context.Context, ref string) error
	io.Closer
}

// How tells how content got to where it is.
type How string

// The ways there are.
const (
	Skipped  How = "skipped"  // it was there before
	Mounted  How = "mounted"  // the place had it in another repository
	Streamed How = "streamed" // it came from another place, through nobody's disk
	Uploaded How = "uploaded" // it was sent
)

// Content is what a Sink may push.
type Content struct {
	// Open reads the content from off on, to its end. It may be called again, to resume or repeat what failed.
	Open func(ctx context.Context, off int64) (io.ReadCloser, error)
	// Origins are repositories known to have the content, for places that can take it from there by themselves.
	Origins []Repository
	// Remote tells that the content comes from another place: it is Streamed then.
	Remote bool
	// Verified tells that the reader vouches for the content: it ends in io.EOF only if it is what its descriptor says. A place
	// that checks what it is sent by itself, as registries do, need not have it hashed once more on the way.
	Verified bool
	// Sent, if not nil, is told how many bytes of the content the place has by now. After a fault that can be less than before.
	Sent func(n int64)
}

// Repository names a repository and the host it is on, as users write them: "quay.io", "podman/stable". It is a key.
type Repository struct{ Host, Name string }

// String is the name as users write it.
func (r Repository) String() string { return strings.Trim(r.Host+"/"+r.Name, "/") }
