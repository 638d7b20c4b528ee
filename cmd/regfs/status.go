package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/fs/stage"
)

func statusCommand() *cobra.Command {
	watch := false
	cmd := &cobra.Command{
		Use:   "status [--watch] [MOUNTPOINT...]",
		Short: "Show what is being pushed, and what waits to be finished",
		Long: `Show what is being pushed through mounts, and what was written and is not pushed: why, and
what is missing. Without a MOUNTPOINT, of all mounts. The same is in MOUNTPOINT/.regfs/pushes/.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch {
				return watchStatus(cmd, args)
			}
			_, err := showStatus(cmd.OutOrStdout(), args)
			return err
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on showing it until nothing is being pushed any more")
	return cmd
}

// watchStatus shows the status every second. On a terminal each takes the place of the one before.
func watchStatus(cmd *cobra.Command, args []string) error {
	for {
		var text strings.Builder
		busy, err := showStatus(&text, args)
		if isTerminal(cmd.OutOrStdout()) {
			fmt.Fprint(cmd.OutOrStdout(), "\x1b[H\x1b[J")
		}
		fmt.Fprint(cmd.OutOrStdout(), text.String())
		if err != nil || !busy {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// showStatus prints the status of mounts, and tells whether something moves.
func showStatus(out io.Writer, mountpoints []string) (busy bool, err error) {
	if len(mountpoints) == 0 {
		if mountpoints, err = allMounts(); err != nil {
			return false, err
		}
	}
	shown := 0
	for _, m := range mountpoints {
		all, err := readStatuses(m)
		if err != nil {
			return false, fmt.Errorf("status of %s: %w", m, err)
		}
		for _, s := range all {
			shown++
			moves := showSite(out, m, s)
			busy = busy || moves || s.State == stage.Pushing
		}
	}
	if shown == 0 {
		fmt.Fprintln(out, "nothing is being written or pushed")
	}
	return busy, nil
}

// readStatuses reads what a mount tells of its pushes.
func readStatuses(mountpoint string) ([]stage.Status, error) {
	top := filepath.Join(mountpoint, ".regfs", "pushes")
	if _, err := os.Stat(top); err != nil {
		return nil, errors.New("regfs is not mounted there")
	}
	var all []stage.Status
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return ignoreGone(err)
		}
		var s stage.Status
		err = json.Unmarshal(raw, &s)
		all = append(all, s)
		return err
	})
	return all, err
}

// ignoreGone: a push may end while it is looked at.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// maxShown is how many missing blobs are named.
const maxShown = 3

// showSite prints one push, and tells whether blobs of it move.
func showSite(out io.Writer, mountpoint string, s stage.Status) (moves bool) {
	fmt.Fprintf(out, "%s  %s  %s\n", s.Site(), s.State, told(s))
	for i, dgst := range s.Missing {
		if i == maxShown {
			fmt.Fprintf(out, "    and %d more\n", len(s.Missing)-i)
			break
		}
		fmt.Fprintf(out, "    missing %s\n", dgst)
	}
	for _, b := range s.Blobs {
		if b.State == copy.Moving {
			moves = true
			fmt.Fprintf(out, "    %s  %s\n", short(b.Digest), bar(b.Sent, b.Size))
		}
	}
	if s.State == stage.Writing || s.State == stage.Broken {
		fmt.Fprintf(out, "    finish it, or: regfs discard %s\n", filepath.Join(mountpoint, sitePath(s)))
	}
	return moves
}

// told is what there is to tell of a push beside its state.
func told(s stage.Status) string {
	switch {
	case s.Error != "":
		return s.Error
	case s.State == stage.Pushed:
		return s.Digest.String() + "  " + hows(s)
	case s.Waiting != "":
		return s.Waiting
	case len(s.Missing) > 0:
		return fmt.Sprintf("%d missing", len(s.Missing))
	case s.Bytes > 0:
		return size(s.Bytes) + " sent"
	}
	return ""
}

// hows counts how the blobs got there.
func hows(s stage.Status) string {
	counts := map[string]int{}
	for _, b := range s.Blobs {
		if b.How != "" {
			counts[string(b.How)]++
		}
	}
	var words []string
	for how, n := range counts {
		words = append(words, fmt.Sprintf("%d %s", n, how))
	}
	slices.Sort(words)
	return strings.Join(append(words, size(s.Bytes)+" sent"), ", ")
}

// bar is how far a blob has got. How long one is that is still being written, nobody knows.
func bar(sent, total int64) string {
	if total <= 0 {
		return size(sent) + " so far"
	}
	const width = 30
	full := int(min(sent, total) * width / total)
	return fmt.Sprintf("[%s%s] %s / %s", strings.Repeat("=", full), strings.Repeat(" ", width-full), size(sent), size(total))
}

// sitePath is where a push's folder stands below a mount.
func sitePath(s stage.Status) string {
	at := filepath.Join(s.Registry, s.Repository)
	switch s.Tag {
	case "":
		return filepath.Join(at, "oci-layout")
	case stage.Blobs:
		return filepath.Join(at, "blobs")
	}
	return filepath.Join(at, "tags", s.Tag)
}

func discardCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "discard FOLDER...",
		Short: "Throw away what was written and not pushed",
		Long: `Throw away what was written for an image and not pushed. A FOLDER is the image's in a mount,
as 'regfs status' names it. What is in the registry stays as it is.`,
		Example: `  regfs discard /mnt/reg/registry.example.com/team/app/tags/v1`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("what? A folder such as MOUNTPOINT/HOST/REPOSITORY/tags/TAG is missing")}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			for _, folder := range args {
				if err := discard(folder); err != nil {
					return fmt.Errorf("discard %s: %w", folder, err)
				}
			}
			return nil
		},
	}
}

// discard removes the file that tells of the push, which is how a mount is asked to.
func discard(folder string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	for top := filepath.Dir(folder); ; top = filepath.Dir(top) {
		all, err := readStatuses(top)
		if err == nil {
			return discardAt(top, folder, all)
		}
		if top == "/" {
			return errors.New("it is in no mount of regfs")
		}
	}
}

func discardAt(mountpoint, folder string, all []stage.Status) error {
	rest := strings.TrimPrefix(folder, mountpoint+"/")
	for _, s := range all {
		if at := sitePath(s); at != rest && at+"/oci-layout" != rest {
			continue
		}
		name := s.Tag
		if name == "" {
			name = "@oci-layout"
		}
		return os.Remove(filepath.Join(mountpoint, ".regfs", "pushes", s.Registry, s.Repository, name+".json"))
	}
	return errors.New("nothing was written there that is not pushed")
}
