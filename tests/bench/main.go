// Bench compares regfs with what else moves images, and prints a table in Markdown: make bench runs it. It reads Debian
// packages with apt-get to make a large image of, which it keeps in bench/data, and needs docker-registry and crane.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/regfs/regfs/tests/registries"
)

func main() {
	runs := flag.Int("runs", 7, "how often to measure each thing, after a first time that does not count")
	data := flag.String("data", "bench/data", "the folder for the images and all temporary files, on the disk to measure")
	only := flag.String("only", "", "a regular expression: measure only what it matches the name of")
	flag.Parse()
	chosen, err := regexp.Compile(*only)
	if flag.NArg() != 1 || *runs < 1 || err != nil {
		fmt.Fprintln(os.Stderr, "usage: bench [-runs N] [-only REGEXP] [-data FOLDER] REGFS", err)
		os.Exit(2)
	}
	os.Exit(registries.Main(func(t registries.TB) { run(t, flag.Arg(0), *data, *runs, chosen) }))
}

func run(t registries.TB, program, data string, runs int, only *regexp.Regexp) {
	b := &bench{t: t, program: program, runs: runs}
	chosen := slices.DeleteFunc(b.all(), func(m measurement) bool { return !only.MatchString(m.name) })
	if len(chosen) == 0 {
		t.Fatalf("there is no measurement %q, only %s", only, b.names())
	}
	b.prepare(data)
	b.intro(only.String())
	fmt.Println(header)
	for _, m := range chosen {
		fmt.Print(m.rows())
	}
	b.method()
}

// measurement makes rows of the table.
type measurement struct {
	// name is for -only.
	name string
	rows func() string
}

// all are the measurements, in the table's order.
func (b *bench) all() []measurement {
	contest := func(begin func() contest) func() string {
		return func() string {
			c := begin()
			return b.compete(c).rows(c)
		}
	}
	return []measurement{
		{"cold", contest(b.cold)},
		{"cached", contest(b.cached)},
		{"blob", contest(b.blob)},
		{"tags", contest(b.tags)},
		{"between-registries", contest(b.betweenRegistries)},
		{"within-registry", contest(b.withinRegistry)},
		{"from-disk", contest(b.fromDisk)},
		{"by-skopeo", contest(b.bySkopeo)},
		{"to-storage-overlay", contest(b.toPlace("containers-storage, overlay", 1.05, "containers-storage:[overlay@DIR/root+DIR/run]example.com/bench/image:v1"))},
		{"to-storage-vfs", contest(b.toPlace("containers-storage, vfs", 1.05, "containers-storage:[vfs@DIR/root+DIR/run]example.com/bench/image:v1"))},
		{"to-oci-archive", contest(b.toPlace("oci-archive", 0.8, "oci-archive:DIR:v1"))},
		{"to-docker-archive", contest(b.toPlace("docker-archive", 0.8, "docker-archive:DIR:example.com/bench/image:v1"))},
		{"to-zstd", contest(b.recompress)},
		{"list-layout", b.listLayout},
		{"inside-cold-base", contest(b.fileOfBase)},
		{"inside-cold-top", contest(b.fileOfTop)},
		{"inside-indexed", b.fileOfIndexed},
		{"inside-formats", b.fileOfFormats},
		{"inside-find", contest(b.find)},
		{"inside-tar", contest(b.tar)},
		{"inside-random", b.random},
		{"index-cost", contest(b.indexing)},
		{"index-size", b.indexSize},
		{"start", b.start},
		{"memory", b.memory},
		{"million", b.million},
		{"large-push", b.largePush},
	}
}

func (b *bench) names() (names []string) {
	for _, m := range b.all() {
		names = append(names, m.name)
	}
	return names
}

// bench is what all measurements share.
type bench struct {
	t       registries.TB
	program string
	// data is the folder for what is kept between runs.
	data     string
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
func (b *bench) prepare(data string) {
	t := b.t
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
	b.data = data
	img := openImage(t, filepath.Join(data, imageFolder))
	b.registry = registries.Docker(t, registries.Config{Storage: registries.ManyTags(t, tagged, tagCount)})
	b.registry.PushImage(t, repository+":v1", img)
	b.other = registries.Docker(t, registries.Config{})

	b.local = filepath.Join(t.TempDir(), "local")
	b.must(exec.CommandContext(t.Context(), "crane", "pull", "--format=oci", b.ref(), b.local))
	b.size, b.largest = b.survey(b.local)
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
