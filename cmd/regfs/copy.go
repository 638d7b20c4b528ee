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
)

func copyCommand() *cobra.Command {
	c, o := &config{}, &copyFlags{}
	cmd := &cobra.Command{
		Use:   "copy [flags] SOURCE DESTINATION",
		Short: "Copy an image from one place to another",
		Long: `Copy an image from one place to another. Both are named as podman and skopeo do:
` + placesHelp + `
The image is copied byte for byte, so that its digest stays as it is, and whole: of a
multi-platform image every platform. It is converted only where that is asked for, where
the destination can't hold it as it is, and from Docker's format to OCI in layouts, where
other programs would not find it (but with --preserve-digests). What the destination has is not sent again.
Its tag changes last, when everything is there; with a DIGEST in its place, no tag does.

Credentials are those of podman, skopeo and docker ('podman login'); so are registries.conf
and certs.d. Progress and errors go to stderr.`,
		Example: `  regfs copy docker://quay.io/podman/stable docker://registry.example.com/podman:v5
  regfs copy docker://alpine:3.20 oci:alpine:3.20
  regfs copy --multi-arch system docker://alpine containers-storage:alpine
  regfs copy --insecure localhost:5000 oci:alpine:3.20 docker://localhost:5000/alpine`,
		Args: sourceAndDestination,
		RunE: func(cmd *cobra.Command, args []string) error {
			return copyNamed(cmd.Context(), c, o, args[0], args[1], cmd.ErrOrStderr())
		},
	}
	o.add(cmd.Flags())
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
func copyNamed(ctx context.Context, c *config, o *copyFlags, source, destination string, stderr io.Writer) error {
	from, err := parseRef(source)
	if err != nil {
		return err
	}
	to, err := parseDestination(destination)
	if err != nil {
		return err
	}
	options, err := o.options(to)
	if err == nil {
		options.Tags, err = o.names(to)
	}
	if err == nil {
		err = c.checkTimeout()
	}
	if err != nil {
		return err
	}
	p := newProgress(stderr, o.quiet)
	options.Events = p.tell
	var root image.Descriptor
	err = interruptible(ctx, func(ctx context.Context) (err error) {
		client := c.newClient(nil)
		defer client.Close()
		root, err = copyImage(ctx, o.places(client.Host, c), from, to, options)
		return err
	})
	p.close()
	if err == nil && !o.quiet {
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

// ends are the places of the two ends of a copy.
type ends struct{ from, to *places }

func (o *copyFlags) places(registry func(string) (image.Host, error), c *config) ends {
	at := places{registry: registry, timeout: c.timeout, tempDir: o.tempDir}
	from, to := at, at
	from.daemon, from.sharedBlobs = o.sourceDaemon, o.sourceBlobs
	to.daemon, to.sharedBlobs = o.destinationDaemon, o.destinationBlobs
	return ends{&from, &to}
}

// copyImage copies what one name names to where the other one says, and returns what it is there.
func copyImage(ctx context.Context, at ends, from, to image.Ref, o copy.Options) (root image.Descriptor, err error) {
	src, err := at.from.source(ctx, from)
	if err != nil {
		return root, err
	}
	defer src.Close()
	if root, err = find(ctx, from, src); err != nil {
		return root, err
	}
	if to.Digest != "" {
		o.PreserveDigests = true
		if to.Digest != root.Digest {
			return root, fmt.Errorf("%s is %s, which can't be put at %s", from, root.Digest, to)
		}
	}
	dst, err := at.to.sink(ctx, to)
	if err != nil {
		return root, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	o.Name = to.Repository.Name
	return copy.Run(ctx, dst, copy.From(src, origin(from)), root, o)
}

// origin is the repository that a registry may take blobs from by itself.
func origin(r image.Ref) image.Repository {
	if r.Transport != image.Registry {
		return image.Repository{}
	}
	return r.Repository
}
