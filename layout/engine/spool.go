package engine

import (
	"io"

	"github.com/regfs/regfs/image"
)

// spool writes an archive into a file without a name, and opens it.
func spool(dir string, body io.Reader) (image.Source, error) {
	return nil, image.ErrUnsupported
}
