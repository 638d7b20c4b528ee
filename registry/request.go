package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// target is where a repository, or the catalog, really is: what the configuration made of the name the user gave.
type target struct {
	*endpoint
	account string // what credentials are looked up by
	scope   string
	path    string // below the host: /v2/foo/bar/, or /v2/
	ns      string // what the endpoint is to be told it stands for, if anything
	primary bool   // the registry itself, not a mirror
	extra   bool   // a mirror for tags only, asked for a digest when all others don't have it
}

// request is one request to any target.
type request struct {
	method string
	path   string // below the target's
	query  url.Values
	accept string
	span   string // the value of Range, or ""

	at     *url.URL    // where an answer said it goes, in place of path and query
	header http.Header // more of them
	length int64       // of the body
	body   func(w *watch) (io.ReadCloser, error)
	watch  *watch // what looks after the sending
}

// withBytes gives a request a body that is short and at hand.
func (r request) withBytes(raw []byte) request {
	r.length = int64(len(raw))
	r.body = func(*watch) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
	return r
}

func (r request) build(ctx context.Context, t target, scheme string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, r.url(t, scheme), nil)
	if err != nil {
		return nil, err
	}
	for key, values := range r.header {
		req.Header[key] = values
	}
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	if r.span != "" {
		req.Header.Set("Range", r.span)
	}
	return req, r.fill(req)
}

func (r request) url(t target, scheme string) string {
	if r.at != nil {
		u := *r.at
		if t.owns(r.at) {
			u.Scheme = scheme
		}
		return u.String()
	}
	query := url.Values{}
	for key, values := range r.query {
		query[key] = values
	}
	if t.ns != "" {
		query.Set("ns", t.ns)
	}
	u := url.URL{Scheme: scheme, Host: t.address(), Path: t.path + r.path, RawQuery: query.Encode()}
	return u.String()
}

// fill gives a request its body, and the means to be sent again.
func (r request) fill(req *http.Request) (err error) {
	if r.body == nil || r.length == 0 {
		return nil
	}
	req.ContentLength = r.length
	req.GetBody = func() (io.ReadCloser, error) { return r.body(r.watch) }
	req.Body, err = req.GetBody()
	return err
}

// owns tells whether a URL leads to the endpoint itself, so that credentials may go there.
func (t target) owns(u *url.URL) bool { return u.Host == t.address() }

// send sends a request once, entering with what the target asks for. An answer that is no success is a *statusError. What moves
// no byte until the deadline ends in errStalled; the body, which must be closed, has the client's timeout from then on.
func (t target) send(ctx context.Context, r request, deadline time.Time) (*http.Response, error) {
	w := newWatch(ctx, deadline)
	r.watch = w
	resp, err := t.exchange(w.ctx, r)
	if err != nil {
		if err = w.end(err); errors.Is(err, errStalled) {
			t.reset()
		}
		return nil, err
	}
	w.pause()
	resp.Body = &watchedBody{ReadCloser: resp.Body, watch: w, patience: t.client.options.Timeout / 2}
	return resp, nil
}

// exchange sends a request, and once more if the first answer asks for other credentials.
func (t target) exchange(ctx context.Context, r request) (*http.Response, error) {
	start := time.Now()
	conn, err := t.connect(ctx)
	if err != nil {
		return nil, err
	}
	if r.at != nil && !t.owns(r.at) {
		return t.judge(t.roundTrip(ctx, conn, r, &entry{}))
	}
	session := t.session(sessionKey{t.account, t.scope})
	entry, err := session.enter(ctx, conn)
	if err != nil {
		return nil, err
	}
	resp, err := t.roundTrip(ctx, conn, r, entry)
	if err != nil || !t.denies(resp) {
		return t.judge(resp, err)
	}
	if !session.refused(conn, entry, challengeOf(ctx, conn, resp), start) {
		return t.judge(resp, nil)
	}
	again, err := session.enter(ctx, conn)
	if err != nil || again.header == entry.header {
		session.refused(conn, again, nil, start)
		return t.judge(resp, err)
	}
	drain(resp)
	resp, err = t.roundTrip(ctx, conn, r, again)
	if err == nil && t.denies(resp) {
		session.refused(conn, again, nil, start)
	}
	return t.judge(resp, err)
}

// denies tells whether the target itself wants other credentials.
func (t target) denies(resp *http.Response) bool {
	denied := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden
	return denied && resp.Request.URL.Host == t.address()
}

// judge makes an error of every answer that is no success, and closes it.
func (t target) judge(resp *http.Response, err error) (*http.Response, error) {
	if err != nil {
		if resp != nil {
			resp.Body.Close()
		}
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, newStatusError(resp, resp.Request.URL.Host != t.address())
	}
	return resp, nil
}

func (t target) roundTrip(ctx context.Context, conn *connection, r request, with *entry) (*http.Response, error) {
	req, err := r.build(ctx, t, conn.scheme)
	if err != nil {
		return nil, err
	}
	if with.header != "" {
		req.Header.Set("Authorization", with.header)
	}
	resp, err := conn.http.Do(req)
	if err == nil && resp.Request.Method != r.method {
		drain(resp)
		return nil, fmt.Errorf("%w: a redirect that makes a %s of a %s", errRefused, resp.Request.Method, r.method)
	}
	if err == nil {
		return resp, nil
	}
	var own *contentError
	if ctx.Err() == nil && !errors.As(err, &own) {
		t.forget(conn)
	}
	return nil, plain(err)
}

// watch ends an exchange that moves no byte for too long.
type watch struct {
	parent context.Context
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func newWatch(ctx context.Context, deadline time.Time) *watch {
	w := &watch{parent: ctx}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(time.Until(deadline), func() { w.cancel(errStalled) })
	return w
}

// pause stops the clock: nobody waits for the other side.
func (w *watch) pause() { w.timer.Stop() }

// expect starts it again.
func (w *watch) expect(d time.Duration) { w.timer.Reset(d) }

// end closes the exchange and says why it really ended, if err came of that.
func (w *watch) end(err error) error {
	if w.parent.Err() == nil && w.ctx.Err() != nil && errors.Is(context.Cause(w.ctx), errStalled) {
		err = errStalled
	}
	w.timer.Stop()
	w.cancel(nil)
	return err
}

// watchedBody is a body that a watch looks after while it is being read.
type watchedBody struct {
	io.ReadCloser
	watch    *watch
	patience time.Duration
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.expect(b.patience)
	n, err := b.ReadCloser.Read(p)
	b.watch.pause()
	if err != nil && err != io.EOF {
		err = b.watch.end(err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	_ = b.watch.end(nil)
	return err
}
