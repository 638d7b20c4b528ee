package registry

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/regfs/regfs/image"
)

// sink is a repository to write to, by the name users give it. It asks the registry itself, and no mirror, not even whether
// something is there.
type sink struct{ source *source }

// Close does nothing: connections are the Client's.
func (s *sink) Close() error { return nil }

func (s *sink) name() string { return s.source.name() }

// target is where the repository is written, with more actions than pull to be allowed.
func (s *sink) target(actions string) (target, error) {
	t, err := s.source.primary()
	t.scope += actions
	return t, err
}

// primary is the registry itself, as registries.conf names it.
func (s *source) primary() (target, error) {
	targets, err := s.route("")
	if err != nil {
		return target{}, err
	}
	i := slices.IndexFunc(targets, func(t target) bool { return t.primary })
	return targets[i], nil
}

// What a token must allow beside pulling.
const (
	push   = ",push"
	remove = ",push,delete"
)

// Push stores a manifest with one PUT, and a blob with as few requests as it takes.
func (s *sink) Push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	kind, store := "blob", s.pushBlob
	if image.IsManifest(d.MediaType) {
		kind, store = "manifest", s.pushManifest
	}
	what := "push " + kind + " " + s.name() + "@" + clean(d.Digest.String())
	if d.Digest.Validate() != nil {
		return "", &failure{what: what, words: "not a digest", kinds: []error{image.ErrInvalid}}
	}
	t, err := s.target(push)
	if err != nil {
		return "", fail(ctx, what, err)
	}
	how, err := store(ctx, t, d, content)
	if err != nil {
		return "", fail(ctx, what, err)
	}
	if how == image.Uploaded && content.Remote {
		how = image.Streamed
	}
	return how, nil
}

// pushBlob mounts the blob where another repository of the registry has it: that does no harm where it is there already, and
// saves asking. Otherwise it is sent, unless it is there.
func (s *sink) pushBlob(ctx context.Context, t target, d image.Descriptor, content image.Content) (image.How, error) {
	u := &upload{
		target: t, ctx: ctx, d: d, content: content, from: s.origin(t, content.Origins), pieces: t.client.pieces,
		patience: newPatience(t.client.deadline()), size: d.Size, how: image.Uploaded, fed: -1,
		digest: newDigester(d, content),
	}
	u.asked = u.from != ""
	err := u.run()
	return u.how, err
}

// origin is the first of the repositories that is another one of the same registry, by its name there; "" if none is.
func (s *sink) origin(t target, origins []image.Repository) string {
	for _, o := range origins {
		from, err := (&source{client: s.source.client, host: o.Host, repository: o.Name}).primary()
		if err == nil && from.endpoint == t.endpoint && from.path != t.path {
			return from.repository()
		}
	}
	return ""
}

// pushManifest puts a manifest that is not there, or that was put there and could not be made a referrer.
func (s *sink) pushManifest(ctx context.Context, t target, d image.Descriptor, content image.Content) (image.How, error) {
	if !t.owes(d.Digest) {
		there, err := t.exists(ctx, manifestRef{d.Digest.String(), d.Digest}, t.client.deadline())
		if err != nil {
			return "", err
		}
		if there {
			return image.Skipped, nil
		}
	}
	raw, err := readManifest(ctx, d, content)
	if err != nil {
		return "", err
	}
	d.Size = int64(len(raw))
	err = t.put(ctx, d, raw, d.Digest.String())
	if err == nil && content.Sent != nil {
		content.Sent(d.Size)
	}
	return image.Uploaded, err
}

// readManifest reads a manifest that is to be pushed, and makes sure of it.
func readManifest(ctx context.Context, d image.Descriptor, content image.Content) ([]byte, error) {
	if d.Size > image.MaxManifest {
		return nil, fmt.Errorf("a manifest of %d bytes, more than %d: %w", d.Size, image.MaxManifest, image.ErrTooLarge)
	}
	r, err := content.Open(ctx, 0)
	if err != nil {
		return nil, &contentError{err}
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, image.MaxManifest+1))
	if err != nil {
		return nil, &contentError{err}
	}
	if len(raw) > image.MaxManifest {
		return nil, fmt.Errorf("a manifest of more than %d bytes: %w", image.MaxManifest, image.ErrTooLarge)
	}
	return raw, matches(d, raw)
}

// matches makes sure that a manifest is the one described.
func matches(d image.Descriptor, raw []byte) error {
	if d.Size >= 0 && d.Size != int64(len(raw)) {
		return fmt.Errorf("the manifest has %d bytes instead of %d: %w", len(raw), d.Size, image.ErrDigest)
	}
	_, err := checkManifest(d.Digest, d.MediaType, raw)
	return err
}

// Expect asks nothing: what a registry does not take it says when it gets it.
func (s *sink) Expect(ctx context.Context, _ image.Descriptor, _ []byte) error { return ctx.Err() }

// Tag puts the manifest under the tag with one PUT.
func (s *sink) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	what := "tag " + s.name() + ":" + clean(tag)
	if err := checkTag(d, raw, tag); err != nil {
		return fail(ctx, what, err)
	}
	t, err := s.target(push)
	if err == nil {
		err = t.put(ctx, d, raw, tag)
	}
	if err != nil {
		return fail(ctx, what, err)
	}
	return nil
}

func checkTag(d image.Descriptor, raw []byte, tag string) error {
	switch {
	case !image.ValidTag(tag):
		return fmt.Errorf("no registry takes such a tag: %w", image.ErrRefused)
	case d.MediaType == "" || d.Digest.Validate() != nil:
		return fmt.Errorf("a manifest without media type or digest: %w", image.ErrInvalid)
	case len(raw) > image.MaxManifest:
		return fmt.Errorf("a manifest of %d bytes, more than %d: %w", len(raw), image.MaxManifest, image.ErrTooLarge)
	}
	return matches(d, raw)
}
