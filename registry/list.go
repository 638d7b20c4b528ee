package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/regfs/regfs/image"
)

// Bounds of a list: how many names are asked for at once, how long a page may be, in bytes, and how many may follow.
const (
	pageLength = "1000"
	maxPage    = 16 << 20
	maxPages   = 10_000
	maxLink    = 4 << 10
)

// page is one answer to a request for a list.
type page struct {
	header http.Header
	raw    []byte
	next   url.Values // what to ask for the page after it; nil after the last
}

// Tags lists the tags in the order in which the registry pages them.
func (s *source) Tags(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		first := func(fn func(target, time.Time) error) error { return s.each(ctx, "", s.client.deadline(), fn) }
		list := names{key: "tags", after: after, valid: image.ValidTag}
		what := "list tags of " + s.name()
		list.all(ctx, what, first, request{method: http.MethodGet, path: "tags/list"}, yield)
	}
}

// Repositories lists the registry's catalog. Many registries have none.
func (h *host) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		what := "list repositories of " + h.name
		t, prefix, err := h.catalog()
		if err != nil {
			yield("", fail(ctx, what, err))
			return
		}
		first := func(fn func(target, time.Time) error) error {
			return noCatalog(h.client.try(ctx, t, h.client.deadline(), fn))
		}
		list := names{key: "repositories", after: after, prefix: prefix, valid: image.ValidRepository}
		list.all(ctx, what, first, request{method: http.MethodGet, path: "_catalog"}, yield)
	}
}

// noCatalog makes of a catalog that is not found one that the registry can't list.
func noCatalog(err error) error {
	if status := statusOf(err); status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
		return fmt.Errorf("%v: %w", err, image.ErrUnsupported)
	}
	return err
}

// names is a list of names in the making.
type names struct {
	key    string // of the array in each page
	after  string // where to start
	prefix string // what names have there and not here
	valid  func(string) bool
	skip   bool // the registry does not know how to start after a name
}

// all yields what is on all pages: the first from wherever it can be had, the others from there too.
func (l *names) all(ctx context.Context, what string, first func(func(target, time.Time) error) error, r request,
	yield func(string, error) bool,
) {
	r.query = query("n", pageLength)
	if l.after != "" {
		r.query.Set("last", l.prefix+l.after)
	}
	for p, err := range pages(ctx, first, r, maxPage) {
		var found []string
		if err == nil {
			found, err = l.parse(p.raw)
		}
		if err != nil {
			yield("", fail(ctx, what, err))
			return
		}
		for _, name := range found {
			if !yield(name, nil) {
				return
			}
		}
	}
}

// parse reads the names of a page, without those that can't be: what no request can name nobody can use.
func (l *names) parse(raw []byte) ([]string, error) {
	var fields map[string]json.RawMessage
	var all []string
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("the list is not JSON: %v: %w", err, image.ErrInvalid)
	}
	if list := fields[l.key]; list != nil {
		if err := json.Unmarshal(list, &all); err != nil {
			return nil, fmt.Errorf("the list of %s: %v: %w", l.key, err, image.ErrInvalid)
		}
	}
	l.skip = l.skip || l.after != "" && slices.Contains(all, l.prefix+l.after)
	found := all[:0]
	for _, name := range all {
		name, ok := strings.CutPrefix(name, l.prefix)
		if ok && l.valid(name) && !(l.skip && name <= l.after) {
			found = append(found, name)
		}
	}
	return found, nil
}

// pages gets page after page. It ends after the last, with the first error, or with more pages than anybody has.
func pages(ctx context.Context, first func(func(target, time.Time) error) error, r request, limit int64) iter.Seq2[page, error] {
	return func(yield func(page, error) bool) {
		var from target
		var p page
		err := first(func(t target, deadline time.Time) (err error) {
			from = t
			p, err = t.page(ctx, r, deadline, limit)
			return err
		})
		seen := map[string]bool{r.query.Encode(): true}
		for yield(p, err) && err == nil && p.next != nil {
			if r.query = p.next; seen[r.query.Encode()] || len(seen) >= maxPages {
				yield(page{}, fmt.Errorf("the pages go in a circle, or are more than %d: %w", maxPages, image.ErrInvalid))
				return
			}
			seen[r.query.Encode()] = true
			deadline := from.client.deadline()
			err = retry(ctx, deadline, func() (err error) {
				p, err = from.page(ctx, r, deadline, limit)
				return err
			})
		}
	}
}

// page gets one page.
func (t target) page(ctx context.Context, r request, deadline time.Time, limit int64) (page, error) {
	resp, err := t.send(ctx, r, deadline)
	if err != nil {
		return page{}, err
	}
	defer resp.Body.Close()
	raw, err := readAll(resp, limit)
	if err != nil {
		return page{}, err
	}
	next, err := nextPage(resp.Header.Values("Link"))
	return page{header: resp.Header, raw: raw, next: next}, err
}

var errLink = errors.New("a link to the next page that makes no sense")

// nextPage finds the link of relation "next" (RFC 8288). Only its query counts: wherever a link points, the next page of a list is
// where the first one was. Proxies put their own names there, and a hostile registry that of somebody else.
func nextPage(links []string) (url.Values, error) {
	for _, header := range links {
		for header != "" {
			target, rest, ok := strings.Cut(header, ">")
			_, target, open := strings.Cut(target, "<")
			params, more, _ := strings.Cut(rest, ",")
			if header = more; !ok || !open || !isNext(params) {
				continue
			}
			u, err := url.Parse(target)
			if err != nil || len(target) > maxLink || u.RawQuery == "" {
				return nil, fmt.Errorf("%w: %w", errLink, image.ErrInvalid)
			}
			return u.Query(), nil
		}
	}
	return nil, nil
}

// isNext reads the parameters behind a link's target.
func isNext(params string) bool {
	for param := range strings.SplitSeq(params, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if strings.EqualFold(strings.TrimSpace(key), "rel") && strings.EqualFold(strings.Trim(value, ` "`), "next") {
			return true
		}
	}
	return false
}
