// Package arrows holds DESIGN.md's rule of which package may import which.
package arrows

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/regfs/regfs/"

// arrows lists, for each part of the code, the parts it may import beside itself. A part is a folder with all below it that
// is no part of its own. What is not listed has no place in the design yet: give it one there, and a line here.
var arrows = map[string][]string{
	"image":    {},
	"registry": {"image"},
	"cache":    {"image"},
	"trust":    {"image"},
	"layer":    {"image"},
	"layout":   {"image"},
	"copy":     {"image"},
	"fs/stage": {"copy", "image"},
	"fs":       {"fs/stage", "copy", "layer", "layout", "image"},
	"fs/fuse":  {"fs", "fs/stage", "copy", "layer", "layout", "image"},
	"cmd":      {"fs/fuse", "fs", "fs/stage", "copy", "layer", "layout", "registry", "cache", "trust", "image"},
	"tests":    {"fs/fuse", "fs", "fs/stage", "copy", "layer", "layout", "registry", "cache", "trust", "image"},
}

// owners lists the modules, or parts of one, that only some parts of the code may import.
var owners = map[string][]string{
	"github.com/google/go-containerregistry/pkg/v1/remote": {"registry", "tests"},
	"github.com/google/go-containerregistry/pkg/registry":  {"tests"},
	"github.com/distribution/distribution":                 {"tests"},
	"github.com/hanwen/go-fuse":                            {"fs/fuse"},
	"testing":                                              {"tests"},
}

// source is what the go command says of a package, as far as it matters here. Imports leaves out those of tests.
type source struct {
	ImportPath string
	Imports    []string
}

func TestImportsRunDown(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "freebsd"} {
		packages := list(t, goos)
		if len(packages) < len(arrows)/2 {
			t.Fatalf("%s: the go command lists %d packages", goos, len(packages))
		}
		for _, p := range packages {
			for _, violation := range violations(p) {
				t.Errorf("%s: %s", goos, violation)
			}
		}
	}
}

func list(t *testing.T, goos string) []source {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"...")
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	packages, err := decode(out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatalf("go list: %v", err)
	}
	return packages
}

func decode(r io.Reader) ([]source, error) {
	var packages []source
	for decoder := json.NewDecoder(r); ; {
		var p source
		if err := decoder.Decode(&p); err == io.EOF {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
}

// violations are the imports of p that the design forbids.
func violations(p source) []string {
	path := strings.TrimPrefix(p.ImportPath, module)
	from := part(path)
	if from == "" {
		return []string{fmt.Sprintf("%s has no place in the design", path)}
	}
	var found []string
	for _, imported := range p.Imports {
		if !allowed(from, imported) {
			found = append(found, fmt.Sprintf("%s imports %s", path, strings.TrimPrefix(imported, module)))
		}
	}
	return found
}

func allowed(from, imported string) bool {
	if path, ours := strings.CutPrefix(imported, module); ours {
		to := part(path)
		return to == from || slices.Contains(arrows[from], to)
	}
	for owned, parts := range owners {
		if within(imported, owned) && !slices.Contains(parts, from) {
			return false
		}
	}
	return true
}

// part is the part of the code a package belongs to: the longest that holds it; "" if there is none.
func part(path string) string {
	longest := ""
	for p := range arrows {
		if within(path, p) && len(p) > len(longest) {
			longest = p
		}
	}
	return longest
}

func within(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

func TestViolationsAreFound(t *testing.T) {
	tests := []struct {
		path    string
		imports []string
		want    []string
	}{
		{"registry", []string{"net/http", module + "image", module + "registry/internal/retry"}, nil},
		{"fs/fuse/internal/errno", []string{module + "fs", "github.com/hanwen/go-fuse/v2/fuse"}, nil},
		{"fs", []string{module + "fs/fuse"}, []string{"fs imports fs/fuse"}},
		{"image", []string{module + "layout"}, []string{"image imports layout"}},
		{"cache", []string{module + "registry"}, []string{"cache imports registry"}},
		{"layer", []string{module + "layout"}, []string{"layer imports layout"}},
		{"registry", []string{module + "tests/registries"}, []string{"registry imports tests/registries"}},
		{"cmd/regfs", []string{"github.com/hanwen/go-fuse/v2/fs"}, []string{"cmd/regfs imports github.com/hanwen/go-fuse/v2/fs"}},
		{"cache", []string{"github.com/google/go-containerregistry/pkg/v1/remote/transport"},
			[]string{"cache imports github.com/google/go-containerregistry/pkg/v1/remote/transport"}},
		{"util", nil, []string{"util has no place in the design"}},
		{"imagetools", nil, []string{"imagetools has no place in the design"}},
	}
	for _, test := range tests {
		got := violations(source{ImportPath: module + test.path, Imports: test.imports})
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s with %v (-want +got):\n%s", test.path, test.imports, diff)
		}
	}
}
