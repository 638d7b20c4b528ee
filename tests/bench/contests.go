package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/regfs/regfs/tests/daemon"
)

// contest is a thing that several programs can do. The first one is regfs, the second what it is compared with.
type contest struct {
	name        string
	contestants []contestant
	// goal is what the median of the ratios may be at the most.
	goal float64
	// bytes is how much one run moves; CPU time is given for it if it is not 0.
	bytes int64
	// end is called when all is measured.
	end func()
}

type contestant struct {
	name string
	run  func() sample
}

// samples are by contestant and round.
type samples [][]sample

// compete lets the contestants run in turns, A B A B, so that what changes on the machine meanwhile meets all of them. The
// first round does not count.
func (b *bench) compete(c contest) samples {
	all := make(samples, len(c.contestants))
	for round := range b.runs + 1 {
		for i, one := range c.contestants {
			b.t.Logf("%s: %s, %d of %d", c.name, one.name, round, b.runs)
			if s := one.run(); round > 0 {
				all[i] = append(all[i], s)
			}
		}
	}
	c.end()
	return all
}

func (b *bench) command(name string, args ...string) *exec.Cmd {
	return exec.CommandContext(b.t.Context(), name, args...)
}

// cold copies the image with a mount and a cache that are new each time.
func (b *bench) cold() contest {
	c := contest{name: "copy of the image, nothing cached", goal: 1.6, bytes: b.size, end: func() {}}
	c.contestants = []contestant{
		{"cp -r tags/v1/oci-layout", func() sample {
			return b.fresh(func(d *daemon.Daemon, dir string) sample {
				return b.measure(d, b.command("cp", "-r", b.layoutAt(d), filepath.Join(dir, "out")))
			})
		}},
		b.client("crane pull --format=oci", func(out string) *exec.Cmd {
			return b.command("crane", "pull", "--format=oci", b.ref(), out)
		}),
		b.client("skopeo copy", func(out string) *exec.Cmd {
			return b.command("skopeo", "copy", "--src-tls-verify=false", "docker://"+b.ref(), "oci:"+out+":v1")
		}),
		b.client("regctl image copy", func(out string) *exec.Cmd {
			return b.command("regctl", "--host", "reg="+b.registry.Host+",tls=disabled", "image", "copy", b.ref(), "ocidir://"+out+":v1")
		}),
	}
	return c
}

// client is a program that writes the image to a folder.
func (b *bench) client(name string, command func(out string) *exec.Cmd) contestant {
	return contestant{name, func() sample {
		return b.scratch(func(dir string) sample { return b.measure(nil, command(filepath.Join(dir, "out"))) })
	}}
}

// fresh measures with a new mount and an empty cache.
func (b *bench) fresh(fn func(d *daemon.Daemon, dir string) sample) sample {
	return b.scratch(func(dir string) sample {
		d := b.mount(filepath.Join(dir, "cache"))
		defer b.unmount(d)
		return fn(d, dir)
	})
}

func (b *bench) layoutAt(d *daemon.Daemon) string {
	return filepath.Join(d.Path, b.registry.Host, repository, "tags", "v1", "oci-layout")
}

// cached copies the image from a mount that has had it already.
func (b *bench) cached() contest {
	d := b.mount(b.t.TempDir())
	copyOf := func(d *daemon.Daemon, from string) func() sample {
		return func() sample {
			return b.scratch(func(dir string) sample {
				return b.measure(d, b.command("cp", "-r", from, filepath.Join(dir, "out")))
			})
		}
	}
	return contest{
		name: "copy of the image, cached", goal: 1.1, bytes: b.size, end: func() { b.unmount(d) },
		contestants: []contestant{
			{"cp -r tags/v1/oci-layout", copyOf(d, b.layoutAt(d))}, {"cp -r of a local copy", copyOf(nil, b.local)},
			{"cp -r --reflink=never of a local copy", func() sample {
				return b.scratch(func(dir string) sample {
					return b.measure(nil, b.command("cp", "-r", "--reflink=never", b.local, filepath.Join(dir, "out")))
				})
			}},
		},
	}
}

// tags lists the tags with a mount and a cache that are new each time.
func (b *bench) tags() contest {
	return contest{
		name: "list of 20,000 tags", goal: 2, end: func() {},
		contestants: []contestant{
			{"ls tags/", func() sample {
				return b.fresh(func(d *daemon.Daemon, _ string) sample {
					return b.measure(d, b.command("ls", filepath.Join(d.Path, b.registry.Host, tagged, "tags")))
				})
			}},
			{"crane ls", func() sample { return b.measure(nil, b.command("crane", "ls", b.registry.Host+"/"+tagged)) }},
		},
	}
}

// passes is how often a blob is read in one run: once takes too short a time to measure.
const passes = 20

// blob reads the largest blob, once it is cached, through the mount and from the cache's own file. A copy of the file
// elsewhere can lie in the page cache in pages of other sizes, which alone makes reading it faster or slower by a tenth.
func (b *bench) blob() contest {
	cacheDir := b.t.TempDir()
	d := b.mount(cacheDir)
	mounted := filepath.Join(b.layoutAt(d), "blobs", "sha256", filepath.Base(b.largest))
	if err := drain(mounted, make([]byte, 1<<20)); err != nil {
		b.t.Fatalf("%v", err)
	}
	_, bare := b.survey(cacheDir)
	info, err := os.Stat(bare)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	return contest{
		name: "reading a cached blob, 1 MiB at a time", goal: 1 / 0.95, bytes: passes * info.Size(), end: func() { b.unmount(d) },
		contestants: []contestant{
			{"blobs/sha256/…", func() sample { return b.read(d, mounted) }},
			{"the cache's own file", func() sample { return b.read(nil, bare) }},
		},
	}
}

// read reads a file from its beginning to its end, passes times.
func (b *bench) read(d *daemon.Daemon, path string) sample {
	served, own := time.Duration(0), b.cpu(os.Getpid())
	if d != nil {
		served = b.cpu(d.PID)
	}
	buf, begin := make([]byte, 1<<20), time.Now()
	for range passes {
		if err := drain(path, buf); err != nil {
			b.t.Fatalf("%v", err)
		}
	}
	s := sample{wall: time.Since(begin), cpu: b.cpu(os.Getpid()) - own}
	if d != nil {
		s.cpu += b.cpu(d.PID) - served
	}
	return s
}

func drain(path string, buf []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := f.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
