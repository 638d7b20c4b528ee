//go:build freebsd || darwin

package fuse

// mountFlags leaves all options to the mount program.
func mountFlags(options []string) (flags uintptr, rest []string) { return 0, options }
