//go:build linux

// Package docs_test runs the examples of the project's documents, and holds what they print against what the documents say.
package docs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.podman.io/image/v5/types"

	"github.com/regfs/regfs/fs"
	"github.com/regfs/regfs/layout/oci"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// standIn is the registry's name in the documents.
const standIn = "registry.example.com"

func TestSemantics(t *testing.T) { runExamples(t, "../../SEMANTICS.md") }

func TestReadme(t *testing.T) { runExamples(t, "../../README.md") }

// example is one console block: commands, each with what it prints.
type example struct {
	line  int
	steps []step
}

type step struct {
	command string
	want    string
}

// examples finds the blocks of a document that are marked console.
func examples(t *testing.T, path string) []example {
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []example
	inside := false
	n := 0
	for line := range strings.Lines(string(raw)) {
		n++
		switch {
		case line == "```console\n":
			inside = true
			all = append(all, example{line: n})
		case strings.HasPrefix(line, "```"):
			inside = false
		case inside:
			all[len(all)-1].add(line)
		}
	}
	return all
}

func (e *example) add(line string) {
	if command, ok := strings.CutPrefix(line, "$ "); ok {
		e.steps = append(e.steps, step{command: command})
		return
	}
	e.steps[len(e.steps)-1].want += line
}

// matches compares line by line. An ellipsis stands for anything, within its line.
func (s step) matches(got string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(s.want), "…", "[^\n]*")
	return regexp.MustCompile("^" + strings.TrimSpace(pattern) + "$").MatchString(strings.TrimSpace(got))
}

func runExamples(t *testing.T, path string) {
	mountpoint := mountStandIn(t)
	for _, e := range examples(t, path) {
		t.Run(fmt.Sprintf("line %d", e.line), func(t *testing.T) { e.run(t, mountpoint) })
	}
}

// run runs a block in one shell, so that a cd lasts.
func (e example) run(t *testing.T, mountpoint string) {
	var script strings.Builder
	for _, s := range e.steps {
		fmt.Fprintf(&script, "%s\nprintf '\\0'\n", strings.TrimSpace(strings.ReplaceAll(s.command, "/mnt/reg", mountpoint)))
	}
	cmd := exec.Command("bash", "-c", script.String())
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+cmd.Dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	outputs := strings.Split(strings.ReplaceAll(string(out), mountpoint, "/mnt/reg"), separator)
	for i, s := range e.steps {
		if i >= len(outputs) || !s.matches(outputs[i]) {
			t.Errorf("$ %sprinted\n%s\nnot\n%s", s.command, outputs[min(i, len(outputs)-1)], s.want)
		}
	}
}

// separator stands after each command's output.
const separator = "\x00"

// mountStandIn mounts a registry that goes by the documents' name, by way of registries.conf, and an empty layout as @usb.
func mountStandIn(t *testing.T) string {
	for _, program := range []string{"bash", "getfattr", "jq", "skopeo"} {
		registries.Program(t, program)
	}
	r := registries.Memory(t)
	r.PushIndex(t, "team/app:v1", "1")
	r.PushIndex(t, "team/app:v2", "2")
	r.PushArtifact(t, "team/docs:v1")
	conf := filepath.Join(t.TempDir(), "registries.conf")
	text := fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", standIn, r.Host)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	system := &types.SystemContext{SystemRegistriesConfPath: conf, SystemRegistriesConfDirPath: t.TempDir()}
	usb, err := oci.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]fs.Named{"usb": {Host: fs.Alone(usb, usb, true), Single: true}}
	return mounted.New(t, mounted.Options{System: system, Named: named}).Path
}
