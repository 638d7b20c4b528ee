package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/regfs/regfs/image"
)

// put stores a manifest under a tag or its digest, and has it found as a referrer.
func (t target) put(ctx context.Context, d image.Descriptor, raw []byte, ref string) error {
	header, err := t.store(ctx, d, raw, ref)
	if err != nil || header.Get("OCI-Subject") != "" {
		return err
	}
	t.owe(d.Digest, true)
	if err := t.refer(ctx, d, raw); err != nil {
		return err
	}
	t.owe(d.Digest, false)
	return nil
}

// owe remembers which manifests are there and not yet in the list of referrers: it is too early to skip them.
func (t target) owe(dgst digest.Digest, owing bool) {
	t.client.mu.Lock()
	defer t.client.mu.Unlock()
	if owing {
		t.client.owed[t.host+t.path+dgst.String()] = true
	} else {
		delete(t.client.owed, t.host+t.path+dgst.String())
	}
}

func (t target) owes(dgst digest.Digest) bool {
	t.client.mu.Lock()
	defer t.client.mu.Unlock()
	return t.client.owed[t.host+t.path+dgst.String()]
}

// store stores a manifest, and returns the header of the answer. As it can be repeated without harm, a lost answer is, and one that does
// not come for half of the time there is.
func (t target) store(ctx context.Context, d image.Descriptor, raw []byte, ref string) (header http.Header, err error) {
	r := request{method: http.MethodPut, path: "manifests/" + ref, header: http.Header{"Content-Type": {d.MediaType}}}.withBytes(raw)
	deadline := t.client.deadline()
	put := func() error {
		half := time.Now().Add(t.client.options.Timeout / 2)
		if half.After(deadline) {
			half = deadline
		}
		resp, err := t.send(ctx, r, half)
		if err != nil {
			return err
		}
		drain(resp)
		header = resp.Header
		return nil
	}
	err = retry(ctx, deadline, put)
	if errors.Is(err, errStalled) && time.Now().Before(deadline) {
		err = retry(ctx, deadline, put)
	}
	return header, err
}

// repository is the name of the repository at the endpoint.
func (t target) repository() string {
	return strings.TrimSuffix(strings.TrimPrefix(t.path, "/v2/"), "/")
}

// refer makes a manifest that was stored findable as a referrer of its subject: by the registry, if it can, else by the index
// that clients keep (distribution-spec, "Pushing Manifests with Subject").
func (t target) refer(ctx context.Context, d image.Descriptor, raw []byte) error {
	m, err := image.ParseManifest(d.MediaType, raw)
	if err != nil || m.Subject == nil {
		return nil // the registry has taken it: what it can't be read as, it has no subject as
	}
	known, err := t.knowsReferrers(ctx, m.Subject.Digest)
	if err != nil || known {
		return err
	}
	tag := referrersTag(m.Subject.Digest)
	release, err := t.client.lockSubject(ctx, t.host+t.path+tag)
	if err != nil {
		return err
	}
	defer release()
	entry := image.Descriptor{
		MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(raw)), ArtifactType: artifactType(m), Annotations: m.Annotations,
	}
	return t.addReferrer(ctx, entry, tag)
}

// artifactType is what a descriptor of the manifest says it is (image-spec, "Descriptors").
func artifactType(m *image.Manifest) string {
	if m.ArtifactType == "" && m.Config != nil {
		return m.Config.MediaType
	}
	return m.ArtifactType
}

// knowsReferrers tells whether the registry has the referrers API.
func (t target) knowsReferrers(ctx context.Context, subject digest.Digest) (bool, error) {
	r := request{method: http.MethodGet, path: "referrers/" + subject.String(), accept: v1.MediaTypeImageIndex}
	deadline := t.client.deadline()
	err := retry(ctx, deadline, func() error {
		resp, err := t.send(ctx, r, deadline)
		if err != nil {
			return err
		}
		drain(resp)
		if mediaType(resp) != v1.MediaTypeImageIndex {
			return errNoIndex
		}
		return nil
	})
	if noReferrers(err) {
		return false, nil
	}
	return err == nil, err
}

// addReferrer puts an entry into the index under that tag, unless it is in there.
func (t target) addReferrer(ctx context.Context, entry image.Descriptor, tag string) error {
	raw, err := t.referrersIndex(ctx, tag)
	if err != nil {
		return err
	}
	raw, err = withReferrer(raw, entry)
	if raw == nil || err != nil {
		return err
	}
	index := image.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	_, err = t.store(ctx, index, raw, tag)
	return err
}

// referrersIndex reads the index under that tag, or makes the first one.
func (t target) referrersIndex(ctx context.Context, tag string) (raw []byte, err error) {
	deadline := t.client.deadline()
	err = retry(ctx, deadline, func() (err error) {
		_, raw, err = t.manifest(ctx, manifestRef{string: tag}, deadline)
		return err
	})
	if statusOf(err) == http.StatusNotFound {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[]}`, v1.MediaTypeImageIndex), nil
	}
	return raw, err
}

// withReferrer is the index with the entry added, all else as it was; nil if the entry is there.
func withReferrer(raw []byte, entry image.Descriptor) ([]byte, error) {
	index, err := image.ParseManifest(v1.MediaTypeImageIndex, raw)
	if err == nil && !index.IsIndex() {
		err = errors.New("not an index")
	}
	if err != nil {
		return nil, fmt.Errorf("what stands in for the list of referrers: %v: %w", err, image.ErrInvalid)
	}
	for _, m := range index.Manifests {
		if m.Digest == entry.Digest {
			return nil, nil
		}
	}
	var all map[string]json.RawMessage
	var manifests []json.RawMessage
	added, err := json.Marshal(entry)
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err == nil && all["manifests"] != nil {
		err = json.Unmarshal(all["manifests"], &manifests)
	}
	if err != nil {
		return nil, err
	}
	if all["manifests"], err = json.Marshal(append(manifests, added)); err != nil {
		return nil, err
	}
	raw, err = json.Marshal(all)
	if len(raw) > image.MaxManifest {
		return nil, fmt.Errorf("the list of referrers has no room for more than %d bytes: %w", image.MaxManifest, image.ErrTooLarge)
	}
	return raw, err
}

// subjectLock lets one at a time change the list of a subject's referrers.
type subjectLock struct {
	lock
	users int
}

// lockSubject waits for its turn, and returns what ends it.
func (c *Client) lockSubject(ctx context.Context, key string) (release func(), err error) {
	l := c.useSubject(key)
	if err := l.acquire(ctx); err != nil {
		c.leaveSubject(key, l)
		return nil, err
	}
	return func() {
		l.release()
		c.leaveSubject(key, l)
	}, nil
}

func (c *Client) useSubject(key string) *subjectLock {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.subjects[key]
	if l == nil {
		l = &subjectLock{lock: make(lock, 1)}
		c.subjects[key] = l
	}
	l.users++
	return l
}

func (c *Client) leaveSubject(key string, l *subjectLock) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(c.subjects, key)
	}
}
