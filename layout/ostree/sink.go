package ostree

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/disk"
	"github.com/regfs/regfs/layout/internal/files"
)

// Expect implements image.Sink. Schema 1 is what it can't hold: its digest is not that of its bytes.
func (s *images) Expect(ctx context.Context, d image.Descriptor, _ []byte) error {
	if err := acceptable(d); err != nil {
		return s.failed("write image", d.Digest.String(), err)
	}
	return ctx.Err()
}

// acceptable tells what no repository can hold.
func acceptable(d image.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%v: %w", err, image.ErrInvalid)
	}
	if image.IsSchema1(d.MediaType) {
		return fmt.Errorf("a Docker schema 1 image can't be held here: %w", image.ErrUnsupported)
	}
	if image.IsManifest(d.MediaType) && d.Size > image.MaxManifest {
		return fmt.Errorf("a manifest of %d bytes, more than %d: %w", d.Size, image.MaxManifest, image.ErrTooLarge)
	}
	return nil
}

// Push implements image.Sink. Manifests and blobs are kept alike.
func (s *images) Push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	how, err := s.push(ctx, d, content)
	if err != nil {
		return "", s.failed("push", d.Digest.String(), err)
	}
	return how, nil
}

func (s *images) push(ctx context.Context, d image.Descriptor, content image.Content) (image.How, error) {
	if err := acceptable(d); err != nil {
		return "", err
	}
	if found, err := s.stat(ctx, d.Digest); err == nil && (d.Size < 0 || d.Size == found.Size) {
		return image.Skipped, nil
	}
	how := image.Uploaded
	if content.Remote {
		how = image.Streamed
	}
	return how, s.commit(ctx, blobBranch(d.Digest), contentFile, nil, func(w io.Writer) error { return store(ctx, w, d, content) })
}

// store writes the content, if it is what it is said to be.
func store(ctx context.Context, w io.Writer, d image.Descriptor, content image.Content) error {
	r, err := content.Open(ctx, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	v, err := image.Verify(r, d)
	if err != nil {
		return err
	}
	var manifest bytes.Buffer
	if image.IsManifest(d.MediaType) {
		w = io.MultiWriter(w, &limited{&manifest, image.MaxManifest + 1})
	}
	const piece = 256 << 10
	if _, err := io.CopyBuffer(&counter{w, 0, content.Sent}, disk.Reader(ctx, v), make([]byte, piece)); err != nil || manifest.Len() == 0 {
		return err
	}
	_, err = image.ParseManifest(d.MediaType, manifest.Bytes())
	return err
}

// counter tells how many bytes were written.
type counter struct {
	w    io.Writer
	n    int64
	tell func(int64) // or nil
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if c.tell != nil {
		c.tell(c.n)
	}
	return n, err
}

// commit makes a branch a commit of one file, which fill writes, and of what is said of it.
func (s *images) commit(ctx context.Context, ref, name string, metadata []string, fill func(io.Writer) error) error {
	tree, err := os.MkdirTemp(s.repo.temp, "regfs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	size, err := writeFile(filepath.Join(tree, name), fill)
	if err != nil {
		return err
	}
	args := []string{
		"--branch=" + ref, "--tree=dir=" + tree, "--consume", "--parent=none", "--subject=", "--no-xattrs", "--canonical-permissions",
		"--owner-uid=0", "--owner-gid=0", fmt.Sprintf("--add-metadata-string=docker.size=%d", size),
	}
	for _, m := range metadata {
		args = append(args, "--add-metadata-string="+m)
	}
	return s.repo.alone(ctx, func() error {
		_, err := s.repo.run(ctx, "commit", args...)
		return err
	})
}

// patience is how long those who commit wait for each other.
const patience = 10 * time.Minute

// alone runs fn while no other writer of this package does: ostree 2022.7 looks at what other commits have on their way, to remove what
// was left there, and fails when one of these ends meanwhile.
func (r *Repo) alone(ctx context.Context, fn func() error) error {
	folder, err := os.Open(r.path)
	if err != nil {
		return err
	}
	return files.Locked(ctx, folder, patience, fn)
}

func writeFile(name string, fill func(io.Writer) error) (int64, error) {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if err := fill(file); err != nil {
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), file.Close()
}

// Tag implements image.Sink.
func (s *images) Tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if err := s.tag(ctx, d, raw, tag); err != nil {
		return s.failed("tag", tag, err)
	}
	return nil
}

func (s *images) tag(ctx context.Context, d image.Descriptor, raw []byte, tag string) error {
	if !image.ValidTag(tag) {
		return fmt.Errorf("no image can have that tag: %w", image.ErrInvalid)
	}
	content := image.Content{Open: func(context.Context, int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }}
	if err := store(ctx, io.Discard, d, content); err != nil {
		return err
	}
	all, err := s.repo.branches(ctx)
	if err == nil {
		err = all.needs(d.MediaType, raw)
	}
	if err == nil { // so that it is found by its digest
		_, err = s.push(ctx, d, content)
	}
	if err != nil {
		return err
	}
	b, ok := all.find(s.repository, tag)
	if !ok {
		b = imageBranch(s.repository, tag)
	}
	return s.commit(ctx, b.ref, manifestFile, metadata(d, raw), func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	})
}

// needs tells what an image has that is not there. An index can be copied without all that it lists.
func (all branches) needs(mediaType string, raw []byte) error {
	m, err := image.ParseManifest(mediaType, raw)
	if err != nil {
		return err
	}
	for _, child := range m.Children() {
		if !m.IsIndex() && len(child.URLs) == 0 && !all.blobs[blobBranch(child.Digest)] {
			return fmt.Errorf("%s is not there, which the image needs: push it before: %w", child.Digest, image.ErrRefused)
		}
	}
	return nil
}

// metadata is what skopeo looks for. A manifest that is no text, or longer than one argument of a program can be, is left out.
func metadata(d image.Descriptor, raw []byte) []string {
	const longest = 100 << 10
	all := []string{"docker.digest=" + d.Digest.String(), "signatures=0"}
	if text := string(raw); len(text) < longest && utf8.ValidString(text) && !strings.Contains(text, "\x00") {
		all = append(all, "docker.manifest="+text)
	}
	return all
}

// Delete implements image.Sink. A tag goes, and nothing else: what no image has any more stays. A manifest can't be deleted by its digest.
func (s *images) Delete(ctx context.Context, ref string) error {
	if err := s.delete(ctx, ref); err != nil {
		return s.failed("delete", ref, err)
	}
	return nil
}

func (s *images) delete(ctx context.Context, ref string) error {
	if digest.Digest(ref).Validate() == nil {
		return fmt.Errorf("images are deleted by their tags only: %w", image.ErrUnsupported)
	}
	all, err := s.repo.branches(ctx)
	if err != nil {
		return err
	}
	b, err := s.named(all, ref)
	if err != nil {
		return err
	}
	_, err = s.repo.run(ctx, "refs", "--delete", b.ref)
	return err
}
