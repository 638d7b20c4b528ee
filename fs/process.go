package fs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
)

type callerKey struct{}

// WithCaller tells the operations below ctx which thread asked for them, by its number in the daemon's pid namespace.
func WithCaller(ctx context.Context, tid uint32) context.Context {
	return context.WithValue(ctx, callerKey{}, tid)
}

// process is one run of a program: its number, and when it started, since numbers are used again.
type process struct {
	pid   string
	start string
}

// isNobody tells that the kernel could not say who asks: it has no number in the daemon's pid namespace.
func (p process) isNobody() bool { return p.pid == "0" }

// callerOf finds the process that a thread belongs to. Where /proc does not tell, the thread stands for it: what it is then
// shown is still one version, but its threads may differ.
func callerOf(ctx context.Context) process {
	tid, _ := ctx.Value(callerKey{}).(uint32)
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
