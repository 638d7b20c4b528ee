package fs

import (
	"runtime"
	"syscall"
)

// gettid pins the goroutine to its thread for good, and says which that is.
func gettid() int {
	runtime.LockOSThread()
	return syscall.Gettid()
}
