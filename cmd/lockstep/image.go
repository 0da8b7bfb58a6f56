package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"lockstep/images/provision"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "What the bootable appliance image is given",
		Long: `The bootable image (docs/deploy.md) holds nothing but a kernel and this program. Everything else,
configuration, addresses and keys, comes from outside: from a volume that a virtual machine gets as a
disk or a CD.`,
		Example: "  lockstep image config -c pair.yaml --out volumes",
		Args:    cobra.NoArgs,
	}
	cmd.AddCommand(imageConfigCommand())
	return cmd
}

func imageConfigCommand() *cobra.Command {
	var path, out string
	var bundles bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Write the configuration volumes of both appliances and the witness",
		Long: `Reads one description of a pair and writes a NoCloud volume (an ISO file called cidata) for each of
its machines, keys included. Attach each as a disk or a CD to its own machine only: who reads it can
stand in for the machine.

The description is lockstep.yaml as both appliances have it, without node, and a section machines with
the links of each (pair.example.yaml has every key).

The keys are made once and kept in OUT/keys: a second run uses them again, so that the configuration
can be changed without touching the other machines. Without that directory all machines get new keys.

Exit status: 0 written, 1 could not write, 2 wrong description.`,
		Example: `  lockstep image config -c pair.yaml --out volumes
  qemu-system-x86_64 ... -drive file=volumes/a.iso,format=raw,if=virtio,readonly=on`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := provision.Load(path)
			if err != nil {
				return &exitError{exitUsage, explainConfig(path, "started", err)}
			}
			written, err := d.Write(out, bundles)
			if err != nil {
				return &exitError{exitFailed, err}
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "Pair %s:\n", d.Pair)
			for _, m := range written {
				switch {
				case !m.Witness:
					fmt.Fprintf(w, "  appliance %-10s attach %s\n", m.Name, m.Volume)
				case m.Volume != "":
					fmt.Fprintf(w, "  witness   %-10s attach %s, or on another host: copy %s to /etc/lockstep\n", m.Name, m.Volume, m.Dir+"/*")
				default:
					fmt.Fprintf(w, "  witness   %-10s copy %s to /etc/lockstep of its host, run `lockstep witness`\n", m.Name, m.Dir+"/*")
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&path, "config", "c", "pair.yaml", "the description of the pair, a `file`")
	f.StringVar(&out, "out", "volumes", "the `directory` to write to; made if missing")
	f.BoolVar(&bundles, "user-data", false, "also write each machine's files as one, NAME.user-data, for channels that carry one file")
	return cmd
}
