package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
)

// Command is `lockstep demo`. main must have called lab.Main(traffic.Roles()) first: the demo's
// servers are this program in another role.
func Command() *cobra.Command {
	opts := options{}
	var size string
	cmd := &cobra.Command{
		Use:           "demo",
		Short:         "Kill an appliance or a server in the middle of a transfer, on this machine, and see what happens",
		Long:          help,
		Example:       examples,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: false,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.take(cmd, size); err != nil {
				return err
			}
			return enter(cmd, opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.fault, "fault", faultKill, "what happens: to the active "+strings.Join(faults, ", ")+"; to a server "+strings.Join(serverFaults, ", "))
	f.StringVar(&opts.protection, "protection", "", "what connections outlive: gateway, log or hot (default: by the fault)")
	f.StringVar(&opts.release, "release", "", "with hot, whose bytes the client gets: primary or first (default primary)")
	f.StringVar(&opts.path, "path", "", "path of the connections: auto or netstack (default: the product's, auto)")
	f.IntVar(&opts.rounds, "rounds", 1, "how many failures, with a rejoin in between")
	f.StringVar(&size, "size", "1GiB", "bytes to transfer in each direction")
	f.IntVar(&opts.idle, "connections", 100, "idle connections beside the transfers")
	f.StringVar(&opts.direction, "direction", dirBoth, "download, upload or both")
	f.BoolVar(&opts.witness, "witness", true, "a witness decides with the two; false: witness: none")
	f.StringVar(&opts.service, "service", "", "real servers and clients: "+serviceNames()+" (default: the demo's own)")
	f.StringVar(&opts.vm, "vm", "", "run the appliances as virtual machines, of the image in this `directory`")
	f.BoolVar(&opts.json, "json", false, "print the verdict as one JSON object; progress goes to standard error")
	f.StringVar(&opts.keepLogs, "keep-logs", "", "keep the appliances' logs and configurations in this `directory`")
	return cmd
}

// take what the flags ask for, with the size as it was written, and check it.
func (o *options) take(cmd *cobra.Command, size string) error {
	bytes, err := config.ParseSize(size)
	if err != nil {
		return fmt.Errorf("--size: %w", err)
	}
	o.size = int64(bytes)
	o.settle(cmd.Flags().Changed)
	if o.vm != "" {
		o.vmDefaults(cmd.Flags().Changed)
	}
	if err := o.check(); err != nil {
		return err
	}
	// The appliances are this very program.
	if o.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	return nil
}

// enter a user namespace if that is needed, and run the demo there.
func enter(cmd *cobra.Command, opts options) error {
	return lab.Run(cmd.Context(), func(ctx context.Context) error {
		return execute(ctx, opts, cmd.OutOrStdout(), cmd.ErrOrStderr())
	})
}

// errNotSurvived is the error of a demo that ran to its end with a bad verdict, which has been
// shown already.
var errNotSurvived = errors.New("not everything survived")

// execute runs the demo and reports it.
func execute(ctx context.Context, opts options, stdout, stderr io.Writer) error {
	progress := stdout
	if opts.json {
		progress = stderr
	}
	v := newView(progress)
	verdict, err := run(ctx, opts, v)
	v.close()
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted; everything has been removed")
		}
		verdict.Error = err.Error()
		verdict.Intact, verdict.OK = false, false
	}
	if opts.json {
		if e := json.NewEncoder(stdout).Encode(verdict); e != nil {
			return fmt.Errorf("print verdict: %w", e)
		}
	}
	switch {
	case err != nil:
		return err
	case !opts.json:
		v.verdict(verdict)
	}
	if !verdict.OK {
		return fmt.Errorf("%w: %s", errNotSurvived, verdict.headline())
	}
	return nil
}
