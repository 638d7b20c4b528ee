package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// machine tells what the numbers were measured on, and with which programs.
func (b *bench) machine() string {
	var text strings.Builder
	fmt.Fprintf(&text, "Machine: %d × %s, %s of memory, %s, Linux %s, data on %s, as %s.\n\n", runtime.NumCPU(), procField("cpuinfo", "model name"),
		memory(), osName(), b.says("uname", "-r"), b.filesystem(), b.says("id", "-un"))
	fmt.Fprintf(&text, "Versions: %s; crane %s; %s; regctl %s; %s; %s; %s.\n", b.says(b.program, "version"),
		b.says("crane", "version"), b.says("skopeo", "--version"), b.says("regctl", "version", "--format", "{{.VCSTag}}"),
		b.says("docker-registry", "--version"), runtime.Version(), b.says("cp", "--version"))
	return text.String()
}

// says is the first line that a command prints.
func (b *bench) says(name string, args ...string) string {
	out, err := b.command(name, args...).Output()
	if err != nil {
		b.t.Fatalf("%s: %v", name, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

func (b *bench) filesystem() string {
	return b.says("stat", "-f", "-c", "%T", b.local)
}

// procField is the first value of a field in a file of /proc, or "" if there is none.
func procField(file, field string) string {
	raw, err := os.ReadFile("/proc/" + file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == field {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func memory() string { return procField("meminfo", "MemTotal") }

func osName() string {
	raw, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	_, name, _ := strings.Cut(string(raw), `PRETTY_NAME="`)
	name, _, _ = strings.Cut(name, `"`)
	return name
}
