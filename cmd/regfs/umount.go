package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func umountCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "umount MOUNTPOINT",
		Aliases: []string{"unmount"},
		Short:   "Unmount what 'regfs mount' mounted",
		Long: `Unmount what 'regfs mount' mounted, dead or alive; its daemon ends with it.
A mount that somebody has files open in, or stands in, is busy and stays.`,
		Args: oneMountpoint,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := umount(args[0]); err != nil {
				return fmt.Errorf("umount %s: %w", args[0], err)
			}
			return nil
		},
	}
}
