package stage

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
)

// State is how far an image has got that is being written.
type State string

// The states. Broken is one that something has to be done about; what was staged is still there.
const (
	Writing State = "writing"
	Pushing State = "pushing"
	Pushed  State = "pushed"
	Broken  State = "failed"
)

// Status is what can be told of one site, in the form of .regfs/pushes/.
type Status struct {
	Registry   string `json:"registry"`
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`
	State      State  `json:"state"`
	// Error is why the last push failed, or what is wrong with what was written, in the registry's words where it said some.
	Error string `json:"error,omitempty"`
	// Waiting is what the image still lacks, in words, and Missing the blobs by digest, of which there may be more.
	Waiting string          `json:"waiting,omitempty"`
	Missing []digest.Digest `json:"missing,omitempty"`
	// Digest is what was pushed last.
	Digest digest.Digest `json:"digest,omitempty"`
	Since  time.Time     `json:"since"`
	// Bytes is how many bytes were sent, and Blobs how each manifest and blob fares.
	Bytes int64        `json:"bytes"`
	Blobs []BlobStatus `json:"blobs,omitempty"`
}

// BlobStatus is how one manifest or blob fares.
type BlobStatus struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType,omitempty"`
	// Size is -1 as long as the blob is being written.
	Size  int64      `json:"size"`
	State copy.State `json:"state"`
	Sent  int64      `json:"sent"`
	How   image.How  `json:"how,omitempty"`
	Error string     `json:"error,omitempty"`
}

// Site is what the status is of.
func (s Status) Site() Site {
	return Site{image.Repository{Host: s.Registry, Name: s.Repository}, s.Tag}
}

// reason says in a few words why the image is not pushed.
func (s Status) reason() string {
	switch {
	case s.Error != "":
		return s.Error
	case len(s.Missing) > 0:
		return fmt.Sprintf("%s is missing, of %d", s.Missing[0], len(s.Missing))
	case s.Waiting != "":
		return s.Waiting
	}
	return "it is not finished"
}

// report is what a staging knows of itself. The staging's lock is held for it.
type report struct {
	state   State
	since   time.Time
	err     string
	waiting string
	missing []digest.Digest
	digest  digest.Digest
	bad     map[string]string // paths whose content can't be what they are called, and why
	blobs   map[digest.Digest]BlobStatus
}

// How many blobs are told of, and how many missing ones.
const (
	maxTold    = 10_000
	maxMissing = 100
)

func (r *report) set(state State) {
	if r.state != state {
		r.state, r.since = state, time.Now()
	}
}

// Status tells how the staging fares.
func (l *Staging) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status()
}

func (l *Staging) status() Status {
	r := &l.report
	s := Status{
		Registry: l.site.Host, Repository: l.site.Name, Tag: l.site.Tag, State: r.state, Error: r.err, Waiting: r.waiting,
		Missing: r.missing, Digest: r.digest, Since: r.since.UTC(),
	}
	if s.State == "" {
		s.State, s.Since = Writing, l.last.UTC()
	}
	for _, at := range slices.Sorted(maps.Keys(r.bad)) {
		s.State, s.Error = Broken, at+": "+r.bad[at]
	}
	for _, b := range r.blobs {
		s.Blobs = append(s.Blobs, b)
		if b.How == image.Uploaded || b.How == image.Streamed || b.State == copy.Moving {
			s.Bytes += b.Sent
		}
	}
	slices.SortFunc(s.Blobs, func(a, b BlobStatus) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	return s
}

// reopened: somebody writes again. The lock is held.
func (l *Staging) reopened() {
	if l.report.state == Pushed {
		l.report.set(Writing)
	}
}

// lacks notes that the image is not whole, and what would make it so.
func (l *Staging) lacks(missing map[digest.Digest]bool, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	if r.state == Pushed && len(missing) == 0 {
		return
	}
	r.set(Writing)
	r.err, r.waiting, r.missing = "", why, slices.Sorted(maps.Keys(missing))
	r.missing = r.missing[:min(len(r.missing), maxMissing)]
	l.wants, l.stuck = nil, nil
	if len(missing) > 0 {
		l.wants = maps.Clone(missing)
	}
}

// failed notes why the image can't be pushed.
func (l *Staging) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.set(Broken)
	l.report.err, l.report.waiting, l.report.missing = err.Error(), "", nil
	l.wants, l.stuck = nil, nil
}

// rejected notes a file whose content is not what it is called, accepted that it is now.
func (l *Staging) rejected(at string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.report.bad == nil {
		l.report.bad = map[string]string{}
	}
	if len(l.report.bad) < maxMissing {
		l.report.bad[at] = err.Error()
	}
}

func (l *Staging) accepted(at string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.report.bad, at)
}

// pushes notes that a push begins.
func (l *Staging) pushes(p *plan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	r.set(Pushing)
	r.err, r.waiting, r.missing = "", "", nil
	l.stuck = nil
	for dgst := range r.blobs {
		if !p.reached[dgst] {
			delete(r.blobs, dgst)
		}
	}
}

// pushed notes that it has come to its end.
func (l *Staging) pushed(p *plan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	r.set(Pushed)
	r.err, r.waiting, r.missing, r.bad = "", "", nil, nil
	for _, d := range p.current {
		r.digest = d.Digest
	}
	for _, d := range p.images {
		r.digest = d.Digest
	}
	l.lastIndex, l.lastVersion = p.index, p.version
	l.wants, l.stuck = map[digest.Digest]bool{}, nil
	clear(l.noTag) // there is something now
	clear(l.absent)
}

// told notes how a manifest or blob fares.
func (l *Staging) told(e copy.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.report.blobs == nil {
		l.report.blobs = map[digest.Digest]BlobStatus{}
	}
	d := e.Descriptor
	b, known := l.report.blobs[d.Digest]
	if !known && len(l.report.blobs) >= maxTold || b.State == copy.Done && e.State != copy.Done {
		return
	}
	if !known || d.Size >= 0 && d.MediaType != "application/octet-stream" {
		b.Digest, b.MediaType, b.Size = d.Digest, d.MediaType, d.Size
	}
	b.State, b.Error = e.State, ""
	b.Sent = max(b.Sent, e.Sent)
	if e.State == copy.Done && b.How == "" {
		b.How = e.How
	}
	if e.Err != nil {
		b.Error = e.Err.Error()
	}
	l.report.blobs[d.Digest] = b
	l.last = time.Now()
}
