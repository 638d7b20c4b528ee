package image

import (
	"net"
	"regexp"
	"strconv"

	"github.com/opencontainers/go-digest"
)

// The grammars of the distribution-spec ("Pulling manifests"), and of host names as image names have them. A host needs a dot
// or a port, or to be localhost, to be told from the first component of a repository.
var (
	component = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
	names     = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName   = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	hostName  = regexp.MustCompile(`^(localhost|(localhost|[a-zA-Z0-9]+(-+[a-zA-Z0-9]+)*|\[[0-9a-fA-F:]+\]):[0-9]{1,5}|` +
		`[a-zA-Z0-9]+(-+[a-zA-Z0-9]+)*(\.[a-zA-Z0-9]+(-+[a-zA-Z0-9]+)*)+(:[0-9]{1,5})?)$`)
	layoutName = regexp.MustCompile(`^[A-Za-z0-9]+(([-._:@+]|--)[A-Za-z0-9]+)*(/[A-Za-z0-9]+(([-._:@+]|--)[A-Za-z0-9]+)*)*$`)
)

// maxName is the longest host and repository that clients and registries agree to take, in bytes.
const maxName = 255

// ValidHost tells whether a registry could go by this name: host or host:port.
func ValidHost(name string) bool {
	if len(name) > maxName || !hostName.MatchString(name) {
		return false
	}
	_, port, err := net.SplitHostPort(name)
	if err != nil {
		return true // there is none
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// ValidRepository tells whether a registry could have a repository of this name.
func ValidRepository(name string) bool { return len(name) <= maxName && names.MatchString(name) }

// ValidComponent tells whether a repository's name could have this component.
func ValidComponent(name string) bool { return len(name) <= maxName && component.MatchString(name) }

// ValidTag tells whether a repository could have this tag.
func ValidTag(name string) bool { return tagName.MatchString(name) }

// maxLayoutName is longer than any full name of an image, in bytes.
const maxLayoutName = 1024

// ValidLayoutName tells whether an image in a layout may go by this name: one of the image-spec (annotations.md,
// org.opencontainers.image.ref.name), or a tag that a registry could have. A digest names one already.
func ValidLayoutName(name string) bool {
	return len(name) <= maxLayoutName && (ValidTag(name) || layoutName.MatchString(name)) && digest.Digest(name).Validate() != nil
}
