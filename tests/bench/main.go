// Bench compares regfs with what else moves images, and prints a table in Markdown: make bench runs it. It reads Debian
// packages with apt-get to make a large image of, which it keeps in bench/data, and needs docker-registry and crane.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/regfs/regfs/tests/registries"
)

func main() {
	runs := flag.Int("runs", 7, "how often to measure each thing, after a first time that does not count")
	data := flag.String("data", "bench/data", "the folder for the image and all temporary files, on the disk to measure")
	flag.Parse()
	if flag.NArg() != 1 || *runs < 1 {
		fmt.Fprintln(os.Stderr, "usage: bench [-runs N] [-data FOLDER] REGFS")
		os.Exit(2)
	}
	os.Exit(registries.Main(func(t registries.TB) { run(t, flag.Arg(0), *data, *runs) }))
}

func run(t registries.TB, program, data string, runs int) {
	b := prepare(t, program, data)
	b.runs = runs
	b.intro()
	fmt.Println(header)
	for _, begin := range []func() contest{
		b.cold, b.cached, b.blob, b.tags, b.betweenRegistries, b.withinRegistry, b.fromDisk, b.bySkopeo,
	} {
		c := begin()
		fmt.Print(b.compete(c).rows(c))
	}
	fmt.Print(b.start())
	fmt.Print(b.memory())
	fmt.Print(b.largePush())
	b.method()
}

// bench is what all measurements share.
type bench struct {
	t        registries.TB
	program  string
	registry *registries.Registry
	// other is a second registry, without content.
	other *registries.Registry
	// size is that of the image's layout, in bytes.
	size int64
	runs int
	// local is a copy of the image as an OCI layout, and largest its largest blob.
	local, largest string
	// peak is the most memory that a daemon had, in bytes.
	peak int64
	// pushes counts the repositories that were pushed to: each push needs one that has nothing of the image.
	pushes int
}

// What the registry holds: an image, and one manifest under many tags.
const (
	repository = "bench/image"
	tagged     = "bench/many"
	tagCount   = 20_000
)

// prepare makes the image, unless it is there, and pushes it to a new registry.
func prepare(t registries.TB, program, data string) *bench {
	data, err := filepath.Abs(data)
	if err != nil {
		t.Fatalf("%v", err)
	}
	tmp := filepath.Join(data, "tmp")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	// A module of its own, so that the go command leaves Debian's sources in there alone.
	if err := os.WriteFile(filepath.Join(data, "go.mod"), []byte("module data\n"), 0o644); err != nil {
		t.Fatalf("%v", err)
	}
	os.Setenv("TMPDIR", tmp)
	b := &bench{t: t, program: program}
	img := image(t, filepath.Join(data, "image"))
	b.registry = registries.Docker(t, registries.Config{Storage: registries.ManyTags(t, tagged, tagCount)})
	b.registry.PushImage(t, repository+":v1", img)
	b.other = registries.Docker(t, registries.Config{})

	b.local = filepath.Join(t.TempDir(), "local")
	b.must(exec.CommandContext(t.Context(), "crane", "pull", "--format=oci", b.ref(), b.local))
	b.size, b.largest = b.survey(b.local)
	return b
}

// ref is the image at the registry, as clients write it.
func (b *bench) ref() string { return b.registry.Host + "/" + repository + ":v1" }

// survey adds up the files in a folder, in bytes, and finds the largest.
func (b *bench) survey(dir string) (total int64, largest string) {
	var most int64
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		if total += info.Size(); info.Size() > most {
			most, largest = info.Size(), path
		}
		return nil
	})
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	return total, largest
}

// must runs a command that is not measured.
func (b *bench) must(cmd *exec.Cmd) {
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}
