package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"lockstep/appliance/control"
	"lockstep/replication/wire"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of this build",
		Long: `Prints the version of this build, of what it was built with, and of the protocol between the
appliances. Two appliances work together if their protocol ranges meet.`,
		Example: "  lockstep version",
		Args:    cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "lockstep  %s\n", control.Version())
			fmt.Fprintf(w, "protocol  %d to %d\n", wire.MinVersion, wire.Version)
			fmt.Fprintf(w, "go        %s %s/%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH)
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return
			}
			for _, dep := range info.Deps {
				switch dep.Path {
				case "gvisor.dev/gvisor":
					fmt.Fprintf(w, "gvisor    %s\n", dep.Version)
				case "golang.zx2c4.com/wireguard":
					fmt.Fprintf(w, "tun       %s\n", dep.Version)
				}
			}
		},
	}
}
