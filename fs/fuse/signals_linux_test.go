package fuse

import (
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEndedBy: which pending signals end a program, by what it does about them.
func TestEndedBy(t *testing.T) {
	for _, test := range []struct {
		what                                       string
		thread, process, blocked, ignored, handled []syscall.Signal
		ends                                       bool
	}{
		{what: "nothing pending"},
		{what: "Ctrl-C", process: []syscall.Signal{unix.SIGINT}, ends: true},
		{what: "Ctrl-C that is handled", thread: []syscall.Signal{unix.SIGINT}, handled: []syscall.Signal{unix.SIGINT}, ends: true},
		{what: "Ctrl-C that is ignored", process: []syscall.Signal{unix.SIGINT}, ignored: []syscall.Signal{unix.SIGINT}},
		{what: "Ctrl-C that is blocked", process: []syscall.Signal{unix.SIGINT}, blocked: []syscall.Signal{unix.SIGINT}},
		{what: "kill -9", process: []syscall.Signal{unix.SIGKILL}, ends: true},
		{what: "Go's scheduler", thread: []syscall.Signal{unix.SIGURG}, handled: []syscall.Signal{unix.SIGURG}},
		{what: "a child's end", process: []syscall.Signal{unix.SIGCHLD}},
		{what: "a window's size", process: []syscall.Signal{unix.SIGWINCH}, handled: []syscall.Signal{unix.SIGWINCH}},
		{what: "Ctrl-Z", process: []syscall.Signal{unix.SIGTSTP}},
		{what: "an alarm", process: []syscall.Signal{unix.SIGALRM}, ends: true},
		{what: "an alarm that is handled", process: []syscall.Signal{unix.SIGALRM}, handled: []syscall.Signal{unix.SIGALRM}},
		{what: "Go's scheduler and Ctrl-C", thread: []syscall.Signal{unix.SIGURG}, process: []syscall.Signal{unix.SIGINT}, ends: true},
	} {
		status := fmt.Sprintf("Name:\tcp\nSigQ:\t0/95000\nSigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t%016x\nSigIgn:\t%016x\nSigCgt:\t%016x\n",
			mask(test.thread...), mask(test.process...), mask(test.blocked...), mask(test.ignored...), mask(test.handled...))
		if got := endedBy([]byte(status)); got != test.ends {
			t.Errorf("%s: %v", test.what, got)
		}
	}
	if !meantToEnd(0) {
		t.Error("a thread that is not there has not ended")
	}
	if meantToEnd(uint32(unix.Gettid())) {
		t.Error("this test has ended")
	}
}
