package fuse

import "syscall"

// mountFlags turns options that mount(2) takes as flags into them, as mount(8) and fusermount3 do, and returns the rest.
func mountFlags(options []string) (flags uintptr, rest []string) {
	set := map[string]uintptr{
		"ro": syscall.MS_RDONLY, "nosuid": syscall.MS_NOSUID, "nodev": syscall.MS_NODEV, "noexec": syscall.MS_NOEXEC,
		"noatime": syscall.MS_NOATIME, "nodiratime": syscall.MS_NODIRATIME, "relatime": syscall.MS_RELATIME,
		"sync": syscall.MS_SYNCHRONOUS, "dirsync": syscall.MS_DIRSYNC,
	}
	clear := map[string]uintptr{
		"rw": syscall.MS_RDONLY, "suid": syscall.MS_NOSUID, "dev": syscall.MS_NODEV, "exec": syscall.MS_NOEXEC,
		"atime": syscall.MS_NOATIME, "diratime": syscall.MS_NODIRATIME, "norelatime": syscall.MS_RELATIME,
		"async": syscall.MS_SYNCHRONOUS, "defaults": 0,
	}
	flags = syscall.MS_NOSUID | syscall.MS_NODEV
	for _, o := range options {
		on, isSet := set[o]
		off, isClear := clear[o]
		flags = flags&^off | on
		if !isSet && !isClear {
			rest = append(rest, o)
		}
	}
	if flags == 0 { // go-fuse would take its own instead; this the kernel takes for 0
		flags = syscall.MS_MGC_VAL
	}
	return flags, rest
}
