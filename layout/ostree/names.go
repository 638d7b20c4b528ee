package ostree

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// prefix is that of all branches.
const prefix = "ociimage/"

// branch is that of an image.
type branch struct {
	ref        string // as it is called, with the prefix
	repository image.Repository
	tag        string
}

// blobBranch is that of a blob. The digest must be valid.
func blobBranch(dgst digest.Digest) string { return prefix + dgst.Encoded() }

// imageBranch is that of an image by its full name.
func imageBranch(repository image.Repository, tag string) branch {
	return branch{prefix + encode(repository.String()+":"+tag), repository, tag}
}

// encode writes a name as a branch can have it.
func encode(name string) string {
	var b strings.Builder
	for i := range len(name) {
		if plain(name[i]) {
			b.WriteByte(name[i])
		} else {
			fmt.Fprintf(&b, "_%02X", name[i])
		}
	}
	return b.String()
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-'
}

// decode reads what encode wrote, and nothing else.
func decode(text string) (string, bool) {
	var b strings.Builder
	for rest := text; rest != ""; {
		if rest[0] != '_' {
			b.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		if len(rest) < 3 {
			return "", false
		}
		c, err := strconv.ParseUint(rest[1:3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		rest = rest[3:]
	}
	return b.String(), encode(b.String()) == text
}

// parseBranch reads the branch of an image. Others are not: blobs have no tag. Names may be as short as who wrote them had them.
func parseBranch(ref string) (branch, bool) {
	text, ok := strings.CutPrefix(ref, prefix)
	if !ok {
		return branch{}, false
	}
	name, ok := decode(text)
	if !ok || !strings.Contains(name, ":") || strings.Contains(name, "@") {
		return branch{}, false
	}
	r, err := image.ParseRef(string(image.OSTree) + ":" + name)
	if err != nil || r.Tag == "" {
		return branch{}, false
	}
	return branch{ref, r.Repository, r.Tag}, true
}

// branches are all branches that are an image's, or part of one.
type branches struct {
	images []branch
	blobs  map[string]bool // by branch
}

// parseBranches reads a list of them, one a line.
func parseBranches(text string) branches {
	all := branches{blobs: map[string]bool{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if b, ok := parseBranch(line); ok {
			all.images = append(all.images, b)
		} else {
			all.blobs[line] = true
		}
	}
	return all
}

// find is the branch of an image: the one of its full name goes first.
func (all branches) find(repository image.Repository, tag string) (branch, bool) {
	want := imageBranch(repository, tag)
	var found branch
	for _, b := range all.images {
		if b.repository == repository && b.tag == tag && (found.ref == "" || b.ref == want.ref) {
			found = b
		}
	}
	return found, found.ref != ""
}
