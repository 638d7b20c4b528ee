package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func mountCommand() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use:   "mount [flags] [[NAME=]SOURCE...] MOUNTPOINT",
		Short: "Mount registries, and other places that images live in, at a folder",
		Long: `Mount registries at a folder: /mnt/reg/quay.io/podman/stable/tags/latest is an image.

A SOURCE is another place that images live in, named as podman and skopeo do:
` + placesOnly + `
One with a NAME stands in the folder @NAME, beside the registries, so that cp copies
between any two of them; one without stands at the mountpoint in their place.

The command returns when the mount answers, or says why it does not, and a daemon
serves in the background until 'regfs umount', 'fusermount3 -u' or SIGTERM ends it.
No registry is asked for anything before you look at it. Credentials are those of
podman, skopeo and docker ('podman login'); so are registries.conf and certs.d.`,
		Example: `  regfs mount /mnt/reg
  regfs mount --platform linux/arm64 --cache-size 50G ~/reg
  regfs mount usb=oci:/media/usb/images /mnt/reg
  regfs mount -o ro,allow_other,noatime /mnt/reg
  regfs mount --foreground /mnt/reg     # in a systemd unit of Type=notify`,
		Args: sourcesAndMountpoint,
		RunE: func(_ *cobra.Command, args []string) (err error) {
			last := len(args) - 1
			if c.sources, err = parseSources(args[:last]); err != nil {
				return usageError{err}
			}
			return mount(c, args[last])
		},
	}
	c.addFlags(cmd.Flags())
	return cmd
}

// mount serves here, or starts a daemon that does. The daemon comes through here too.
func mount(c *config, mountpoint string) error {
	starter := connectStarter()
	err := check(c, mountpoint)
	if err == nil && starter.connected() {
		err = os.Chdir("/") // the folder this was started in can go, while the daemon stays
	}
	switch {
	case err != nil:
	case c.foreground || starter.connected():
		err = serve(c, starter)
	default:
		err = startDaemon(c)
	}
	starter.failed(err)
	return err
}

// check completes the configuration and finds out by name what would keep the mount from working.
func check(c *config, mountpoint string) error {
	err := c.finish(mountpoint)
	if err == nil {
		err = prepare(c)
	}
	if err == nil || errors.As(err, new(usageError)) {
		return err
	}
	return fmt.Errorf("mount %s: %w", mountpoint, err)
}
