package fuse

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Signals that don't ask a program to end: by default they are ignored or stop it, or, for the second group, by a program that
// has a handler for them.
var (
	harmless = mask(unix.SIGCHLD, unix.SIGURG, unix.SIGWINCH, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	handled  = mask(unix.SIGALRM, unix.SIGVTALRM, unix.SIGPROF, unix.SIGIO, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE)
)

func mask(signals ...unix.Signal) (set uint64) {
	for _, s := range signals {
		set |= 1 << (s - 1)
	}
	return set
}

// meantToEnd tells whether a thread has been sent a signal that is to end its program. One that can't be looked at has ended.
func meantToEnd(tid uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return true
	}
	return endedBy(status)
}

// endedBy reads the masks of proc(5)'s status.
func endedBy(status []byte) bool {
	sets := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil {
			sets[name] = set
		}
	}
	pending := (sets["SigPnd"] | sets["ShdPnd"]) &^ sets["SigBlk"] &^ sets["SigIgn"]
	return pending&^harmless&^(handled&sets["SigCgt"]) != 0
}
