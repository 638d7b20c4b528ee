//go:build freebsd || darwin

package fuse

// meantToEnd believes every interrupt: there is no telling which signal it was for.
func meantToEnd(uint32) bool { return true }
