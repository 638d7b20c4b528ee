package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/regfs/regfs/image"
)

// Delete sends a DELETE for what it is told to, and for nothing else: a tag is never made a digest of, which others may share.
func (s *sink) Delete(ctx context.Context, name string) error {
	ref, what, err := s.source.ref("delete", name)
	if err != nil {
		return err
	}
	t, err := s.target(remove)
	if err == nil {
		err = t.delete(ctx, ref)
	}
	if err != nil {
		return fail(ctx, what, err)
	}
	return nil
}

// delete asks first whether there is such a thing: only so does a 404 tell that an answer to a DELETE was lost, or that the
// registry can't delete tags.
func (t target) delete(ctx context.Context, ref manifestRef) error {
	deadline := t.client.deadline()
	before, err := t.exists(ctx, ref, deadline)
	if err != nil {
		return err
	}
	tried := false
	err = retry(ctx, deadline, func() error {
		resp, err := t.send(ctx, request{method: http.MethodDelete, path: "manifests/" + ref.string}, deadline)
		if err == nil {
			drain(resp)
			return nil
		}
		if before && tried && gone(err) {
			return nil // by a try whose answer was lost
		}
		tried = true
		return err
	})
	if ref.digest != "" || err == nil {
		return err
	}
	return t.judgeUntag(ctx, ref, before, err)
}

// exists tells whether there is such a manifest. A verdict other than yes is no: who may write may not always read.
func (t target) exists(ctx context.Context, ref manifestRef, deadline time.Time) (there bool, err error) {
	err = retry(ctx, deadline, func() error {
		_, err := t.head(ctx, ref, deadline)
		there = err == nil
		if verdict(err) || errors.Is(err, errUnanswered) {
			return nil
		}
		return err
	})
	return there, err
}

// gone tells an answer that there is no such thing.
func gone(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.kind() == image.ErrNotFound
}

// judgeUntag tells a registry that can't delete tags from one that has no such tag. Many say only that the tag is no digest.
func (t target) judgeUntag(ctx context.Context, ref manifestRef, before bool, err error) error {
	var status *statusError
	if !errors.As(err, &status) {
		return err
	}
	unsupported := status.status == http.StatusBadRequest || status.has(transport.UnsupportedErrorCode)
	if before && gone(err) {
		there, again := t.exists(ctx, ref, t.client.deadline())
		if again != nil {
			return again
		}
		unsupported = there
	}
	if unsupported {
		return fmt.Errorf("the registry deletes no tags: %v: %w", status, image.ErrUnsupported)
	}
	return err
}
