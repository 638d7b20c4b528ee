package image

import (
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's configs and layers.
const (
	MediaTypeDockerConfig       = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerLayerGzip    = mediaTypeSchema1Layer
	mediaTypeDockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	mediaTypeDockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar"
)

// The layers that the image-spec had for what must not be distributed; it advises against them, and images have them.
const mediaTypeNonDistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar"

// Compression is how a layer's tar is compressed, as its media type says it.
type Compression string

// The compressions that media types can say.
const (
	Uncompressed Compression = ""
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
)

// LayerType is what the media type of a layer says.
type LayerType struct {
	// Docker tells a media type of Docker's from one of the image-spec.
	Docker bool
	// Foreign tells layers that are not to be distributed.
	Foreign bool
	// Compression is that of the tar, before it was encrypted.
	Compression Compression
	// Encrypted tells layers that ocicrypt encrypted.
	Encrypted bool
}

// encrypted is what ocicrypt adds to the media type of a layer.
const encrypted = "+encrypted"

// ParseLayerType reads the media type of an image's layer. Any other media type, an artifact's, is none.
func ParseLayerType(mediaType string) (t LayerType, ok bool) {
	base, isEncrypted := strings.CutSuffix(mediaType, encrypted)
	for prefix, kind := range map[string]LayerType{
		v1.MediaTypeImageLayer: {}, mediaTypeNonDistributable: {Foreign: true},
		mediaTypeDockerLayer: {Docker: true}, mediaTypeDockerForeignLayer: {Docker: true, Foreign: true},
	} {
		suffix, found := strings.CutPrefix(base, prefix)
		c, known := compressions(kind.Docker)[suffix]
		if found && known {
			kind.Compression, kind.Encrypted = c, isEncrypted
			return kind, true
		}
	}
	return LayerType{}, false
}

// compressions are the ends of media types. Docker's engine can't read zstd, but there are layers that say it.
func compressions(docker bool) map[string]Compression {
	if docker {
		return map[string]Compression{"": Uncompressed, ".gzip": Gzip, ".zstd": Zstd}
	}
	return map[string]Compression{"": Uncompressed, "+gzip": Gzip, "+zstd": Zstd}
}

// String is the media type.
func (t LayerType) String() string {
	base, mark := v1.MediaTypeImageLayer, "+"
	switch {
	case t.Docker && t.Foreign:
		base = mediaTypeDockerForeignLayer
	case t.Docker:
		base = mediaTypeDockerLayer
	case t.Foreign:
		base = mediaTypeNonDistributable
	}
	if t.Docker {
		mark = "."
	}
	if t.Compression != Uncompressed {
		base += mark + string(t.Compression)
	}
	if t.Encrypted {
		base += encrypted
	}
	return base
}

// IsPlatform tells whether p is what filter asks for: the same operating system and architecture and, if filter names a
// variant, that one.
func IsPlatform(p, filter Platform) bool {
	return p.OS == filter.OS && p.Architecture == filter.Architecture && (filter.Variant == "" || normal(p) == normal(filter))
}
