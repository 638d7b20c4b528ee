package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/cache"
)

func cacheCommand() *cobra.Command {
	c, asJSON := &config{}, false
	cmd := &cobra.Command{
		Use:   "cache [flags]",
		Short: "Show what is kept on disk, and prune it",
		Long: `Show what is kept on disk of what was fetched: how many files of what kind, and the room
they take. The limit is that of the mounts that use the folder.

  blobs        content that was fetched whole, manifests too
  unfinished   content that is being fetched, or was not fetched to its end
  indexes      what was found out about layers, so that rootfs/ and tree/ need not fetch them
  spans        pieces of layers that were fetched one by one
  records      what registries said: what tags name, lists

'regfs cache prune' removes some of it.`,
		Example: `  regfs cache
  regfs cache --json | jq .total.bytes
  regfs cache prune --older-than 30d`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return showCache(cmd, c, asJSON) },
	}
	cmd.PersistentFlags().StringVar(&c.cacheDir, "cache-dir", "", "the cache's `folder` (default "+helpPlace(cachePlace)+")")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with sizes in bytes")
	cmd.AddCommand(pruneCommand(c))
	return cmd
}

// showCache prints what the cache keeps.
func showCache(cmd *cobra.Command, c *config, asJSON bool) error {
	isDefault := c.cacheDir == ""
	if err := c.place(&c.cacheDir, "--cache-dir", cachePlace); err != nil {
		return err
	}
	usage, err := cache.Look(c.cacheDir)
	if err != nil && !(isDefault && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	limits := cacheLimits(c.cacheDir)
	out := cmd.OutOrStdout()
	if asJSON {
		_, err := out.Write(indented(struct {
			Folder string `json:"folder"`
			cache.Usage
			Total  cache.Amount `json:"total"`
			Limits []cacheLimit `json:"limits"`
		}{c.cacheDir, usage, usage.Total(), limits}))
		return err
	}
	fmt.Fprintf(out, "%s\n", c.cacheDir)
	printUsage(out, "kept", usage, true)
	for _, l := range limits {
		fmt.Fprintf(out, "limit %s, of the mount at %s\n", binary(l.Bytes), l.Mountpoint)
	}
	return nil
}

// cacheLimit is how large a mount lets the cache get.
type cacheLimit struct {
	Mountpoint string `json:"mountpoint"`
	Bytes      int64  `json:"bytes"`
}

// cacheLimits asks the mounts that there are for those that keep what they fetch in dir. Who does not answer has no limit.
func cacheLimits(dir string) []cacheLimit {
	limits := []cacheLimit{}
	mountpoints, _ := allMounts()
	for _, m := range mountpoints {
		var mount struct {
			Dir  string `json:"cache-dir"`
			Size int64  `json:"cache-size"`
		}
		raw, err := readPromptly(filepath.Join(m, ".regfs", "config.json"))
		if err == nil && json.Unmarshal(raw, &mount) == nil && sameFolder(mount.Dir, dir) {
			limits = append(limits, cacheLimit{m, mount.Size})
		}
	}
	return limits
}

// prompt is how long a mount may take to tell of itself. One that is stuck is not to hold up others.
const prompt = 2 * time.Second

// readPromptly reads a file, or gives up. The reading stays behind then, until the process ends.
func readPromptly(path string) ([]byte, error) {
	type result struct {
		raw []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		raw, err := os.ReadFile(path)
		done <- result{raw, err}
	}()
	select {
	case r := <-done:
		return r.raw, r.err
	case <-time.After(prompt):
		return nil, os.ErrDeadlineExceeded
	}
}

func sameFolder(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// printUsage prints a table of all kinds, or of those that there are any of.
func printUsage(out io.Writer, what string, u cache.Usage, all bool) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	defer w.Flush()
	row := func(name string, a cache.Amount) {
		if all || a.Files > 0 {
			fmt.Fprintf(w, "%-10s\t%d\t%s\t\n", name, a.Files, binary(a.Bytes))
		}
	}
	fmt.Fprintf(w, "%-10s\tfiles\tsize\t\n", what)
	row("blobs", u.Blobs)
	row("unfinished", u.Unfinished)
	row("indexes", u.Indexes)
	row("spans", u.Spans)
	row("records", u.Records)
	row("total", u.Total())
}

// binary is a size in the units that flags are read in.
func binary(n int64) string {
	return units.CustomSize("%.4g %s", float64(n), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"})
}

// pruning is what prune was asked for.
type pruning struct {
	olderThan time.Duration
	size      int64
	all       bool
}

func pruneCommand(c *config) *cobra.Command {
	p := &pruning{olderThan: math.MaxInt64, size: math.MaxInt64}
	cmd := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove what was not used for long from the cache",
		Long: `Remove what was not used for long from the cache, and say what. What is in use stays. It is
safe while mounts use the cache: what they need again, they fetch again. What a registry
said is forgotten with it, so that less can be seen when it is away.`,
		Example: `  regfs cache prune --older-than 30d
  regfs cache prune --size 2G
  regfs cache prune --all --cache-dir /srv/regfs`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return prune(cmd, c, p) },
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().Func("older-than", "remove what was not used for a `time` such as 12h or 30d", p.setAge)
	cmd.Flags().Func("size", "remove what was not used for longest, down to a `size` such as 500M or 20G", p.setSize)
	cmd.Flags().BoolVar(&p.all, "all", false, "remove all that is not in use")
	return cmd
}

func (p *pruning) setSize(s string) (err error) {
	p.size, err = parseSize(s)
	return err
}

func (p *pruning) setAge(s string) (err error) {
	p.olderThan, err = parseAge(s)
	return err
}

// parseAge reads a time as Go does, or a number of days: 90m, 12h, 30d.
func parseAge(s string) (time.Duration, error) {
	age, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		age = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || age <= 0 {
		return 0, fmt.Errorf("%q is not a time, such as 12h or 30d", s)
	}
	return age, nil
}

// check finishes what was asked for.
func (p *pruning) check() error {
	isAny := p.olderThan < math.MaxInt64 || p.size < math.MaxInt64
	switch {
	case p.all && isAny:
		return usageError{errors.New("--all is all: leave the other flags away")}
	case p.all:
		p.size = 0
	case !isAny:
		return usageError{errors.New("what? Say --older-than, --size or --all")}
	}
	return nil
}

// prune removes what was asked for, and says so.
func prune(cmd *cobra.Command, c *config, p *pruning) error {
	if err := p.check(); err != nil {
		return err
	}
	isDefault := c.cacheDir == ""
	if err := c.place(&c.cacheDir, "--cache-dir", cachePlace); err != nil {
		return err
	}
	removed, busy, err := cache.Prune(c.cacheDir, p.olderThan, p.size)
	if err != nil && !(isDefault && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	out := cmd.OutOrStdout()
	if removed.Total().Files == 0 {
		fmt.Fprintln(out, "nothing to remove")
	} else {
		printUsage(out, "removed", removed, false)
	}
	if n := busy.Total(); n.Files > 0 {
		fmt.Fprintf(out, "kept, because it is in use: %s\n", binary(n.Bytes))
	}
	return nil
}
