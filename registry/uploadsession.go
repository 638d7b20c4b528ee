package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/regfs/regfs/image"
)

// begin opens a session, or has the registry take the blob from where it is already.
func (u *upload) begin() error {
	r := request{method: http.MethodPost, path: "blobs/uploads/"}
	t := u.target
	if u.from != "" {
		r.query = query("mount", u.d.Digest.String(), "from", u.from)
		t.scope += " " + pullScope(u.from)
	}
	resp, err := t.send(u.ctx, r, u.deadline())
	if u.from != "" && refusesMount(err) {
		u.from, u.asked = "", false
		return nil
	}
	if err != nil {
		return err
	}
	drain(resp)
	if resp.StatusCode == http.StatusCreated && u.from != "" {
		u.done, u.how = true, image.Mounted
		return nil
	}
	u.from = "" // whatever comes, the blob can't be had from there
	if u.at, err = u.follow(resp); err != nil {
		return err
	}
	u.minimum(resp)
	return nil
}

// refusesMount tells whether an upload may do what a mount did not: not every registry mounts, nor lets everybody see the origin.
func refusesMount(err error) bool {
	return verdict(err) || errors.Is(err, image.ErrDenied)
}

// look finds out whether the blob is there. Who may write may not always read.
func (u *upload) look() error {
	there, err := u.there()
	u.asked = err == nil
	if there {
		u.done, u.how = true, image.Skipped
	}
	return err
}

// there asks for the blob. A verdict other than yes is no.
func (u *upload) there() (bool, error) {
	resp, err := u.send(u.ctx, request{method: http.MethodHead, path: "blobs/" + u.d.Digest.String()}, u.deadline())
	if err == nil {
		drain(resp)
		return true, nil
	}
	if verdict(err) {
		return false, nil
	}
	return false, err
}

// minimum heeds what a registry says its chunks are at least.
func (u *upload) minimum(resp *http.Response) {
	n, err := strconv.ParseUint(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 62)
	if err != nil {
		return
	}
	u.pieces.chunk = max(u.pieces.chunk, int64(n))
	u.pieces.buffered = max(u.pieces.buffered, min(int64(n), maxBuffered))
}

// follow reads where the session goes on. Where it leads to the endpoint, it is spoken to as it always is.
func (u *upload) follow(resp *http.Response) (*url.URL, error) {
	at, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("the registry opened an upload and did not say where: %w", image.ErrInvalid)
	}
	if at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
		return nil, fmt.Errorf("the registry opened an upload at an impossible place: %w", image.ErrInvalid)
	}
	if sameHost(at, resp.Request.URL) && resp.Request.URL.Host == u.address() {
		at.Host = u.address()
	} else if resp.Request.URL.Scheme == "https" && at.Scheme != "https" && !u.insecure {
		return nil, fmt.Errorf("%w: a session that goes on from HTTPS to %s", errRefused, at.Scheme)
	}
	at.User, at.Fragment = nil, ""
	return at, nil
}

// sameHost compares hosts, with the ports that go without saying.
func sameHost(a, b *url.URL) bool {
	name := func(u *url.URL) string {
		host := strings.ToLower(u.Host)
		if u.Scheme == "https" {
			return strings.TrimSuffix(host, ":443")
		}
		return strings.TrimSuffix(host, ":80")
	}
	return name(a) == name(b)
}

// goOn takes what an answer says of the session: the next request goes where the last answer said.
func (u *upload) goOn(resp *http.Response) {
	drain(resp)
	if resp.Header.Get("Location") == "" {
		return
	}
	if at, err := u.follow(resp); err == nil {
		u.at = at
	}
}

// patch sends a piece that is not the last word.
func (u *upload) patch(p *piece) error {
	r := request{method: http.MethodPatch, at: u.at, length: p.end - p.off, body: p.open, header: http.Header{
		"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("%d-%d", p.off, p.end-1)},
	}}
	resp, err := u.send(u.ctx, r, u.share(p.patience))
	if err != nil {
		return u.failed(p, err)
	}
	u.goOn(resp)
	if whole, _ := p.sent(); whole {
		u.fed = p.end
	}
	if n, ok := received(resp); ok && p.off < n && n < p.end && n > 1 {
		u.has(n) // it did not take it all
		return nil
	}
	u.has(p.end)
	return nil
}

// finish says that this is all, along with the content where it is a single piece. Registries may take long to answer that.
func (u *upload) finish(p *piece) error {
	if p.off == p.end {
		if err := u.verify(); err != nil {
			return err
		}
	}
	p.patience = u.client.options.Timeout * 3 / 4 // what is left does to ask whether the blob is there
	at := *u.at
	at.RawQuery = strings.TrimPrefix(at.RawQuery+"&digest="+url.QueryEscape(u.d.Digest.String()), "&")
	r := request{method: http.MethodPut, at: &at, length: p.end - p.off, body: p.open, header: http.Header{
		"Content-Type": {"application/octet-stream"},
	}}
	resp, err := u.send(u.ctx, r, u.share(p.patience))
	if err != nil {
		if err = u.failed(p, err); u.at != nil {
			u.closing = true
		}
		return err
	}
	_, _ = p.sent() // nothing is told of it from here on
	drain(resp)
	u.done = true
	return nil
}

// share is the deadline of one request that may be repeated.
func (u *upload) share(d time.Duration) time.Time {
	end := time.Now().Add(d)
	if all := u.deadline(); all.Before(end) {
		return all
	}
	return end
}

// confirm finds out whether the registry has the blob, after a last word whose answer was lost.
func (u *upload) confirm() error {
	there, err := u.there()
	if err != nil {
		return err
	}
	u.done, u.closing = there, false
	return nil
}

// ask finds out how much of the content the session has. Where it can't be known, the upload begins anew.
func (u *upload) ask() error {
	resp, err := u.send(u.ctx, request{method: http.MethodGet, at: u.at}, u.deadline())
	if verdict(err) {
		u.restart()
		return nil
	}
	if err != nil {
		return err
	}
	u.goOn(resp)
	n, ok := received(resp)
	if _, hashed := u.digest.sum(); !ok || n > hashed || n == 1 {
		u.restart()
		return nil
	}
	u.unsure = false
	u.has(n)
	return nil
}

// received reads how much a session has. Registries say "0-0" for nothing too: that is 1, or 0 where nothing else can be.
func received(resp *http.Response) (int64, bool) {
	value := strings.TrimPrefix(resp.Header.Get("Range"), "bytes=")
	from, to, ok := strings.Cut(value, "-")
	n, err := strconv.ParseUint(to, 10, 62)
	return int64(n) + 1, ok && err == nil && from == "0"
}

// cancel ends the session at the registry.
func (u *upload) cancel(ctx context.Context) {
	u.ctx, u.patience = ctx, newPatience(time.Now().Add(u.client.options.Timeout))
	if u.unsure && u.ask() != nil || u.at == nil {
		return
	}
	resp, err := u.send(ctx, request{method: http.MethodDelete, at: u.at}, u.deadline())
	if err == nil {
		drain(resp)
	}
}
