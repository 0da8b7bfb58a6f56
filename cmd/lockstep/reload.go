package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
)

func reloadCommand() *cobra.Command {
	var o socketFlags
	var dry bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the appliance read its configuration again, and change what can be changed",
		Long: `Has the appliance on this machine read and check the whole file that it was started with, and shows
what is not as it was. All changes are made, or none: one that cannot be made while the process
runs is refused, with what to do instead. No connection is touched. The other appliance has a file
of its own: reload it, too.

What can change: services' limits.connections (the sum of all no larger than at the start),
limits.idle, keepalive and park_after, and log.level.

SIGHUP does the same; what it was refused is in the log then. The appliance is found by --control
SOCKET, by the ` + "`control`" + ` key of -c FILE, or at ` + config.DefaultControl + `.

Exit status: 0 all is as the file says (--dry-run: could be); 1 refused, or the appliance cannot be
reached; 2 wrong flags or configuration.`,
		Example: `  lockstep reload --dry-run
  lockstep reload --json | jq .changes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			defer client.Close()
			done, err := client.Reload(cmd.Context(), dry)
			if err != nil {
				return &exitError{exitFailed, err}
			}
			if o.json {
				err = printJSON(cmd.OutOrStdout(), done)
			} else {
				showReloaded(cmd.OutOrStdout(), &done)
			}
			if done.Refused {
				err = errors.Join(err, errors.New("refused as a whole: nothing is changed"))
			}
			if err != nil {
				return &exitError{exitFailed, err}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what would change, and change nothing")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	o.add(cmd, false)
	return cmd
}

// showReloaded has a line for each change: + what is new, - what there is no more, ~ another value.
func showReloaded(w io.Writer, done *control.Reloaded) {
	for _, c := range done.Changes {
		switch {
		case c.From == "":
			fmt.Fprintf(w, "+ %s: %s\n", c.Key, c.To)
		case c.To == "":
			fmt.Fprintf(w, "- %s: %s\n", c.Key, c.From)
		default:
			fmt.Fprintf(w, "~ %s: %s -> %s\n", c.Key, c.From, c.To)
		}
		if c.Refused != "" {
			fmt.Fprintf(w, "  %s\n", c.Refused)
		}
	}
	switch {
	case len(done.Changes) == 0:
		fmt.Fprintln(w, "nothing is new: the appliance goes by this file")
	case done.Applied:
		fmt.Fprintf(w, "changed: %d\n", len(done.Changes))
	}
}
