// Package dir is the folder of skopeo's dir: as a place to read an image from and to write one to. It has one image: manifest.json,
// which is a manifest or an index, a file for each blob and, below an index, for each manifest, named by their digests, and
// signatures.
//
// Nothing but what is inside the folder is ever read or written. An image is replaced in one step, the renaming of manifest.json:
// a writer that is killed before has left the old image whole, and the new one's blobs beside it; only what the old image alone had is
// removed after it. A folder without manifest.json has no image yet, and says so. Several processes may write to one folder, and
// replace its image one after the other (flock(2) on the folder); one whose blobs were removed meanwhile is told to copy again.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/disk"
	"github.com/regfs/regfs/layout/internal/files"
)

// Dir is the folder. It is safe for concurrent use.
type Dir struct {
	folder *disk.Folder
}

var (
	_ image.Source = (*Dir)(nil)
	_ image.Sink   = (*Dir)(nil)
)

// Open opens a folder that is there. ErrNotFound where there is none, ErrInvalid where it holds no image and is not meant to,
// ErrUnsupported where its version is one that is not known.
func Open(path string) (*Dir, error) {
	folder, err := disk.OpenFolder(path)
	x := &Dir{folder}
	if err == nil {
		err = x.check()
	}
	return x.opened(err)
}

// Create opens a folder, and makes it where there is an empty one, or none. One with anything in it but an image is refused.
func Create(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, files.Failed("create image folder", "", path, err)
	}
	folder, err := disk.OpenFolder(path)
	x := &Dir{folder}
	if err == nil {
		err = folder.Locked(context.Background(), x.fill)
	}
	return x.opened(err)
}

// opened is x, or the reason why it is of no use.
func (x *Dir) opened(err error) (*Dir, error) {
	if err == nil {
		return x, nil
	}
	x.folder.Close()
	return nil, files.Failed("open image folder", "", x.folder.Path, err)
}

// Close closes the folder. What is being read stays readable.
func (x *Dir) Close() error { return x.folder.Close() }

func (x *Dir) failed(op, object string, err error) error {
	return files.Failed(op, object, "image folder "+x.folder.Path, err)
}

// check tells what keeps the folder from being one of an image. The first ones that skopeo wrote had no version.
func (x *Dir) check() error {
	v, err := x.version()
	if err != nil || v != (version{}) {
		return err
	}
	has, err := x.folder.Has(manifestFile)
	if err == nil && !has {
		err = fmt.Errorf("it has neither %q nor %q: %w", versionFile, manifestFile, image.ErrInvalid)
	}
	return err
}

// fill makes an empty folder one of an image that is to come.
func (x *Dir) fill() error {
	v, err := x.version()
	if err != nil || v != (version{}) {
		return err
	}
	err = x.folder.Each(func(e fs.DirEntry) error {
		return fmt.Errorf("it is not empty, and no image's: it has %s and no %q, so nothing is overwritten: %w",
			files.Clean(e.Name()), versionFile, image.ErrInvalid)
	})
	if err != nil {
		return err
	}
	return x.folder.Replace(versionFile, []byte(version1_1.String()))
}

// versionFile says that the folder is one of an image, and how its files are named.
const versionFile = "version"

// version is that of how the files are named.
type version struct{ major, minor int }

var (
	version1_1 = version{1, 1}
	version1_2 = version{1, 2} // the same, and there are digests of other algorithms than SHA-256
)

// maxVersionFile is the longest version that is read, in bytes.
const maxVersionFile = 100

// version reads the folder's, which is zero where there is none.
func (x *Dir) version() (version, error) {
	raw, err := x.folder.ReadFile(versionFile, maxVersionFile)
	if errors.Is(err, fs.ErrNotExist) {
		return version{}, nil
	}
	if err != nil {
		return version{}, err
	}
	return parseVersion(string(raw))
}

func (v version) String() string {
	return fmt.Sprintf("Directory Transport Version: %d.%d\n", v.major, v.minor)
}

// parseVersion reads the content of a version file. One that was never written is ErrInvalid, a later one ErrUnsupported.
func parseVersion(text string) (version, error) {
	var v version
	_, err := fmt.Sscanf(text, "Directory Transport Version: %d.%d\n", &v.major, &v.minor)
	if err != nil || text != v.String() || v.major < 1 || v.minor < 0 {
		return version{}, fmt.Errorf("%s is %s, and not %q: %w", versionFile, files.Clean(text), version1_1, image.ErrInvalid)
	}
	if v.major > version1_2.major || v.minor > version1_2.minor {
		return version{}, fmt.Errorf("it is of version %d.%d, and only those up to 1.2 are known: %w", v.major, v.minor, image.ErrUnsupported)
	}
	return v, nil
}
