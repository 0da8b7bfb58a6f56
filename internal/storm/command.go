package storm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/lab"
)

// Command is `lockstep storm`. main must have called lab.Main with Roles first.
func Command() *cobra.Command {
	opts := options{}
	cmd := &cobra.Command{
		Use:   "storm",
		Short: "Break a pair at random, on this machine, for as long as you like, and see whether anything is lost",
		Long:  long(),
		Example: `  lockstep storm --duration 1h
  lockstep storm --seed 17 --faults kill,freeze --count 100
  lockstep storm --witness=false --only-v4 --duration 10m
  lockstep storm --json | jq .findings`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				opts.seed = rand.Uint64N(1 << 32)
			}
			opts.real = opts.real && findReal()
			if err := opts.check(); err != nil {
				return UsageError{err}
			}
			var err error
			if opts.self, err = os.Executable(); err != nil {
				return fmt.Errorf("find own executable: %w", err)
			}
			return lab.Run(cmd.Context(), func(ctx context.Context) error {
				return execute(ctx, opts, cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	opts.flags(cmd)
	return cmd
}

// long help.
func long() string {
	return `Lays out a client, two appliances, a witness and a server in network namespaces of its own, keeps connections
of many kinds running through them, of which every byte is checked at both ends, and lets faults happen at
random, one after the other. After each it waits until the pair is in sync again, so that what happens next is
one fault and not two (--quick does not wait).

What can happen:

` + kindHelp() + `
What is demanded:

  no wrong byte, ever
  no server is found to differ from another one: all of them answer the same
  no connection lost, but those whose loss SAFETY.md states in advance (of a server that died, with protection
  gateway), which are counted apart; each that is lost is told to both its ends
  nothing stands still for 5 s after a fault's end (or two of its sender's retransmission time-outs, not
  counting what they have doubled to, where the outage has made its kernel measure round trips of seconds)
  the pair is in sync again within a minute
  neighbour entries of the client and the server lead to the active within 3 s

What does not come true is a finding. About each of the first of them a folder is written below --out: status,
connections and logs of all nodes, neighbour tables, sockets, rules and routes, and what the networks have
carried lately, as pcapng files.

Kinds, order, targets and lengths of faults and the load are drawn from --seed; the kernel's timing is not. It
needs what ` + "`lockstep demo`" + ` needs: Linux, and root or the right to create user namespaces. Nothing outside its
namespaces is touched.

The exit status is 0 if there was no finding, 1 otherwise, 2 for wrong flags.`
}

func (o *options) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Uint64Var(&o.seed, "seed", 0, "what everything random is drawn from (default: a new one, which is printed)")
	f.DurationVar(&o.duration, "duration", 10*time.Minute, "how long faults go on")
	f.IntVar(&o.count, "count", 0, "end after so many faults (0: only by --duration)")
	f.StringSliceVar(&o.faults, "faults", nil, "only these kinds, separated by commas (default: all)")
	f.BoolVar(&o.witness, "witness", true, "a witness decides with the two; false: witness: none")
	f.BoolVar(&o.quick, "quick", false, "faults in quick succession, whether the pair is in sync or not")
	f.IntVar(&o.connections, "connections", 24, "connections at a time")
	f.BoolVar(&o.only4, "only-v4", false, "IPv4 only")
	f.BoolVar(&o.only6, "only-v6", false, "IPv6 only")
	f.BoolVar(&o.bridge, "bridge", false, "networks are the kernel's bridges: faster, but frames cannot be lost one way")
	f.BoolVar(&o.reach, "reach", true, "the appliances ping the client and the server (networks.*.reach)")
	f.BoolVar(&o.servers, "servers", true, "servers die, too, of services with protection gateway, log and hot")
	f.BoolVar(&o.real, "real", true, "curl downloads from nginx beside the checked load, if both are installed")
	f.BoolVar(&o.clocks, "clocks", false, "each process gets a clock that is up to 1 % too fast or too slow")
	f.StringVar(&o.path, "path", "", "path of the services: auto or netstack (default: the appliance's)")
	f.StringVar(&o.slow, "slow-clients", "", "slow_clients of the services with protection gateway: wait or buffer (default: the appliance's)")
	f.DurationVar(&o.timeout, "failure-timeout", 0, "pair.failure_timeout (default: the appliance's)")
	f.BoolVar(&o.stopAtFirst, "stop-at-first", false, "end with the first finding")
	f.StringVar(&o.out, "out", "", "write evidence below this `directory` (default: a new one in the temporary directory)")
	f.BoolVar(&o.debug, "debug", false, "the appliances log everything")
	f.BoolVar(&o.json, "json", false, "print the report as one JSON object; progress goes to standard error")
}

// UsageError is one of flags.
type UsageError struct{ error }

func (e UsageError) Unwrap() error { return e.error }

// errFindings is the error of a storm that ran to its end and has found something, which has been
// shown already.
var errFindings = errors.New("not everything held")

// execute runs the storm and reports it.
func execute(ctx context.Context, opts options, stdout, stderr io.Writer) error {
	progress := stdout
	if opts.json {
		progress = stderr
	}
	v := newView(progress)
	report, err := run(ctx, opts, v)
	if err != nil && report == nil {
		return err
	}
	if err != nil {
		report.Error, report.OK = err.Error(), false
	}
	if opts.json {
		if e := json.NewEncoder(stdout).Encode(report); e != nil {
			return fmt.Errorf("print report: %w", e)
		}
	} else {
		report.print(stdout)
	}
	switch {
	case err != nil:
		return err
	case !report.OK:
		return fmt.Errorf("%w: %d findings; evidence is in %s", errFindings, len(report.Findings), report.Evidence)
	}
	return nil
}
