// Package ostree keeps images in an OSTree repository, by the ostree program, under the branches of skopeo's ostree:. An image is
// ociimage/NAME, NAME being its full name with a tag, in which all but letters, digits, dots and dashes are written as _ and
// two hexadecimal digits: a commit of manifest.json. Each blob is ociimage/HEX, by the digest's hexadecimal: a commit of a file
// "content", as it is. skopeo, as long as it read ostree:, did so with configs, and reads layers like that as well; it wrote them
// unpacked, and those can't be read here.
//
// A branch is there when its commit is whole, and an image's comes last: who is killed leaves at most blobs that no image has.
package ostree

import (
	"context"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/files"
)

// Options say where what is written is kept on its way.
type Options struct {
	// TempDir is the folder for that; "" for the repository's own, from where nothing needs to be copied, and where ostree
	// removes after a day what somebody who was killed left.
	TempDir string
}

// Repo is the OSTree repository. It is safe for concurrent use, and several processes may use one.
type Repo struct {
	path    string
	program string
	temp    string
}

var _ image.Place = (*Repo)(nil)

// program is what all is done by.
const program = "ostree"

// Open opens an OSTree repository. ErrNotFound where there is none, ErrInvalid where it is another folder, ErrUnsupported without the
// ostree program.
func Open(path string, o Options) (*Repo, error) {
	r, err := open(path, o)
	if err != nil {
		return nil, files.Failed("open OSTree repository", "", path, err)
	}
	return r, nil
}

// Create opens an OSTree repository, and makes one, which needs no privileges (bare-user-only), where there is an empty folder, or
// none. Any other folder is refused.
func Create(path string, o Options) (*Repo, error) {
	if err := initialize(path); err != nil {
		return nil, files.Failed("create OSTree repository", "", path, err)
	}
	return Open(path, o)
}

func open(path string, o Options) (*Repo, error) {
	program, err := find()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	for _, name := range []string{"config", "objects", "refs"} {
		if _, err := os.Stat(filepath.Join(path, name)); err != nil {
			return nil, fmt.Errorf("it is no OSTree repository: it has no %s: %w", name, image.ErrInvalid)
		}
	}
	if o.TempDir == "" {
		o.TempDir = filepath.Join(path, "tmp")
	}
	// What begins with "-" is no option then.
	path, err = filepath.Abs(path)
	return &Repo{path, program, o.TempDir}, err
}

func find() (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("that needs the program %s, of the package ostree: %w: %w", program, err, image.ErrUnsupported)
	}
	return path, nil
}

func initialize(path string) error {
	program, err := find()
	if err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) > 0 {
		return err // and Open tells what it is
	}
	_, err = (&Repo{path, program, ""}).run(context.Background(), "init", "--mode=bare-user-only")
	return err
}

// Close implements image.Place.
func (r *Repo) Close() error { return nil }

func (r *Repo) failed(op, object string, err error) error {
	return files.Failed(op, object, "OSTree repository "+r.path, err)
}

// Hosts implements image.Place.
func (r *Repo) Hosts(ctx context.Context) iter.Seq2[string, error] {
	return r.sorted(ctx, "list the hosts", "", func(b branch) (string, bool) { return b.repository.Host, true })
}

// sorted lists what there is of all images, in order, behind "after".
func (r *Repo) sorted(ctx context.Context, op, after string, of func(branch) (string, bool)) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		all, err := r.branches(ctx)
		if err != nil {
			yield("", r.failed(op, "", err))
			return
		}
		var names []string
		for _, b := range all.images {
			if name, ok := of(b); ok && name > after {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			if !yield(name, nil) {
				return
			}
		}
	}
}

// Host implements image.Place. That of "" has the repository "", whose image is the only one that is there at all.
func (r *Repo) Host(name string) (image.Host, error) {
	if name != "" && !image.ValidHost(name) {
		return nil, r.failed("open host", name, fmt.Errorf("no host can have that name: %w", image.ErrInvalid))
	}
	return &host{r, name}, nil
}

type host struct {
	repo *Repo
	name string
}

// Repositories implements image.Host.
func (h *host) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return h.repo.sorted(ctx, "list the repositories", after, func(b branch) (string, bool) {
		return b.repository.Name, b.repository.Host == h.name
	})
}

// Source implements image.Host.
func (h *host) Source(ctx context.Context, repository string) (image.Source, error) {
	return h.open(ctx, repository)
}

// Sink implements image.Host.
func (h *host) Sink(ctx context.Context, repository string) (image.Sink, error) {
	s, err := h.open(ctx, repository)
	if err == nil && h.name == "" {
		err = h.repo.failed("write to", repository, fmt.Errorf("an image needs a full name here: %w", image.ErrUnsupported))
	}
	return s, err
}

func (h *host) open(ctx context.Context, repository string) (*images, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if h.name == "" && repository != "" || h.name != "" && !image.ValidRepository(repository) {
		return nil, h.repo.failed("open repository", repository, fmt.Errorf("no repository can have that name: %w", image.ErrInvalid))
	}
	return &images{h.repo, image.Repository{Host: h.name, Name: repository}}, nil
}

// Close implements image.Host.
func (h *host) Close() error { return nil }
