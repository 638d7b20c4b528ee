//go:build linux

// Package mount_test uses mounted registries as people do: through the kernel, with the programs they have.
package mount_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regfs/regfs/tests/mounted"
)

// read reads a file of a mount whole, in a process of its own: this one's pins are not to matter.
func read(t *testing.T, m *mounted.Mount, elem ...string) string {
	t.Helper()
	return run(t, "cat", m.At(elem...))
}

// list is what ls prints of a folder, one line each.
func list(t *testing.T, m *mounted.Mount, elem ...string) []string {
	t.Helper()
	return strings.Fields(run(t, "ls", m.At(elem...)))
}

// run runs a program that has to succeed, and returns its standard output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, stderr, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr)
	}
	return out
}

// try runs a program.
func try(t *testing.T, name string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// sha256Of is the digest of a file, as sha256sum sees it.
func sha256Of(t *testing.T, path string) string {
	t.Helper()
	sum, _, _ := strings.Cut(run(t, "sha256sum", path), " ")
	return "sha256:" + strings.TrimPrefix(sum, `\`)
}

// sorted is names in order.
func sorted(names []string) []string {
	slices.Sort(names)
	return names
}
