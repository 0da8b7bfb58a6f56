package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"lockstep/appliance/control"
)

// manualCommand writes this program's manual pages; the packages have them (images/packages).
func manualCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "manual",
		Short: "Write the manual pages of this program",
		Long: `Writes a manual page for each command, made of what its --help says. SOURCE_DATE_EPOCH (seconds
since 1970) is their date, if it is set.`,
		Example: "  lockstep manual --out /usr/local/share/man/man8",
		Args:    cobra.NoArgs,
		Hidden:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			head := &doc.GenManHeader{Section: "8", Source: "Lockstep " + control.Version(), Manual: "Lockstep"}
			if text := os.Getenv("SOURCE_DATE_EPOCH"); text != "" {
				seconds, err := strconv.ParseInt(text, 10, 64)
				if err != nil {
					return &exitError{exitUsage, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds since 1970", text)}
				}
				at := time.Unix(seconds, 0).UTC()
				head.Date = &at
			}
			if err := os.MkdirAll(out, 0o755); err != nil {
				return fmt.Errorf("make the directory of the manual pages: %w", err)
			}
			cmd.Root().DisableAutoGenTag = true
			if err := doc.GenManTree(cmd.Root(), head, out); err != nil {
				return fmt.Errorf("write the manual pages: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "the `directory` to write to; made if missing")
	_ = cmd.MarkFlagRequired("out") // fails only for a flag that does not exist
	return cmd
}
