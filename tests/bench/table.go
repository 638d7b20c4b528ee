package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const header = `| what | with | seconds: median (least–most) | ratio: median (least–most) | goal | CPU s/GB | registry's CPU s/GB |
| --- | --- | --- | --- | --- | --- | --- |`

// rows are the lines of a contest in the table. A ratio is that of two runs of the same round.
func (all samples) rows(c contest) string {
	var rows strings.Builder
	for i, one := range c.contestants {
		ratio, goal, name := "", "", ""
		if i == 0 {
			name = c.name
		}
		if i != 1 {
			ratios := ratios(all[i], all[1])
			ratio = spread(ratios, "%.2f")
			if i == 0 {
				goal = verdict(fmt.Sprintf("≤ %.2f", c.goal), median(ratios) <= c.goal)
			}
		}
		seconds := project(all[i], func(s sample) float64 { return s.wall.Seconds() })
		fmt.Fprintf(&rows, "| %s | %s | %s | %s | %s | %s | %s |\n", name, one.name, spread(seconds, "%.3f"), ratio, goal,
			perGB(all[i], c.bytes, func(s sample) float64 { return s.cpu.Seconds() }),
			perGB(all[i], c.bytes, func(s sample) float64 { return s.registry.Seconds() }))
	}
	return rows.String()
}

func ratios(of, to []sample) []float64 {
	var ratios []float64
	for round := range of {
		ratios = append(ratios, of[round].wall.Seconds()/to[round].wall.Seconds())
	}
	return ratios
}

func perGB(of []sample, bytes int64, seconds func(sample) float64) string {
	if bytes == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", median(project(of, seconds))/(float64(bytes)/1e9))
}

func project(of []sample, value func(sample) float64) []float64 {
	var values []float64
	for _, s := range of {
		values = append(values, value(s))
	}
	return values
}

// spread is the median, and the range it is from.
func spread(values []float64, format string) string {
	return fmt.Sprintf(strings.ReplaceAll("F (F–F)", "F", format), median(values), slices.Min(values), slices.Max(values))
}

// median is the value in the middle, or the mean of the two there.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func verdict(goal string, met bool) string {
	if met {
		return goal + ": met"
	}
	return goal + ": **missed**"
}

// start measures how long it takes from the start of the command until the mount can be used, which needs no registry.
func (b *bench) start() string {
	var took []float64
	for round := range b.runs + 1 {
		d := b.mount(b.t.TempDir())
		b.unmount(d)
		if round > 0 {
			took = append(took, d.Started.Seconds())
		}
	}
	limit := 50 * time.Millisecond
	return row("from the start of the process to a file read", "regfs mount", spread(took, "%.3f"), "≤ "+limit.String(), median(took) <= limit.Seconds())
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// row is a line of the table for what is compared with nothing.
func row(what, with, value, goal string, met bool) string {
	return fmt.Sprintf("| %s | %s | %s | | %s | | |\n", what, with, value, verdict(goal, met))
}

// memory tells the most that any daemon had of it, in all of the above.
func (b *bench) memory() string {
	const limit = 100e6
	return row("most memory resident, in all of the above", "regfs", megabytes(b.peak), "≤ 100 MB", b.peak <= limit)
}

// intro tells what is measured, and on what.
func (b *bench) intro(only string) {
	info, err := os.Stat(b.largest)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	if only != "" {
		only = " -only " + only
	}
	fmt.Printf("Command: `make bench` (bin/bench -runs %d%s)\n\n", b.runs, only)
	fmt.Printf("Image: %d gzip layers of Debian packages, %.0f MB in all, the largest %.0f MB (%s), in docker-registry on loopback.\n\n",
		len(layers), float64(b.size)/1e6, float64(info.Size())/1e6, filepath.Base(b.largest)[:12])
	fmt.Println(b.machine())
}

// method tells how it is measured.
func (b *bench) method() {
	fmt.Printf(`
Each line is %d runs, in turns with those it is compared with, after a round that does not count. Ratios are those of two runs
of the same round. What a run wrote is removed and the disk synced before the next, outside of the time measured; page caches are not
dropped, so the registry and local copies are read from memory. Output is written to the page cache, not synced, by all. Nothing cached
means a new mount and an empty cache folder for each run; mounting is not in the time. CPU is user and system time of the
client, and of the daemon while the client runs, in steps of 10 ms.

Inside an image: where blobs or indexes are cached, each run has a new mount, and so nothing in the kernel's caches or the daemon's
memory, but for the counting of files. What is fetched is counted by a proxy before the registry, the most of all runs.
`, b.runs)
}
