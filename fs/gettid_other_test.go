//go:build !linux

package fs

import "os"

// gettid is the process where threads can't be told apart.
func gettid() int { return os.Getpid() }
