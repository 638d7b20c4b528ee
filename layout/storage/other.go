//go:build !linux || (cgo && !exclude_graphdriver_btrfs)

package storage

import (
	"context"
	"fmt"

	"github.com/regfs/regfs/image"
)

// Store can't be had in this build.
type Store struct{ image.Place }

// Init has nothing to do in this build.
func Init() bool { return false }

// Open is ErrUnsupported in this build.
func Open(_ context.Context, spec string) (*Store, error) { return nil, unsupported(spec) }

// Create is ErrUnsupported in this build.
func Create(_ context.Context, spec string) (*Store, error) { return nil, unsupported(spec) }

func unsupported(spec string) error {
	return fmt.Errorf("open containers-storage:[%s]: this regfs was built without it: it needs Linux, and CGO_ENABLED=0 or the tag "+
		"exclude_graphdriver_btrfs: %w", spec, image.ErrUnsupported)
}
