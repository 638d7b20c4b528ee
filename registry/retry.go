package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
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
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.Multiplier = 200*time.Millisecond, 2
	for try := 1; ; try++ {
		err := fn()
		if err == nil || ctx.Err() != nil || try >= tries(err) {
			return err
		}
		wait := max(pause.NextBackOff(), asked(err))
		if time.Until(deadline) <= wait {
			return err
		}
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
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
		image.ErrNotFound, image.ErrDenied, image.ErrUnsupported, image.ErrDigest, image.ErrInvalid,
		context.DeadlineExceeded, context.Canceled, errRefused, errEnd,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var known *failure
	return errors.As(err, &known) || errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &cert) || errors.As(err, &record) ||
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
