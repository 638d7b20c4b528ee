package layer

import (
	"errors"
	"strings"
)

// What a file system can hold, at the most: the length of a name and of a path in bytes, as Linux has them, and the files of a layer.
const (
	maxName    = 255
	maxPath    = 4095
	maxEntries = 1 << 22
	maxLinks   = 1 << 20
	// maxVersions is how many entries an archive may have for one path.
	maxVersions = 1000
	// maxXattrs is how much all extended attributes of a file may take, in bytes.
	maxXattrs = 64 << 10
)

// errTooMuch is an archive that would take too much memory or disk to understand.
var errTooMuch = errors.New("too much")

var (
	errDotDot   = errors.New("a name with a .. in it")
	errLongName = errors.New("a name that is too long")
	errNul      = errors.New("a name with a NUL")
)

// cleanPath makes an entry's name a path relative to the root, "" being the root itself: "./a//b/" and "/a/b" are "a/b". A name
// that leads out of the tree has none, nor one that no file system can hold.
func cleanPath(name string) (string, error) {
	if strings.Contains(name, "\x00") {
		return "", errNul
	}
	if short := strings.TrimSuffix(name, "/"); isClean(short) {
		return short, nil
	}
	parts := strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
	kept := parts[:0]
	for _, part := range parts {
		switch {
		case part == ".":
		case part == "..":
			return "", errDotDot
		case len(part) > maxName:
			return "", errLongName
		default:
			kept = append(kept, part)
		}
	}
	path := strings.Join(kept, "/")
	if len(path) > maxPath {
		return "", errLongName
	}
	return path, nil
}

// isClean tells of most names that nothing has to be done to them. It spares the time that an archive of many files takes.
func isClean(name string) bool {
	start := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if i == start || i-start > maxName || name[start] == '.' {
			return false
		}
		start = i + 1
	}
	return len(name) <= maxPath
}
