package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/regfs/regfs/image"
)

// packing is how many times as long an engine may be silent that packs or unpacks an image.
const packing = 10

// The version of the API, 1.x, that is spoken unless the engine speaks only older or only newer ones, and the oldest there can be:
// what is asked for here has not changed since.
const (
	minorVersion = 44
	oldestMinor  = 24
)

// modernMinor is the version of engines that take image layouts, and layers that zstd compressed: Docker 25.
const modernMinor = 44

// request is one call of the API.
type request struct {
	method, path string // path is what follows the version
	query        url.Values
	body         io.ReadCloser
	long         bool // the engine packs or unpacks an image before it says a word
}

// do sends a request and returns the body of its answer, if that is a success. Every wait for the engine ends in time.
func (c *client) do(ctx context.Context, r request) (io.ReadCloser, error) {
	version, err := c.negotiated(ctx)
	if err != nil {
		if r.body != nil {
			r.body.Close()
		}
		return nil, err
	}
	r.path = "/v" + version + r.path
	body, err := c.send(ctx, r)
	var status *statusError
	if err != nil && ctx.Err() == nil && (!errors.As(err, &status) || status.outdated()) {
		c.learned("") // another engine may listen there the next time
	}
	return body, err
}

func (c *client) learned(version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = version
}

// negotiated is the version of the API that both sides speak.
func (c *client) negotiated(ctx context.Context) (string, error) {
	c.mu.Lock()
	version := c.version
	c.mu.Unlock()
	if version != "" {
		return version, nil
	}
	var said struct{ APIVersion, MinAPIVersion string }
	body, err := c.send(ctx, request{method: http.MethodGet, path: "/version"})
	if err == nil {
		err = decode(body, maxEntry, &said)
	}
	if err == nil {
		version, err = choose(said.APIVersion, said.MinAPIVersion)
	}
	if err == nil {
		c.learned(version)
	}
	return version, err
}

// modern tells whether the engine takes image layouts.
func (c *client) modern(ctx context.Context) (bool, error) {
	version, err := c.negotiated(ctx)
	n, _ := minor(version)
	return n >= modernMinor, err
}

// choose takes a version that an engine speaks.
func choose(newest, oldest string) (string, error) {
	theirs, ok := minor(newest)
	if !ok {
		return "", failuref(image.ErrUnavailable, "what answers there is no Docker engine: it speaks version %q of the API", clean(newest))
	}
	if theirs < oldestMinor {
		return "", failuref(image.ErrUnsupported, "the engine is too old: it speaks version %s of the API, and 1.%d is wanted", newest, oldestMinor)
	}
	least, _ := minor(oldest) // older engines do not say
	return "1." + strconv.Itoa(max(min(theirs, minorVersion), least)), nil
}

func minor(version string) (int, bool) {
	text, ok := strings.CutPrefix(version, "1.")
	n, err := strconv.ParseUint(text, 10, 16)
	return int(n), ok && err == nil
}

// send sends a request as it is.
func (c *client) send(ctx context.Context, r request) (io.ReadCloser, error) {
	w := newWatch(ctx, c.timeout, r.long)
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(w.ctx, r.method, target, nil)
	if err != nil {
		w.end()
		return nil, fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	if r.body != nil {
		req.Body = &upload{r.body, w}
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		defer w.end()
		return nil, w.verdict(err)
	}
	w.timer.Stop()
	body := &answer{resp.Body, w}
	if resp.StatusCode/100 == 2 {
		return body, nil
	}
	defer body.Close()
	return nil, newStatusError(r.method, resp.StatusCode, body)
}

// call sends a request of whose answer only the success counts.
func (c *client) call(ctx context.Context, method, path string, query url.Values) error {
	body, err := c.do(ctx, request{method: method, path: path, query: query})
	if err != nil {
		return err
	}
	return body.Close()
}

// watch ends a request when the engine moves no byte for too long.
type watch struct {
	caller  context.Context
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	silence time.Duration // that is too long
	working time.Duration // the same while the engine has all, and works
}

func newWatch(ctx context.Context, silence time.Duration, long bool) *watch {
	w := &watch{caller: ctx, silence: silence, working: silence}
	if long {
		w.working = packing * silence
	}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(w.working, func() { w.cancel(errSilent) })
	return w
}

func (w *watch) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// verdict says why a request or its answer broke.
func (w *watch) verdict(err error) error {
	var f *failure
	switch {
	case w.caller.Err() != nil:
		return w.caller.Err()
	case context.Cause(w.ctx) == errSilent:
		return errSilent
	case errors.As(err, &f):
		return f
	case errors.Is(err, errOurs):
		return plain(err)
	}
	return unreachable(err)
}

// errOurs is what reading from here failed with, not the engine.
var errOurs = errors.New("the upload broke")

// plain takes off what net/http wraps around an error.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// upload is the body of a request. The engine is not to blame while it is read.
type upload struct {
	io.ReadCloser
	*watch
}

func (u *upload) Read(p []byte) (int, error) {
	u.timer.Stop()
	n, err := u.ReadCloser.Read(p)
	if err == io.EOF {
		u.timer.Reset(u.working)
		return n, err
	}
	u.timer.Reset(u.silence)
	if err != nil {
		err = fmt.Errorf("%w: %w", errOurs, err)
	}
	return n, err
}

// answer is the body of an answer. The engine is not to blame while nobody reads it.
type answer struct {
	io.ReadCloser
	*watch
}

func (a *answer) Read(p []byte) (int, error) {
	a.timer.Reset(a.working)
	defer a.timer.Stop()
	n, err := a.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = a.verdict(err)
	}
	return n, err
}

func (a *answer) Close() error {
	defer a.end()
	return a.ReadCloser.Close()
}

// decode reads an answer that is one document of no more than most bytes, and closes it.
func decode(body io.ReadCloser, most int64, into any) error {
	defer body.Close()
	return garbled(json.NewDecoder(io.LimitReader(body, most)).Decode(into))
}

// garbled says what an answer is that can't be read.
func garbled(err error) error {
	var f *failure
	switch {
	case err == nil, errors.As(err, &f), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return failuref(image.ErrUnavailable, "what answers there is no Docker engine, or its answer was cut short: %s", clean(err.Error()))
}
