package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/regfs/regfs/image"
)

// How often one request is sent, at most. Who can't be connected to mostly stays so: a registry that restarts is waited for, one
// that is not there, or no network, isn't.
const (
	maxTries       = 6
	maxTriesAbsent = 3
)

// retry calls fn until it succeeds, fails for good, or the deadline leaves no time for the wait that is due.
func retry(ctx context.Context, deadline time.Time, fn func() error) error {
	p := newPatience(deadline)
	for {
		err := fn()
		if err == nil {
			return nil
		}
		if err = p.again(ctx, err, tries(err)); err != nil {
			return err
		}
	}
}

// patience is what is left of it for one operation.
type patience struct {
	try   int
	pause *backoff.ExponentialBackOff
	said  error // the last failure that was an answer, or else the first that was no silence

	mu  sync.Mutex
	end time.Time
}

func newPatience(deadline time.Time) *patience {
	p := &patience{pause: backoff.NewExponentialBackOff(), end: deadline}
	p.pause.InitialInterval, p.pause.Multiplier = 200*time.Millisecond, 2
	return p
}

// again waits for the next try, or says how it all ended: most tries are too many, or there is no time left.
func (p *patience) again(ctx context.Context, err error, most int) error {
	wait := max(p.pause.NextBackOff(), asked(err))
	var status *statusError
	switch {
	case errors.As(err, &status), p.said == nil && !errors.Is(err, errStalled):
		p.said = err
	case errors.Is(err, errStalled) && p.said != nil:
		err = p.said // the last try had no time left, and this tells more
	}
	if p.try++; ctx.Err() != nil || p.try >= most || time.Until(p.deadline()) <= wait {
		return err
	}
	if !sleep(ctx, wait) {
		return ctx.Err()
	}
	return nil
}

func (p *patience) deadline() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

// extend moves the deadline: bytes moved, or nobody waited for the other side.
func (p *patience) extend(to time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if to.After(p.end) {
		p.end = to
	}
}

// renew counts tries anew: there was progress.
func (p *patience) renew() {
	p.try, p.said = 0, nil
	p.pause.Reset()
}

// sleep waits, and tells whether the context let it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// tries tells how often a request that fails like this is sent at most.
func tries(err error) int {
	var status *statusError
	if errors.As(err, &status) {
		if temporary(status.status) {
			return maxTries
		}
		return 1
	}
	if permanent(err) {
		return 1
	}
	var dial *net.OpError
	var dns *net.DNSError
	if errors.As(err, &dns) || errors.As(err, &dial) && dial.Op == "dial" {
		return maxTriesAbsent
	}
	return maxTries
}

func temporary(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// permanent tells errors that the next try meets again from those of the moment.
func permanent(err error) bool {
	for _, kind := range []error{
		image.ErrNotFound, image.ErrDenied, image.ErrUnsupported, image.ErrDigest, image.ErrInvalid, image.ErrRefused,
		image.ErrTooLarge, image.ErrQuota, context.DeadlineExceeded, context.Canceled, errRefused, errEnd,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var known *failure
	var own *contentError
	return errors.As(err, &known) || errors.As(err, &own) || errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &cert) || errors.As(err, &record) ||
		errors.Is(err, http.ErrSchemeMismatch)
}

// asked is how long a registry asked to be left alone.
func asked(err error) time.Duration {
	var status *statusError
	if errors.As(err, &status) {
		return status.retryAfter
	}
	return 0
}

// maxRetryAfter is longer than anybody waits, and short enough to reckon with.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads the header of that name (RFC 9110, 10.2.3): seconds or a date. What is neither, or past, is 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(value, 10, 63); err == nil {
		return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	t, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(t.Sub(now), 0), maxRetryAfter)
}
