package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/regfs/regfs/image"
)

// How much of a blob goes into one request, in bytes. What is of unknown length is held in memory for each, for a registry wants
// to know the length of what it is sent.
const (
	chunkSize    = 32 << 20
	bufferedSize = 4 << 20
)

// maxBuffered is the most memory that a registry which wants large chunks is given.
const maxBuffered = 64 << 20

type pieces struct{ chunk, buffered int64 }

// upload is a blob on its way to a registry, through as many requests, connections and sessions as it takes.
type upload struct {
	target
	ctx     context.Context
	d       image.Descriptor
	content image.Content
	from    string // a repository of the registry to mount the blob from, or ""
	pieces  pieces
	*patience

	asked    bool     // it is known not to be there, or not worth asking
	at       *url.URL // the session, nil as long as there is none
	off      int64    // how much the registry has, by its word
	size     int64    // -1 until the end was seen
	furthest int64    // how much it has had at most
	handed   int64    // and how much of the content went out at most
	unsure   bool     // what it has is to be asked for
	closing  bool     // it was told that this is all, and may have the blob
	done     bool
	how      image.How

	buffer []byte // of the piece that is being sent, where its length could not be known
	digest *digester
	feed   *feed
	fed    int64 // where the feed is, or -1 where that can't be known
}

// lostError is a failure of a session and not of the upload.
type lostError struct {
	error
	tries int
}

func (e *lostError) Unwrap() error { return e.error }

// run sends the blob.
func (u *upload) run() error {
	u.digest.reset()
	defer u.dropFeed()
	for !u.done {
		err := u.step()
		if err == nil {
			continue
		}
		if err = u.again(u.ctx, err, u.tries(err)); err != nil {
			u.giveUp(err)
			return err
		}
	}
	return nil
}

// tries is how often what failed like this is tried without progress. Time is left after a request that was given only a part of it.
func (u *upload) tries(err error) int {
	var lost *lostError
	switch {
	case errors.As(err, &lost):
		return lost.tries
	case errors.Is(err, errStalled):
		return maxTries
	}
	return tries(err)
}

// step sends the one request that is due.
func (u *upload) step() error {
	switch {
	case u.closing:
		return u.confirm()
	case !u.asked:
		return u.look()
	case u.at == nil:
		return u.begin()
	case u.unsure:
		return u.ask()
	}
	p, err := u.piece()
	if err != nil {
		return err
	}
	if p.end == u.size && (p.off == 0 || p.off == p.end) {
		return u.finish(p)
	}
	return u.patch(p)
}

// piece is what is to be sent next.
func (u *upload) piece() (*piece, error) {
	p := &piece{upload: u, off: u.off, end: u.off, patience: u.client.options.Timeout / 2}
	if u.size < 0 {
		return p, u.fill(p)
	}
	p.end += min(u.size-u.off, u.pieces.chunk)
	p.last = p.end == u.size
	return p, nil
}

// fill reads a piece of content whose length nobody knows. As nobody waits for the registry meanwhile, the clock stands still.
func (u *upload) fill(p *piece) error {
	start := time.Now()
	defer func() { u.extend(u.deadline().Add(time.Since(start))) }()
	if err := u.seek(u.off); err != nil {
		return err
	}
	if int64(len(u.buffer)) < u.pieces.buffered {
		u.buffer = make([]byte, u.pieces.buffered)
	}
	n, err := io.ReadFull(u.feed, u.buffer)
	p.kept = u.buffer[:n]
	p.end += int64(n)
	if u.fed = p.end; err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	if int64(len(p.kept)) < u.pieces.buffered {
		u.size = p.end
		return u.verify()
	}
	return nil
}

// seek makes the feed go on at off.
func (u *upload) seek(off int64) (err error) {
	if u.feed != nil && u.fed == off {
		return nil
	}
	u.dropFeed()
	u.feed, err = newFeed(u.ctx, u.content, off, u.digest)
	u.fed = off
	return err
}

func (u *upload) dropFeed() {
	if u.feed != nil {
		u.feed.close()
		u.feed = nil
	}
}

// verify judges the content, all of which was read.
func (u *upload) verify() error {
	got, n := u.digest.sum()
	switch {
	case u.d.Size >= 0 && n != u.d.Size:
		return &contentError{fmt.Errorf("the content has %d bytes instead of %d: %w", n, u.d.Size, image.ErrDigest)}
	case got != u.d.Digest:
		return &contentError{fmt.Errorf("the content has the digest %s: %w", got, image.ErrDigest)}
	}
	return nil
}

// moved takes note of bytes given to the connection. Only those that went out for the first time show that there is progress.
func (u *upload) moved(to int64, waited time.Duration) {
	u.extend(u.deadline().Add(waited))
	if to > u.handed {
		u.handed = to
		u.extend(u.client.deadline())
	}
	if u.content.Sent != nil {
		u.content.Sent(to)
	}
}

// has takes note of how much the registry has. More than before leaves more time; only more than ever counts as progress, or an
// upload that is lost again and again would go on for ever.
func (u *upload) has(off int64) {
	if off > u.off {
		u.extend(u.client.deadline())
	}
	if u.off = off; off > u.furthest {
		u.furthest = off
		u.renew()
	}
}

// restart begins anew: what was sent so far is lost, or not what it should be.
func (u *upload) restart() {
	u.at, u.off, u.unsure, u.closing = nil, 0, false, false
	u.dropFeed()
	u.digest.reset()
}

// failed judges what a piece of the session failed of.
func (u *upload) failed(p *piece, err error) error {
	if _, own := p.sent(); own != nil {
		err = own
	}
	u.unsure = true
	var status *statusError
	if !errors.As(err, &status) || temporary(status.status) {
		return err
	}
	lost := status.has(transport.BlobUploadUnknownErrorCode, transport.BlobUploadInvalidErrorCode, transport.SizeInvalidErrorCode, "RANGE_INVALID")
	switch {
	case status.status == http.StatusRequestedRangeNotSatisfiable:
		return &lostError{err, maxTries}
	case lost, status.status == http.StatusNotFound, status.status == http.StatusGone:
		u.restart()
		return &lostError{err, maxTries}
	case status.has(transport.DigestInvalidErrorCode):
		u.restart() // what was sent had the digest: the session went wrong, which it won't do twice
		return &lostError{err, 2}
	}
	return err
}

// giveUp cancels the session, if the registry lets it. Who has canceled the upload does not wait for that.
func (u *upload) giveUp(err error) {
	if u.at == nil || errors.Is(err, errStalled) {
		return
	}
	u.dropFeed()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), min(u.client.options.Timeout, 5*time.Second))
	cleanUp := func() {
		defer cancel()
		u.cancel(ctx)
	}
	if u.ctx.Err() != nil {
		go cleanUp()
		return
	}
	cleanUp()
}
