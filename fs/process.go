package fs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
)

type callerKey struct{}

// caller is who asks. What /proc tells of it is read once for each request.
type caller struct {
	tid         uint32
	who, parent func() process
}

// WithCaller tells the operations below ctx which thread asked for them, by its number in the daemon's pid namespace.
func WithCaller(ctx context.Context, tid uint32) context.Context {
	who := sync.OnceValue(func() process { return processOf(tid) })
	parent := sync.OnceValue(func() process { return parentOfProcess(who()) })
	return context.WithValue(ctx, callerKey{}, &caller{tid, who, parent})
}

// tidOf is the thread that asks, 0 where that is not known.
func tidOf(ctx context.Context) uint32 {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c.tid
	}
	return 0
}

// callerOf is the process that asks, and parentOf the one that started it.
func callerOf(ctx context.Context) process {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c.who()
	}
	return processOf(0)
}

func parentOf(ctx context.Context) process {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c.parent()
	}
	return process{}
}

// process is one run of a program: its number, and when it started, since numbers are used again.
type process struct {
	pid   string
	start string
}

// isNobody tells that the kernel could not say who asks: it has no number in the daemon's pid namespace.
func (p process) isNobody() bool { return p.pid == "0" }

// processOf finds the process that a thread belongs to. Where /proc does not tell, the thread stands for it: what it is then
// shown is still one version, but its threads may differ.
func processOf(tid uint32) process {
	pid := fmt.Sprint(tid)
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return process{pid: pid}
	}
	if _, rest, ok := bytes.Cut(status, []byte("\nTgid:\t")); ok {
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		pid = string(line)
	}
	return process{pid, startTime(pid)}
}

// startTime is field 22 of proc(5)'s stat. The second field, the program's name, may hold spaces and parentheses itself.
func startTime(pid string) string {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}
