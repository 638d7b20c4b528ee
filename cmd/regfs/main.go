// Regfs mounts container registries as a filesystem.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"unicode"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/regfs/regfs/layout/storage"
)

func main() {
	logrus.SetOutput(io.Discard) // errors say all that libraries log
	if storage.Init() {
		return
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program: 0 when it did what it was asked to, 1 when it could not, 2 when it was asked wrongly.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "regfs: %s\n", oneLine(err))
	if !errors.As(err, new(usageError)) {
		return 1
	}
	fmt.Fprintf(stderr, "Try '%s --help'.\n", cmd.CommandPath())
	return 2
}

// oneLine tells of an error in one line that a terminal shows as it is, whatever the names in it are made of.
func oneLine(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' })
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, strings.Join(lines, "; "))
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "regfs",
		Short: "Container registries as a filesystem",
		Long: `Container registries as a filesystem: mount them, and every registry you can reach
is a folder, an image is a folder in it, and its files are files.`,
		Example: `  regfs mount /mnt/reg
  ls /mnt/reg/quay.io/podman/stable/tags
  jq . /mnt/reg/quay.io/podman/stable/tags/latest/config.json
  regfs umount /mnt/reg`,
		Version:       version(),
		Args:          noCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		mountCommand(), umountCommand(), copyCommand(), indexCommand(), cacheCommand(), statusCommand(), discardCommand(), versionCommand(),
	)
	return root
}

func noCommand(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%q is not a command", args[0])}
	}
	return nil
}

// oneMountpoint accepts one argument.
func oneMountpoint(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return usageError{errors.New("which folder? A mountpoint is missing")}
	case len(args) > 1:
		return usageError{fmt.Errorf("one mountpoint at a time: what is %q?", args[1])}
	case args[0] == "":
		return usageError{errors.New("the mountpoint is empty")}
	}
	return nil
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version())
			return err
		},
	}
}

// version is what was built, from which source, with what, for what.
func version() string {
	return fmt.Sprintf("regfs %s %s %s/%s", release(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// release is the module's version, as the go command stamps it.
func release() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
