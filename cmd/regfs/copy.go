package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/registry"
)

func copyCommand() *cobra.Command {
	c, quiet := &config{}, false
	cmd := &cobra.Command{
		Use:   "copy [flags] SOURCE DESTINATION",
		Short: "Copy an image from one place to another",
		Long: `Copy an image from one place to another. Both are named as podman and skopeo do:

  docker://HOST/REPOSITORY[:TAG|@DIGEST]   a registry's; without a tag, latest
  oci:PATH[:TAG][@DIGEST]                  an OCI image layout's, a folder

The image is copied byte for byte, so that its digest stays as it is, and whole: of a
multi-platform image every platform. What the destination has is not sent again. Its tag
changes last, when everything is there; with a DIGEST in its place, no tag does.

Credentials are those of podman, skopeo and docker ('podman login'); so are registries.conf
and certs.d. Progress and errors go to stderr.`,
		Example: `  regfs copy docker://quay.io/podman/stable docker://registry.example.com/podman:v5
  regfs copy docker://alpine:3.20 oci:alpine:3.20
  regfs copy --insecure localhost:5000 oci:alpine:3.20 docker://localhost:5000/alpine`,
		Args: sourceAndDestination,
		RunE: func(cmd *cobra.Command, args []string) error {
			return copyNamed(cmd.Context(), c, args[0], args[1], cmd.ErrOrStderr(), quiet)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "say nothing unless it fails")
	c.addRegistryFlags(cmd.Flags())
	return cmd
}

// sourceAndDestination accepts two arguments.
func sourceAndDestination(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return usageError{errors.New("what, and where to? SOURCE and DESTINATION are missing")}
	case len(args) == 1:
		return usageError{errors.New("where to? DESTINATION is missing")}
	case len(args) > 2:
		return usageError{fmt.Errorf("one image at a time: what is %q?", args[2])}
	}
	return nil
}

// copyNamed copies from one name to another, until it is interrupted.
func copyNamed(ctx context.Context, c *config, source, destination string, stderr io.Writer, quiet bool) error {
	from, err := parseRef(source)
	if err != nil {
		return err
	}
	to, err := parseRef(destination)
	if err != nil {
		return err
	}
	if err := c.checkTimeout(); err != nil {
		return err
	}
	p := newProgress(stderr, quiet)
	var root image.Descriptor
	err = interruptible(ctx, func(ctx context.Context) (err error) {
		root, err = copyImage(ctx, c.newClient(nil), from, to, p.tell)
		return err
	})
	p.close()
	if err == nil && !quiet {
		fmt.Fprintf(stderr, "copied %s to %s\n", root.Digest, to)
	}
	return err
}

// interruptible runs fn until it is done or a signal ends it. A second signal kills.
func interruptible(ctx context.Context, fn func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, endings()...)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := fn(ctx)
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// endings are the signals that end a command. What nohup or a shell had this process ignore stays ignored.
func endings() []os.Signal {
	ends := []os.Signal{syscall.SIGTERM}
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			ends = append(ends, s)
		}
	}
	return ends
}

// copyImage copies what one name names to where the other one says, and returns what that is.
func copyImage(ctx context.Context, client *registry.Client, from, to image.Ref, events func(copy.Event)) (image.Descriptor, error) {
	defer client.Close()
	src, err := hosts(client.Host).source(ctx, from)
	if err != nil {
		return image.Descriptor{}, err
	}
	defer src.Close()
	root, err := find(ctx, from, src)
	if err != nil {
		return root, err
	}
	if to.Digest != "" && to.Digest != root.Digest {
		return root, fmt.Errorf("%s is %s, which can't be put at %s", from, root.Digest, to)
	}
	dst, err := hosts(client.Host).sink(ctx, to)
	if err != nil {
		return root, err
	}
	defer dst.Close()
	return copy.Run(ctx, dst, copy.From(src, from.Repository), root, copy.Options{
		Tags: tags(to), Events: events, PreserveDigests: to.Digest != "", Name: to.Repository.Name,
	})
}
