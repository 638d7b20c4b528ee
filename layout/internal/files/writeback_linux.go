package files

import (
	"os"

	"golang.org/x/sys/unix"
)

// writeBack has the disk begin with what was written, so that the sync in the end does not have to wait for all of it.
func writeBack(file *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(file.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE) // it is a hint
}
