package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/tests/daemon"
)

// sample is what doing a thing once took.
type sample struct {
	wall time.Duration
	// cpu is that of the client and, with regfs, of the daemon; registry is that of the registry.
	cpu, registry time.Duration
}

// measure runs a command and, if it reads a mount, counts what its daemon spends.
func (b *bench) measure(d *daemon.Daemon, cmd *exec.Cmd) sample {
	var errors strings.Builder
	cmd.Stderr = &errors
	served, asked := time.Duration(0), b.cpu(b.registry.PID)+b.cpu(b.other.PID)
	if d != nil {
		served = b.cpu(d.PID)
	}
	b.touchMemory()
	begin := time.Now()
	err := cmd.Run()
	s := sample{wall: time.Since(begin)}
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", cmd, err, errors.String())
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if d != nil {
		s.cpu += b.cpu(d.PID) - served
	}
	s.registry = b.cpu(b.registry.PID) + b.cpu(b.other.PID) - asked
	return s
}

// touchMemory has the machine have all the memory that a run will use. A hypervisor takes back what is free, and gives it again page
// by page as it is touched: who writes to the page cache first after a pause would pay for that, several times what the writing costs.
func (b *bench) touchMemory() {
	p, err := unix.Mmap(-1, 0, int(3*b.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		b.t.Fatalf("mmap: %v", err)
	}
	for i := 0; i < len(p); i += os.Getpagesize() {
		p[i] = 1
	}
	if err := unix.Munmap(p); err != nil {
		b.t.Fatalf("munmap: %v", err)
	}
}

// cpu is the time a process has had so far, user and system, in ticks of 10 ms.
func (b *bench) cpu(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	// The fields are counted after the name, which may hold anything: user and system time are 14 and 15 of all (proc(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		b.t.Fatalf("/proc/%d/stat: %v, %v", pid, err1, err2)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// mount mounts with a cache in the folder given.
func (b *bench) mount(cacheDir string) *daemon.Daemon { return daemon.Mount(b.t, b.program, cacheDir) }

// unmount ends a mount, and remembers the most memory it had.
func (b *bench) unmount(d *daemon.Daemon) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.PID))
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	_, hwm, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(hwm + " none")[0], 10, 64)
	if err != nil {
		b.t.Fatalf("/proc/%d/status: %v", d.PID, err)
	}
	b.peak = max(b.peak, kib<<10)
	if err := d.Unmount(); err != nil {
		b.t.Fatalf("%v", err)
	}
}

// scratch hands a new folder to fn and removes it afterwards, and then waits until nothing is left to be written to the disk,
// so that no run pays for the one before.
func (b *bench) scratch(fn func(dir string) sample) sample {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			b.t.Fatalf("%v", err)
		}
		b.must(exec.CommandContext(b.t.Context(), "sync"))
	}()
	return fn(dir)
}
