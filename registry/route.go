package registry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/regfs/regfs/image"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
)

// catalogScope is what a token must allow for listing repositories.
const catalogScope = "registry:catalog:*"

// route says where a repository is asked for: mirrors first and, behind all others, mirrors that could not be reached a moment
// ago. With a digest, mirrors meant for digests count; without, those meant for tags.
func (s *source) route(dgst digest.Digest) ([]target, error) {
	named, err := reference.WithName(s.name())
	if strings.HasPrefix(s.host, "[") { // an IPv6 address, which registries.conf can't name
		return []target{s.client.target(s.host, s.repository, false)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, image.ErrNotFound)
	}
	entry, err := s.client.lookup(named.Name())
	if err != nil {
		return nil, err
	}
	if entry == nil {
		return []target{s.client.target(s.host, s.repository, false)}, nil
	}
	targets, err := s.client.pullSources(entry, named)
	if dgst == "" || err != nil {
		return order(targets), err
	}
	canonical, err := reference.WithDigest(named, dgst)
	if err != nil {
		return nil, err
	}
	strict, err := s.client.pullSources(entry, canonical)
	for _, t := range targets {
		if !slices.ContainsFunc(strict, t.same) {
			t.extra = true
			strict = append(strict, t)
		}
	}
	return order(strict), err
}

// lookup finds what registries.conf says of a name: nil for nothing, an error for a name that is blocked.
func (c *Client) lookup(name string) (*sysregistriesv2.Registry, error) {
	sys := c.options.System
	entry, err := sysregistriesv2.FindRegistry(sys, name)
	if err != nil {
		return nil, &failure{what: "registries.conf", words: clean(err.Error())}
	}
	if entry != nil && entry.Blocked {
		return nil, fmt.Errorf("%s is blocked in registries.conf, one of %s: %w",
			entry.Prefix, sysregistriesv2.ConfigurationSourceDescription(sys), image.ErrDenied)
	}
	return entry, nil
}

// pullSources are the mirrors and, last, the registry itself.
func (c *Client) pullSources(entry *sysregistriesv2.Registry, ref reference.Named) ([]target, error) {
	sources, err := entry.PullSourcesFromReference(ref)
	if err != nil {
		return nil, &failure{what: "registries.conf", words: clean(err.Error())}
	}
	targets := make([]target, 0, len(sources))
	for i, p := range sources {
		t := c.target(reference.Domain(p.Reference), reference.Path(p.Reference), p.Endpoint.Insecure)
		t.ns, t.primary = p.Endpoint.NamespaceProxy, i == len(sources)-1
		targets = append(targets, t)
	}
	return targets, nil
}

// target is a repository of a registry, as it is named there.
func (c *Client) target(host, repository string, insecure bool) target {
	return target{
		endpoint: c.endpoint(host, insecure), account: account(host, repository), scope: pullScope(repository),
		path: "/v2/" + repository + "/", primary: true,
	}
}

func pullScope(repository string) string { return "repository:" + repository + ":pull" }

// account is what credentials are looked up by.
func account(host, repository string) string { return strings.TrimSuffix(host+"/"+repository, "/") }

func (t target) same(u target) bool { return t.endpoint == u.endpoint && t.path == u.path }

// order puts last what is asked last, and leaves all else as configured.
func order(targets []target) []target {
	rank := func(t target) int {
		switch {
		case t.extra:
			return 2
		case !t.primary && t.isDown():
			return 1
		}
		return 0
	}
	slices.SortStableFunc(targets, func(a, b target) int { return rank(a) - rank(b) })
	return targets
}

// each has fn try the targets in turn until one gives what is wanted, or the deadline is there. The registry's own verdict goes
// before those of its mirrors; one that it gave is not questioned with a mirror that is down.
func (s *source) each(ctx context.Context, dgst digest.Digest, end time.Time, fn func(t target, deadline time.Time) error) error {
	targets, err := s.route(dgst)
	if err != nil {
		return err
	}
	var own, last error
	for i, t := range targets {
		if verdict(own) && !t.extra {
			continue
		}
		share := time.Until(end) / time.Duration(len(targets)-i)
		err := s.client.try(ctx, t, time.Now().Add(share), fn)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if last = from(t, err, len(targets)); t.primary {
			own = last
		}
	}
	if own != nil {
		return own
	}
	return last
}

// verdict tells an answer that is final from a failure to answer.
func verdict(err error) bool {
	status := statusOf(err)
	return status != 0 && !temporary(status)
}

// try asks one target. Only the registry itself is asked again and again: behind a mirror stands another one.
func (c *Client) try(ctx context.Context, t target, deadline time.Time, fn func(target, time.Time) error) error {
	if t.primary {
		return retry(ctx, deadline, func() error { return fn(t, deadline) })
	}
	err := fn(t, deadline)
	t.setDown(ctx.Err() == nil && unreachable(err))
	return err
}

// unreachable tells whether a target gave no answer at all.
func unreachable(err error) bool {
	if errors.Is(err, errStalled) {
		return true
	}
	return err != nil && statusOf(err) == 0 && !errors.Is(err, errEnd) && !slices.ContainsFunc(sentinels, func(kind error) bool {
		return errors.Is(err, kind)
	})
}

// from says which of several registries an error comes from.
func from(t target, err error, of int) error {
	if of == 1 {
		return err
	}
	return &located{error: err, where: t.host}
}

type located struct {
	error
	where string
}

func (l *located) Error() string { return "at " + l.where + ": " + l.error.Error() }
func (l *located) Unwrap() error { return l.error }

// catalog says where the repositories of a host are listed, and what their names there start with: the registry itself, for a
// mirror lists what it happens to have.
func (h *host) catalog() (t target, prefix string, err error) {
	entry, err := h.client.lookup(h.name)
	if err != nil {
		return target{}, "", err
	}
	t = h.client.target(h.name, "", false)
	// A name with a component too many shows what any name becomes.
	if named, err := reference.WithName(h.name + "/a/x"); err == nil && entry != nil {
		targets, err := h.client.pullSources(entry, named)
		if err != nil {
			return target{}, "", err
		}
		t = targets[len(targets)-1]
		prefix = strings.TrimSuffix(strings.TrimPrefix(t.path, "/v2/"), "a/x/")
	}
	t.account, t.scope, t.path = t.host, catalogScope, "/v2/"
	return t, prefix, nil
}

// query builds the query of a request from pairs.
func query(pairs ...string) url.Values {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Set(pairs[i], pairs[i+1])
	}
	return values
}
