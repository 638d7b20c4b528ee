package registry

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/regfs/regfs/image"
)

// Referrers asks the registry's referrers API and, where there is none, for the index that clients keep under a tag instead.
func (s *source) Referrers(ctx context.Context, d image.Descriptor, artifactType string) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		what := "list referrers of " + s.name() + "@" + clean(d.Digest.String())
		if d.Digest.Validate() != nil {
			yield(image.Descriptor{}, &failure{what: what, words: "not a digest", kinds: []error{image.ErrNotFound}})
			return
		}
		for found, err := range s.referrers(ctx, d.Digest, artifactType) {
			if err != nil {
				yield(image.Descriptor{}, fail(ctx, what, err))
				return
			}
			if !yield(found, nil) {
				return
			}
		}
	}
}

func (s *source) referrers(ctx context.Context, subject digest.Digest, artifactType string) iter.Seq2[image.Descriptor, error] {
	return func(yield func(image.Descriptor, error) bool) {
		r := request{method: http.MethodGet, path: "referrers/" + subject.String(), accept: v1.MediaTypeImageIndex, query: query()}
		if artifactType != "" {
			r.query.Set("artifactType", artifactType)
		}
		first := func(fn func(target, time.Time) error) error { return s.each(ctx, subject, s.client.deadline(), fn) }
		started := false
		for p, err := range pages(ctx, first, r, image.MaxManifest) {
			found, err := parseReferrers(p, err)
			if !started && noReferrers(err) {
				found, err = s.taggedReferrers(ctx, subject)
			}
			started = true
			if err != nil {
				yield(image.Descriptor{}, err)
				return
			}
			filtered := slices.Contains(appliedFilters(p.header), "artifactType")
			for _, d := range found {
				if (artifactType == "" || filtered || d.ArtifactType == artifactType) && !yield(d, nil) {
					return
				}
			}
		}
	}
}

// errNoIndex: an answer to a referrers request that is none.
var errNoIndex = errors.New("the answer is no index")

// parseReferrers reads a page of the referrers API.
func parseReferrers(p page, err error) ([]image.Descriptor, error) {
	if err != nil {
		return nil, err
	}
	m, err := image.ParseManifest(v1.MediaTypeImageIndex, p.raw)
	if mediaType(&http.Response{Header: p.header}) != v1.MediaTypeImageIndex || err == nil && !m.IsIndex() {
		return nil, errNoIndex
	}
	if err != nil {
		return nil, err
	}
	return m.Manifests, nil
}

// noReferrers tells whether an answer means that the registry has no referrers API.
func noReferrers(err error) bool {
	switch statusOf(err) {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return errors.Is(err, errNoIndex)
}

// appliedFilters are those the registry says it has applied (distribution-spec, "Listing Referrers").
func appliedFilters(h http.Header) []string {
	filters := strings.Split(h.Get("OCI-Filters-Applied"), ",")
	for i := range filters {
		filters[i] = strings.TrimSpace(filters[i])
	}
	return filters
}

// taggedReferrers reads the index of the "referrers tag schema"; none where there is no such tag.
func (s *source) taggedReferrers(ctx context.Context, subject digest.Digest) ([]image.Descriptor, error) {
	d, raw, err := s.Manifest(ctx, referrersTag(subject))
	if errors.Is(err, image.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil || !m.IsIndex() {
		return nil, err
	}
	return m.Manifests, nil
}

// referrersTag is the tag of that index.
func referrersTag(subject digest.Digest) string {
	return cut(subject.Algorithm().String(), 32) + "-" + cut(subject.Encoded(), 64)
}

func cut(s string, n int) string { return s[:min(len(s), n)] }
