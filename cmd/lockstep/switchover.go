package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
)

// switchoverTimeout is longer than anything the appliance waits for.
const switchoverTimeout = 8 * time.Second

func switchoverCommand() *cobra.Command {
	var o socketFlags
	cmd := &cobra.Command{
		Use:   "switchover",
		Short: "Hand over to the standby: for maintenance and upgrades",
		Long: `Asks the active appliance on this machine to hand over to its standby, and returns when that is
active. No connection is lost, and clients see hardly a pause. This appliance then joins the other
as its standby; to take it out of service stop it when the other is active.

It is refused while the standby is not in sync: then connections would be lost.

The appliance is found by --control SOCKET, by the ` + "`control`" + ` key of -c FILE, or at ` + config.DefaultControl + `.

Exit status: 0 the standby is active; 1 refused, or the appliance cannot be reached; 2 wrong flags
or configuration.`,
		Example: `  lockstep switchover
  lockstep switchover && lockstep status --watch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), switchoverTimeout)
			defer cancel()
			begun := time.Now()
			if err := client.Switchover(ctx); err != nil {
				return &exitError{exitFailed, err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "the standby is active, after %s\n", time.Since(begun).Round(100*time.Microsecond))
			return nil
		},
	}
	o.add(cmd, false)
	return cmd
}
