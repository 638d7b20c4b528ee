//go:build !linux

package files

import "os"

func writeBack(*os.File, int64, int64) {}
