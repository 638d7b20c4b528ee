package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/regfs/regfs/image"
)

// encrypted is how the media types of encrypted layers end.
const encrypted = "+encrypted"

// IsLayer tells whether blobs of a media type are file system layers: those of the image-spec and of Docker, and encrypted ones
// too. Schema 1 images say nothing of their layers' media type; that they are layers is known without.
func IsLayer(mediaType string) bool {
	switch base := strings.TrimSuffix(mediaType, encrypted); base {
	case "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd",
		"application/vnd.docker.image.rootfs.foreign.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return true
	default:
		base, _, _ = strings.Cut(base, "+")
		return base == "application/vnd.oci.image.layer.v1.tar" || base == "application/vnd.oci.image.layer.nondistributable.v1.tar"
	}
}

// indexName is what the index of a layer is kept under. It needs no valid digest, and is made often. An index that is made of a table
// of contents is as true as what the manifest says of the table, and another one than that of the blob.
func indexName(d image.Descriptor) string {
	algorithm, hash, _ := strings.Cut(string(d.Digest), ":")
	name := algorithm + "-" + hash + "-" + strconv.Itoa(indexVersion)
	if v, ok := vouched(d.Annotations); ok {
		sum := sha256.Sum256([]byte(strconv.Itoa(int(v.kind)) + strconv.Quote(v.checksum) + strconv.Quote(v.position)))
		name += "-" + hex.EncodeToString(sum[:])
	}
	return name
}
