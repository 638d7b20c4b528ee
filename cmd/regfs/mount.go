package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func mountCommand() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use:   "mount [flags] MOUNTPOINT",
		Short: "Mount registries at a folder",
		Long: `Mount registries at a folder: /mnt/reg/quay.io/podman/stable/tags/latest is an image.

The command returns when the mount answers, or says why it does not, and a daemon
serves in the background until 'regfs umount', 'fusermount3 -u' or SIGTERM ends it.
No registry is asked for anything before you look at it. Credentials are those of
podman, skopeo and docker ('podman login'); so are registries.conf and certs.d.`,
		Example: `  regfs mount /mnt/reg
  regfs mount --platform linux/arm64 --cache-size 50G ~/reg
  regfs mount -o ro,allow_other,noatime /mnt/reg
  regfs mount --foreground /mnt/reg     # in a systemd unit of Type=notify`,
		Args: oneMountpoint,
		RunE: func(_ *cobra.Command, args []string) error { return mount(c, args[0]) },
	}
	c.addFlags(cmd.Flags())
	return cmd
}

// mount serves here, or starts a daemon that does. The daemon comes through here too.
func mount(c *config, mountpoint string) error {
	starter, err := connectStarter()
	if err != nil {
		return err
	}
	err = c.finish(mountpoint)
	if err == nil {
		err = prepare(c)
	}
	switch {
	case err != nil:
	case c.foreground || starter.connected():
		err = serve(c, starter)
	default:
		err = startDaemon(c)
	}
	if err != nil && !errors.As(err, new(usageError)) && !errors.As(err, new(daemonError)) {
		err = fmt.Errorf("mount %s: %w", mountpoint, err)
	}
	starter.failed(err)
	return err
}
