package image

import (
	"errors"
	"fmt"
)

// What can be wrong with an image or the place it lives in. Places translate their own errors into these once, at
// their edge, and wrap them with the operation and the object, in the place's own words: test with errors.Is.
var (
	// ErrNotFound: the place answered, and has no such repository, tag, manifest or blob.
	ErrNotFound = errors.New("not found")
	// ErrDenied: the place wants other credentials than it was shown, or forbids it.
	ErrDenied = errors.New("denied")
	// ErrUnsupported: the place can't do this at all, whoever asks.
	ErrUnsupported = errors.New("not supported")
	// ErrDigest: the content is not what its digest or size says.
	ErrDigest = errors.New("content does not match its digest")
	// ErrInvalid: the content is what its digest says and still no sound manifest, index or config.
	ErrInvalid = errors.New("invalid content")
	// ErrUntrusted: a policy refuses the image.
	ErrUntrusted = errors.New("not trusted")
	// ErrRefused: the place looked at what it was sent and refuses it: a media type, a manifest, a name it does not take.
	ErrRefused = errors.New("refused")
	// ErrTooLarge: the place takes nothing that large.
	ErrTooLarge = errors.New("too large")
	// ErrQuota: the place has no room left for this user.
	ErrQuota = errors.New("quota exceeded")
	// ErrUnavailable: the place could not be asked, or gave no verdict: no network, no such host, a server's failure.
	// What is known of it from before may be used instead.
	ErrUnavailable = errors.New("unavailable")
)

// FormError is the error of a layer that its place has only in another form: a containers-storage keeps layers unpacked. To who
// does not look for it, the layer is not there (ErrNotFound).
type FormError struct {
	// Want was asked for; Have is the same layer as it can be had from the same place, most often uncompressed.
	Want, Have Descriptor
}

// Error says what there is.
func (e *FormError) Error() string {
	return fmt.Sprintf("%s is here only as %s, %s", e.Want.Digest, e.Have.MediaType, e.Have.Digest)
}

// Is makes it an ErrNotFound.
func (e *FormError) Is(target error) bool { return target == ErrNotFound }
