// Package plain shows images whose layers a place has only as plain tars, as a containers-storage does: each with a manifest that names
// the layers as they are there.
package plain

import (
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of Docker's layers begin with these.
const (
	dockerLayer   = "application/vnd.docker.image.rootfs.diff.tar"
	dockerForeign = "application/vnd.docker.image.rootfs.foreign.diff.tar"
)

// nonDistributable begins the media types of layers that the image-spec had for those that may not be pushed.
const nonDistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar"

// MediaType is what a layer of a media type is when it is no longer compressed: Docker's remain Docker's.
func MediaType(mediaType string) string {
	if strings.HasPrefix(mediaType, "application/vnd.docker.") {
		return dockerLayer
	}
	return v1.MediaTypeImageLayer
}

// IsLayer tells whether content of a media type is a tar, compressed or not, that a file system is made of.
func IsLayer(mediaType string) bool {
	for _, base := range []string{v1.MediaTypeImageLayer, nonDistributable, dockerLayer, dockerForeign} {
		if rest, ok := strings.CutPrefix(mediaType, base); ok {
			return slices.Contains([]string{"", "+gzip", "+zstd", ".gzip", ".zstd"}, rest)
		}
	}
	return false
}
