package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// toPlace copies the image out of the registry to a place on the disk. names are what regfs and skopeo call it, in a folder of its own.
func (b *bench) toPlace(what string, goal float64, name string) func() contest {
	return func() contest {
		copier := func(command ...string) func() sample {
			return func() sample {
				return b.scratch(func(dir string) sample {
					place := filepath.Join(dir, "place")
					to := strings.ReplaceAll(name, "DIR", place)
					// skopeo leaves the graph of an overlay mounted.
					defer func() { _ = exec.Command("umount", "-l", filepath.Join(place, "root", "overlay")).Run() }()
					return b.measure(nil, b.command(command[0], append(command[1:], "docker://"+b.ref(), to)...))
				})
			}
		}
		return contest{
			name: "registry to " + what, goal: goal, bytes: b.size, end: func() {},
			contestants: []contestant{
				{"regfs copy", copier(b.program, "copy", "-q")},
				{"skopeo copy", copier("skopeo", "copy", "-q", "--src-tls-verify=false")},
			},
		}
	}
}

// recompress copies the image from layout to layout, its layers compressed with zstd instead of gzip.
func (b *bench) recompress() contest {
	copier := func(command ...string) func() sample {
		return func() sample {
			return b.scratch(func(dir string) sample {
				return b.measure(nil, b.command(command[0], append(command[1:], "oci:"+b.local, "oci:"+filepath.Join(dir, "out")+":v1")...))
			})
		}
	}
	return contest{
		name: "gzip layers to zstd, layout to layout", goal: 1.05, bytes: b.size, end: func() {},
		contestants: []contestant{
			{"regfs copy", copier(b.program, "copy", "-q", "--dest-compress-format", "zstd", "--dest-compress-level", "3")},
			{"skopeo copy", copier("skopeo", "copy", "-q", "--dest-compress-format", "zstd", "--dest-compress-level", "3")},
		},
	}
}

// listed is how many images the layout has that is listed.
const listed = 1000

// listLayout opens a layout of a thousand images and lists them: mount shows its tags.
func (b *bench) listLayout() string {
	const limit = 0.050
	dir := b.t.TempDir()
	layout := filepath.Join(dir, "layout")
	b.writeMany(layout)
	var seconds []float64
	for round := range b.runs + 1 {
		cmd := b.command(b.program, "copy", "-q", "oci:"+layout+":v0", "oci:"+filepath.Join(dir, fmt.Sprint(round)))
		s := b.measure(nil, cmd)
		if round > 0 {
			seconds = append(seconds, s.wall.Seconds())
		}
	}
	return row("one of 1,000 images of a layout is found and copied, a few bytes", "regfs copy", spread(seconds, "%.3f"), "≤ 50 ms", median(seconds) <= limit)
}

// writeMany makes a layout of many small images.
func (b *bench) writeMany(dir string) {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		b.t.Fatalf("%v", err)
	}
	var manifests []any
	for i := range listed {
		config := b.writeJSON(blobs, "application/vnd.oci.image.config.v1+json", map[string]any{"os": "linux", "architecture": "amd64", "author": fmt.Sprint(i)})
		manifest := b.writeJSON(blobs, "application/vnd.oci.image.manifest.v1+json", map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []any{},
		})
		manifest["annotations"] = map[string]any{"org.opencontainers.image.ref.name": fmt.Sprint("v", i)}
		manifests = append(manifests, manifest)
	}
	b.writeIndex(dir, manifests)
}
