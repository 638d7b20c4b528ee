// Package plain shows images whose layers a place has only as plain tars, as a containers-storage does: each with a manifest that names
// the layers as they are there.
package plain

import "github.com/regfs/regfs/image"

// MediaType is what a layer of a media type is when it is no longer compressed: Docker's remain Docker's.
func MediaType(mediaType string) string {
	t, _ := image.ParseLayerType(mediaType)
	return image.LayerType{Docker: t.Docker}.String()
}

// IsLayer tells whether content of a media type is a tar, compressed or not, that a file system is made of.
func IsLayer(mediaType string) bool {
	t, ok := image.ParseLayerType(mediaType)
	return ok && !t.Encrypted
}
