package layer

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// What layers call the files that say what is removed (image-spec, layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

// isReserved tells names that no file of a root filesystem can have.
func isReserved(name string) bool { return strings.HasPrefix(name, whiteoutPrefix) }

// removes is the name that a whiteout removes. Names that begin with ".wh..wh." are what aufs keeps for itself, and what would
// remove the folder it is in, or the one above, removes nothing.
func removes(whiteout string) (name string, ok bool) {
	name, ok = strings.CutPrefix(whiteout, whiteoutPrefix)
	return name, ok && name != "" && name != "." && name != ".." && !isReserved(name)
}

func isDir(typ uint32) bool { return typ == unix.S_IFDIR }

// isForeign tells hard links to files that the layer does not have.
func isForeign(typ uint32) bool { return typ == 0 }

// has tells whether a folder has a name.
func has(f files, dir inode, name string) (bool, error) {
	_, err := f.lookup(dir, name)
	if errors.Is(err, image.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
