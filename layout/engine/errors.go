package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"unicode"

	"github.com/regfs/regfs/image"
)

// How much of an engine's answer is read, in bytes, and told, in characters, when it is an error.
const (
	maxErrorBody  = 64 << 10
	maxErrorWords = 400
)

// failed wraps an error with the operation and its object, once.
func (e *Engine) failed(op, object string, err error) error {
	if object != "" {
		op += " " + object
	}
	return fmt.Errorf("%s in the Docker engine at %s: %w", op, e.client.at, err)
}

// failure is what went wrong in the words of the engine or of the system, and what of package image that is.
type failure struct {
	words string
	kinds []error
}

func (f *failure) Error() string   { return f.words }
func (f *failure) Unwrap() []error { return f.kinds }

func failuref(kind error, format string, args ...any) error {
	return &failure{fmt.Sprintf(format, args...), []error{kind}}
}

// errSilent ends what moved no byte for too long. It is not the end of the caller's context.
var errSilent = &failure{"no answer in time", []error{context.DeadlineExceeded, image.ErrUnavailable}}

// unreachable says what an error of the network means, and what to do.
func unreachable(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var dns *net.DNSError
	var dial *net.OpError
	dialing := errors.As(err, &dial) && dial.Op == "dial"
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return &failure{clean(err.Error()), []error{image.ErrNotFound, image.ErrUnavailable}}
	case dialing && errors.Is(err, fs.ErrPermission):
		return failuref(image.ErrDenied, "permission denied: the engine's socket is for root and the group docker: be one of these "+
			"(usermod -aG docker USER), or choose another engine with DOCKER_HOST or a daemon-host flag")
	case dialing && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		return failuref(image.ErrUnavailable, "nobody listens there (%v): is the engine running? DOCKER_HOST or a daemon-host flag chooses another one",
			dial.Err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return failuref(image.ErrUnavailable, "it hung up before it had answered")
	}
	return failuref(image.ErrUnavailable, "%s", clean(err.Error()))
}

// statusError is an answer that is no success.
type statusError struct {
	status int
	words  string
	write  bool // it is the answer to a request that was to change something
}

func (e *statusError) Error() string { return fmt.Sprintf("%s (%d)", e.words, e.status) }

// newStatusError reads what an unsuccessful answer says.
func newStatusError(method string, status int, body io.Reader) *statusError {
	raw, _ := io.ReadAll(io.LimitReader(body, maxErrorBody)) // what came before it broke may tell something
	var said struct {
		Message string `json:"message"`
	}
	words := string(raw)
	if json.Unmarshal(raw, &said) == nil {
		words = said.Message
	}
	if words = clean(words); words == "" {
		words = strings.ToLower(http.StatusText(status))
	}
	e := &statusError{status, words, method != http.MethodGet}
	if e.wantsTLS() {
		e.words += " Write https://host:port, with the certificates' folder in DOCKER_CERT_PATH."
	}
	return e
}

// wantsTLS tells whether it was asked without, and does not answer so.
func (e *statusError) wantsTLS() bool {
	return e.status == http.StatusBadRequest && strings.Contains(e.words, "HTTPS server")
}

// Unwrap is what a status means to those who only know images.
func (e *statusError) Unwrap() error {
	switch {
	case e.status == http.StatusNotFound:
		return image.ErrNotFound
	case e.status == http.StatusUnauthorized, e.status == http.StatusForbidden:
		return image.ErrDenied
	case e.status == http.StatusMethodNotAllowed, e.status == http.StatusNotImplemented:
		return image.ErrUnsupported
	case e.status == http.StatusRequestEntityTooLarge:
		return image.ErrTooLarge
	case noRoom(e.words):
		return image.ErrQuota
	case e.status/100 != 4, e.wantsTLS(), e.outdated():
		return image.ErrUnavailable
	case e.write:
		return image.ErrRefused
	}
	return image.ErrInvalid
}

// outdated tells whether it was asked in a version that the engine does not speak any more, or not yet.
func (e *statusError) outdated() bool {
	return e.status == http.StatusBadRequest && strings.Contains(e.words, "client version")
}

// noRoom tells whether the engine's disk is full, which it says in words only.
func noRoom(words string) bool {
	return strings.Contains(words, "no space left on device") || strings.Contains(words, "disk quota exceeded")
}

// clean makes foreign words fit for one line of a log.
func clean(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), 8*maxErrorWords)], "?")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > maxErrorWords {
		s = string(r[:maxErrorWords]) + "…"
	}
	return s
}
