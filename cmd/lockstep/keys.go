package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
	"lockstep/replication/identity"
	"lockstep/wrap/determinant"
)

func keysCommand() *cobra.Command {
	var pair, witness, out string
	var members, servers []string
	var force bool
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make the keys by which the appliances of a pair know each other",
		Long: `Makes one key and one certificate per node and writes a directory for each. A node trusts exactly
the certificates in its directory: there is no authority, and nothing expires. Copy each directory
to its own node only, then delete it here: who holds a node's key can stand in for it.

With --witness NAME the keys of the pair's witness are made too. Its directory goes to the third
host, one per pair that the witness serves; ` + "`lockstep witness --help`" + ` tells the rest.

With --servers the keys are others: of servers under ` + "`lockstep wrap`" + ` and of --members that decide for them. The servers'
directories also have the secret that their random numbers come from. A server's key decides nothing, and a member's asks for nothing.

Files of a node's directory: node.key (secret), node.crt, pair, peers/NAME.crt for each other node.

To replace keys, make all of them anew with --force and copy them to all nodes, where the old
directory has to go first (scp -r would put the new one into it); nodes with keys of different
runs refuse each other ("wrong_key").`,
		Example: `  lockstep keys --pair edge --members a,b --out keys
  scp -r keys/a root@10.30.0.1:/etc/lockstep/keys
  scp -r keys/b root@10.30.0.2:/etc/lockstep/keys

  lockstep keys --pair edge --members a,b --witness w --out keys
  scp -r keys/w root@10.30.0.3:/etc/lockstep/witness/edge

  lockstep keys --pair edge --members d --servers s1,s2 --out keys-wrap`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			nodes := members
			if len(servers) > 0 {
				return serversKeys(cmd, out, pair, members, servers, force)
			}
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
			tellKeys(cmd.OutOrStdout(), pair, nodes, len(members), dirs)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&pair, "pair", "", "the pair's `name`, as in pair.name")
	f.StringSliceVar(&members, "members", nil, "the nodes' `names`, as in pair.members, separated by commas")
	f.StringVar(&witness, "witness", "", "the `name` of the pair's witness, if there is one")
	f.StringSliceVar(&servers, "servers", nil, "the `names` of servers that agree by way of the members, separated by commas")
	cmd.MarkFlagsMutuallyExclusive("servers", "witness")
	f.StringVar(&out, "out", "", "the `directory` to write to; made if missing")
	f.BoolVar(&force, "force", false, "replace existing keys")
	for _, name := range []string{"pair", "members", "out"} {
		_ = cmd.MarkFlagRequired(name) // fails only for a flag that does not exist
	}
	return cmd
}

// secretFile is, in a server's directory, what the servers' random numbers are derived from.
const secretFile = "secret"

// serversKeys makes what wrapped servers and those that decide for them know each other by.
func serversKeys(cmd *cobra.Command, out, pair string, members, servers []string, force bool) error {
	if len(servers) < 2 {
		return &exitError{exitUsage, errors.New("--servers names one server, which has nobody to agree with")}
	}
	dirs, err := identity.WriteServers(out, pair, members, servers, force)
	if err != nil {
		return &exitError{exitFailed, err}
	}
	secret := make([]byte, determinant.SecretSize)
	_, _ = rand.Read(secret) // it never fails (crypto/rand)
	for _, dir := range dirs[len(members):] {
		if err := os.WriteFile(filepath.Join(dir, secretFile), secret, 0o600); err != nil {
			return &exitError{exitFailed, fmt.Errorf("writing the servers' secret: %w", err)}
		}
	}
	w := cmd.OutOrStdout()
	fmt.Fprintln(w, "Keys of wrapped servers. Copy each directory to its own host, for --identity, then delete it here:")
	for i, dir := range dirs {
		what := "decides"
		if i >= len(members) {
			what = "server"
		}
		fmt.Fprintf(w, "  %s: %s\n", what, dir)
	}
	return nil
}

// tellKeys says where the directories go. Those behind the members' are the witness's.
func tellKeys(w io.Writer, pair string, nodes []string, members int, dirs []string) {
	fmt.Fprintf(w, "Keys of pair %q. Copy each directory to its node, as pair.identity (default %s):\n", pair, config.DefaultIdentity)
	for i, dir := range dirs {
		if abs, err := filepath.Abs(dir); err == nil {
			dir = abs
		}
		what, to := "node", config.DefaultIdentity
		if i >= members {
			what, to = "witness", filepath.Join(config.DefaultWitnessIdentities, pair)
		}
		fmt.Fprintf(w, "  %s %s:  scp -r %s root@%s:%s\n", what, nodes[i], dir, nodes[i], to)
	}
	fmt.Fprintln(w, "Then delete them here.")
}
