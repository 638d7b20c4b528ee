//go:build linux

package mount_test

import (
	"context"
	"path/filepath"
)

// staticImage is two programs as Go builds them without cgo, on top of nothing, in a layer each.
func staticImage(ctx context.Context, dir string) (layouts, error) {
	const script = `cp "$(command -v crane)" "$(command -v regctl)" "$1"
		cd "$1"
		for program in crane regctl; do tar --numeric-owner --owner=0 --group=0 -cf $program.tar $program; done`
	if err := shell(ctx, script, dir); err != nil {
		return layouts{}, err
	}
	return writeLayouts(ctx, dir,
		packed{tar: filepath.Join(dir, "crane.tar"), packing: gzipped},
		packed{tar: filepath.Join(dir, "regctl.tar"), packing: zstd})
}
