package eval

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
)

// Command is `lockstep eval`. The program must pass traffic.Roles to lab.Main.
func Command() *cobra.Command {
	o := options{}
	var only string
	var estimate bool
	cmd := &cobra.Command{
		Use:   "eval",
		Short: "Answer the questions of FT-TCP's report on this machine, with pictures",
		Long: `Measures, in network namespaces of its own, what FT-TCP's report measured of message logging and
primary/backup, beside a gateway that masks its own death only and beside none at all:

  clients   requests a second against the number of clients
  messages  throughput in and out against message size, and the sync link's round trip
  timeline  what a client has received, around each fault
  failover  how long failovers take, and what that time is made of
  history   recovery against what had been sent before
  latency   latencies at a fixed load

It writes report.html, which needs no other file, the pictures as SVG, the numbers as CSV and
JSON. An evaluation that was stopped goes on where it was when it is started again with the same
directory. Nothing else should run on the machine meanwhile. It needs Linux and root, or the
right to create user namespaces and to open /dev/net/tun.

Exit status: 0 all has been measured, 1 something could not be (the report says what).`,
		Example: `  lockstep eval --quick
  lockstep eval --out evaluation
  lockstep eval --only 'timeline|history' --quick`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.only, err = regexp.Compile("^(" + only + ")$"); err != nil {
				return fmt.Errorf("--only: %w", err)
			}
			if only == "" {
				o.only = regexp.MustCompile("")
			}
			if o.self, err = os.Executable(); err != nil {
				return fmt.Errorf("find own executable: %w", err)
			}
			if o.out, err = filepath.Abs(o.out); err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			return lab.Run(cmd.Context(), func(ctx context.Context) error {
				return execute(ctx, o, estimate, cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.out, "out", "lockstep-eval", "write to this `directory`")
	fs.StringVar(&only, "only", "", "only experiments whose name matches this `regexp`")
	fs.BoolVar(&o.quick, "quick", false, "few and short runs: about three minutes")
	fs.BoolVar(&estimate, "estimate", false, "only say how many runs are left and how long they take")
	return cmd
}

// execute measures what is left, and writes the report.
func execute(ctx context.Context, o options, estimate bool, stdout, stderr io.Writer) (err error) {
	if o.dir, err = os.MkdirTemp("", "lockstep-eval-"); err != nil {
		return fmt.Errorf("create temporary directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	o.say = stderr
	env := surroundings(o)
	left, done, err := plan(o, env.setting())
	if err != nil {
		return err
	}
	if len(left)+done == 0 {
		return errors.New("--only: no experiment has such a name (`lockstep eval --help` lists them)")
	}
	var cost time.Duration
	for _, t := range left {
		cost += t.cost
	}
	fmt.Fprintf(stderr, "%d runs are left, about %v; %d have been done before\n", len(left), cost.Round(time.Second), done)
	if estimate {
		return nil
	}
	failed, err := carryOut(ctx, o, env.setting(), left)
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted; what has been measured is in %s, and the same command goes on from there", o.out)
	}
	if err != nil {
		return err
	}
	d, err := build(o, env)
	if err != nil {
		return err
	}
	if err := d.write(o.out); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s\n", filepath.Join(o.out, "report.html"))
	if failed > 0 {
		return fmt.Errorf("%d runs failed: the report lists them, and the same command tries them again", failed)
	}
	return nil
}

// surroundings are what figures depend on.
func surroundings(o options) environment {
	m := lab.LookAtMachine()
	return environment{
		Version: control.Version(), Began: time.Now().Truncate(time.Second), Go: runtime.Version(), Quick: o.quick,
		CPU: m.CPU, CPUs: m.CPUs, Kernel: m.Kernel, Congestion: m.Congestion, Load: m.Load,
	}
}
