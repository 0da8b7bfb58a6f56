package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
	"lockstep/appliance/witness"
)

const defaultWitnessConfig = "/etc/lockstep/witness.yaml"

func witnessCommand() *cobra.Command {
	var path string
	var check bool
	cmd := &cobra.Command{
		Use:   "witness",
		Short: "Run the third vote of one or more pairs, on a third host",
		Long: `Runs a witness in the foreground until it is told to stop. Two appliances that lose sight of each
other cannot tell whether the other is dead; the witness gives one of them the majority. It serves
many pairs on one address, votes and never leads, carries no traffic, and needs no privileges but
to write its state directory. While it is away the pair goes on as it is; what needs a vote waits.

Each pair has an identity of its own here, the witness's directory of ` + "`lockstep keys --witness`" + `.
heartbeat and failure_timeout must be those of the pairs.

Exit status: 0 told to stop, 1 could not run, 2 wrong configuration.`,
		Example: `  lockstep keys --pair edge --members a,b --witness w --out keys
  scp -r keys/w root@10.30.0.3:/etc/lockstep/witness/edge
  lockstep witness --check
  lockstep witness -c /etc/lockstep/witness.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.LoadWitness(path)
			if err == nil && check {
				err = checkWitness(cmd.OutOrStdout(), path, cfg)
			}
			if err != nil {
				return &exitError{exitUsage, explainConfig(path, "started", err)}
			}
			if check {
				return nil
			}
			log := newLogger(cfg.Log, new(slog.LevelVar), cmd.ErrOrStderr())
			ctx, stop := untilSignal(log)
			defer stop()
			err = witness.Run(ctx, cfg, log)
			var faults config.Errors
			if errors.As(err, &faults) {
				return &exitError{exitUsage, explainConfig(path, "started", err)}
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", defaultWitnessConfig, "the witness's configuration `file`")
	cmd.Flags().BoolVar(&check, "check", false, "check configuration and identities, without starting anything")
	return cmd
}

// checkWitness prints what a witness would serve.
func checkWitness(out io.Writer, path string, cfg *config.Witness) error {
	ids, err := witness.Identities(cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s is right.\n\n", path)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("listen", "%v", cfg.Listen)
	for _, id := range ids {
		peers := id.Peers()
		row("pair "+id.Pair, "appliances %s and %s, this is %s", peers[0], peers[1], id.Node)
	}
	row("heartbeat", "every %v, failure after %v", cfg.Heartbeat, cfg.FailureTimeout)
	row("state", "%s", cfg.State)
	metrics := "off"
	if cfg.Metrics.IsValid() {
		metrics = cfg.Metrics.String()
	}
	row("metrics", "%s", metrics)
	row("log", "%s, %s", cfg.Log.Level, cfg.Log.Format)
	w.Flush()
	printWarnings(out, config.CheckWitness(cfg))
	return nil
}
