package main

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
	"lockstep/replication/identity"
)

func keysCommand() *cobra.Command {
	var pair, witness, out string
	var members []string
	var force bool
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make the keys by which the appliances of a pair know each other",
		Long: `Makes one key and one certificate per node and writes a directory for each. A node trusts exactly
the certificates in its directory: there is no authority, and nothing expires. Copy each directory
to its own node only, then delete it here: who holds a node's key can stand in for it.

With --witness NAME the keys of the pair's witness are made too. Its directory goes to the third
host, one per pair that the witness serves; ` + "`lockstep witness --help`" + ` tells the rest.

Files of a node's directory: node.key (secret), node.crt, pair, peers/NAME.crt for each other node.

To replace keys, make all of them anew with --force and copy them to all nodes, where the old
directory has to go first (scp -r would put the new one into it); nodes with keys of different
runs refuse each other ("wrong_key").`,
		Example: `  lockstep keys --pair edge --members a,b --out keys
  scp -r keys/a root@10.30.0.1:/etc/lockstep/keys
  scp -r keys/b root@10.30.0.2:/etc/lockstep/keys

  lockstep keys --pair edge --members a,b --witness w --out keys
  scp -r keys/w root@10.30.0.3:/etc/lockstep/witness/edge`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			nodes := members
			if cmd.Flags().Changed("witness") {
				if len(members) != 2 {
					return &exitError{exitUsage, fmt.Errorf("--members names %d nodes; with --witness name the two appliances", len(members))}
				}
				nodes = append(slices.Clone(members), witness)
			}
			dirs, err := identity.Write(out, pair, nodes, force)
			if err != nil {
				return &exitError{exitFailed, err}
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "Keys of pair %q. Copy each directory to its node, as pair.identity (default %s):\n", pair, config.DefaultIdentity)
			for i, dir := range dirs {
				if abs, err := filepath.Abs(dir); err == nil {
					dir = abs
				}
				what, to := "node", config.DefaultIdentity
				if i >= len(members) {
					what, to = "witness", filepath.Join(config.DefaultWitnessIdentities, pair)
				}
				fmt.Fprintf(w, "  %s %s:  scp -r %s root@%s:%s\n", what, nodes[i], dir, nodes[i], to)
			}
			fmt.Fprintln(w, "Then delete them here.")
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&pair, "pair", "", "the pair's `name`, as in pair.name")
	f.StringSliceVar(&members, "members", nil, "the nodes' `names`, as in pair.members, separated by commas")
	f.StringVar(&witness, "witness", "", "the `name` of the pair's witness, if there is one")
	f.StringVar(&out, "out", "", "the `directory` to write to; made if missing")
	f.BoolVar(&force, "force", false, "replace existing keys")
	for _, name := range []string{"pair", "members", "out"} {
		_ = cmd.MarkFlagRequired(name) // fails only for a flag that does not exist
	}
	return cmd
}
