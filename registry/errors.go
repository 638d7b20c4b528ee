package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	"github.com/regfs/regfs/image"
)

// How much of a registry's answer is read, in bytes, and told, in characters, when it is an error.
const (
	maxErrorBody  = 64 << 10
	maxErrorWords = 300
)

// failure is an error of this package at its edge: what was tried, what the other side said, and what that means.
type failure struct {
	what  string // operation and object
	words string
	kinds []error // what errors.Is finds
}

func (f *failure) Error() string {
	if f.what == "" {
		return f.words
	}
	return f.what + ": " + f.words
}

func (f *failure) Unwrap() []error { return f.kinds }

// statusError is an answer that is no success.
type statusError struct {
	status     int
	codes      []transport.ErrorCode
	words      string
	retryAfter time.Duration
	// foreign: another host said it, one the registry had redirected to.
	foreign bool
	// api: a registry said it, and not something in front of one.
	api bool
	// believed: what HEAD was answered with needs no GET to be sure of.
	believed bool
	// write: it is the answer to a request that was to change something.
	write bool
}

func (e *statusError) Error() string { return fmt.Sprintf("%s (%d)", e.words, e.status) }

// newStatusError reads what an unsuccessful answer says, and closes it.
func newStatusError(resp *http.Response, foreign bool) *statusError {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	e := &statusError{status: resp.StatusCode, foreign: foreign, retryAfter: retryAfter(resp.Header, time.Now())}
	e.write = resp.Request.Method != http.MethodGet && resp.Request.Method != http.MethodHead
	var said transport.Error
	_ = json.Unmarshal(body, &said) // what is no JSON has no diagnostics
	words := make([]string, 0, len(said.Errors))
	for _, d := range said.Errors {
		e.codes = append(e.codes, d.Code)
		words = append(words, strings.TrimSuffix(strings.ToLower(string(d.Code))+": "+d.Message, ": ")+missing(d))
	}
	e.words = clean(strings.Join(words, "; "))
	if e.words == "" {
		e.words = strings.ToLower(http.StatusText(resp.StatusCode))
	}
	contentType := resp.Header.Get("Content-Type")
	e.api = resp.Header.Get("Docker-Distribution-Api-Version") != "" || strings.HasPrefix(contentType, "application/json")
	return e
}

// kind is what a status means to those who only know images.
func (e *statusError) kind() error {
	if e.write {
		return e.writeKind()
	}
	for _, code := range e.codes {
		switch code {
		case transport.NameUnknownErrorCode, transport.ManifestUnknownErrorCode, transport.BlobUnknownErrorCode,
			transport.NameInvalidErrorCode, transport.TagInvalidErrorCode:
			return image.ErrNotFound
		case transport.UnsupportedErrorCode:
			return image.ErrUnsupported
		}
	}
	switch {
	case e.status == http.StatusNotFound, e.status == http.StatusGone:
		return image.ErrNotFound
	case e.status == http.StatusUnauthorized, e.status == http.StatusForbidden:
		return image.ErrDenied
	case e.status == http.StatusMethodNotAllowed, e.status == http.StatusNotImplemented:
		return image.ErrUnsupported
	case e.status >= 500, e.status == http.StatusTooManyRequests, e.status == http.StatusRequestTimeout:
		return image.ErrUnavailable
	}
	return nil
}

// missing is the digest of what a manifest names and the registry does not have.
func missing(d transport.Diagnostic) string {
	if d.Code != transport.ManifestBlobUnknownErrorCode {
		return ""
	}
	found := digest.DigestRegexp.FindString(fmt.Sprint(d.Detail))
	if found == "" || strings.Contains(d.Message, found) {
		return ""
	}
	return ": " + found
}

// writeKinds are what the codes of a registry that was to store something mean.
var writeKinds = map[transport.ErrorCode]error{
	transport.NameUnknownErrorCode: image.ErrNotFound, transport.ManifestUnknownErrorCode: image.ErrNotFound,
	transport.BlobUnknownErrorCode: image.ErrNotFound, transport.ManifestBlobUnknownErrorCode: image.ErrNotFound,
	transport.DigestInvalidErrorCode: image.ErrDigest, transport.SizeInvalidErrorCode: image.ErrDigest,
	transport.UnsupportedErrorCode: image.ErrUnsupported,
	// Sessions that end are begun anew: one that never lasts is a refusal.
	transport.BlobUploadUnknownErrorCode: image.ErrRefused, transport.BlobUploadInvalidErrorCode: image.ErrRefused,
}

// writeKind is what a status means to those who wanted to write.
func (e *statusError) writeKind() error {
	switch {
	case e.status == http.StatusInsufficientStorage, e.status/100 == 4 && e.quota():
		return image.ErrQuota
	case e.status == http.StatusRequestEntityTooLarge:
		return image.ErrTooLarge
	case e.status == http.StatusTooManyRequests, e.status == http.StatusRequestTimeout:
		return image.ErrUnavailable
	}
	for _, code := range e.codes {
		if kind := writeKinds[code]; kind != nil {
			return kind
		}
	}
	switch {
	case e.status == http.StatusUnauthorized, e.status == http.StatusForbidden:
		return image.ErrDenied
	case e.status == http.StatusNotFound, e.status == http.StatusGone:
		return image.ErrNotFound
	case e.status == http.StatusMethodNotAllowed, e.status == http.StatusNotImplemented:
		return image.ErrUnsupported
	case e.status/100 == 4:
		return image.ErrRefused
	}
	return image.ErrUnavailable
}

// quota tells whether there is no room: registries have no code for it, and say so in words.
func (e *statusError) quota() bool {
	return e.status != http.StatusTooManyRequests && strings.Contains(strings.ToLower(e.words), "quota")
}

// has tells whether the answer has one of these codes.
func (e *statusError) has(codes ...transport.ErrorCode) bool {
	return slices.ContainsFunc(codes, func(c transport.ErrorCode) bool { return slices.Contains(e.codes, c) })
}

// statusOf is the HTTP status an error tells of, or 0.
func statusOf(err error) int {
	var e *statusError
	if errors.As(err, &e) {
		return e.status
	}
	return 0
}

// errStalled ends what moved no byte for too long. It is not the end of the caller's context.
var errStalled = &failure{words: "no answer in time", kinds: []error{context.DeadlineExceeded, image.ErrUnavailable}}

// errRefused is a redirect or a scheme this package does not follow: asking again won't help.
var errRefused = errors.New("refused")

// fail makes an error of this package, once, of whatever went wrong. ctx is the caller's: its end goes first.
func fail(ctx context.Context, what string, err error) error {
	var done *failure
	if errors.As(err, &done) && done.what != "" {
		return done
	}
	if ctx.Err() != nil {
		return &failure{what: what, words: ctx.Err().Error(), kinds: []error{ctx.Err()}}
	}
	f := &failure{what: what, words: clean(err.Error())}
	for _, kind := range sentinels {
		if errors.Is(err, kind) {
			f.kinds = append(f.kinds, kind)
		}
	}
	var status *statusError
	var dns *net.DNSError
	var own *contentError
	switch {
	case errors.As(err, &own):
		f.kinds = []error{own.error}
	case len(f.kinds) > 0:
	case errors.As(err, &status):
		f.kinds = append(f.kinds, status)
		if kind := status.kind(); kind != nil {
			f.kinds = append(f.kinds, kind)
		}
	case errors.As(err, &dns) && dns.IsNotFound:
		f.kinds = []error{image.ErrNotFound, image.ErrUnavailable}
	default:
		f.kinds = []error{image.ErrUnavailable}
	}
	return f
}

var sentinels = []error{
	image.ErrNotFound, image.ErrDenied, image.ErrUnsupported, image.ErrDigest, image.ErrInvalid, image.ErrUnavailable,
	image.ErrRefused, image.ErrTooLarge, image.ErrQuota, context.DeadlineExceeded,
}

// plain takes off what net/http wraps around an error: the URL, whose query may carry a signature.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

var (
	urlQuery    = regexp.MustCompile(`(://[^\s"'?]*)\?[^\s"']*`)
	urlUserinfo = regexp.MustCompile(`://[^\s"'/@]*@`)
)

// clean makes foreign words fit for one line of a log: no control characters, no secrets that URLs carry, not too long.
func clean(s string) string {
	if len(s) > 16*maxErrorWords {
		s = s[:16*maxErrorWords]
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = urlUserinfo.ReplaceAllString(urlQuery.ReplaceAllString(s, "$1"), "://")
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > maxErrorWords {
		s = string(r[:maxErrorWords]) + "…"
	}
	return s
}
