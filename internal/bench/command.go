package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
)

// Defaults, and what --quick makes of them.
const (
	defaultRounds, quickRounds           = 3, 1
	defaultRuns, quickRuns               = 5, 1
	defaultDuration, quickDuration       = time.Second, 400 * time.Millisecond
	defaultConnections, quickConnections = 10000, 2000
	defaultBusy                          = 100
	defaultLimit, quickLimit             = 25 * time.Minute, 3 * time.Minute
)

// Limits of what can be asked for. Idle and busy connections together need a descriptor each in
// client and server, of which 20,000 is a common hard limit.
const (
	maxRounds      = 100
	maxConnections = 18000
	maxBusy        = 1000
)

// flags as given.
type flags struct {
	quick          bool
	only, offload  string
	gateways, rest []string
}

// Command is `lockstep bench`. The program must pass Roles to lab.Main.
func Command() *cobra.Command {
	var o options
	var f flags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure throughput, latency, CPU, memory and failover beside other gateways",
		Long: `Measures, in network namespaces of its own and in one run: forwarding by the kernel, HAProxy in
TCP mode (where it is installed), a plain Go io.Copy proxy, Lockstep alone and Lockstep as a
pair; then kills the active appliance under load, kills a server of connections that outlive it
(protection log and hot), and pulls both cables (front and back) of the active of a
Lockstep pair, and of pairs under keepalived with HAProxy and with conntrackd (where they are
installed), under a running download. It prints a table, the targets and whether
they were reached.

Every round visits every gateway in a fresh lab; medians of the rounds are printed. Nothing else
should run on the machine meanwhile. It needs Linux and root, or the right to create user
namespaces and to open /dev/net/tun. Nothing of it is left behind.

The exit status is 0 if everything could be measured, whether or not the targets were reached.`,
		Example: `  lockstep bench
  lockstep bench --quick
  lockstep bench --only 'down|up' --gateways haproxy,alone --offload off --duration 3s
  lockstep bench --only 'failover|crowd|rest' --runs 9 --json result.json
  lockstep bench --only cut --offload off --path auto
  lockstep bench --scale 200000
  lockstep bench --only 'kept-(gateway|log|hot)|server-kill|ahead'`,
		Args:         cobra.MaximumNArgs(1), // the file of `--json FILE`
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			f.rest = args
			if err := o.settle(f, cmd.Flags().Changed); err != nil {
				return err
			}
			if o.self, err = os.Executable(); err != nil {
				return fmt.Errorf("find own executable: %w", err)
			}
			return lab.Run(cmd.Context(), func(ctx context.Context) error {
				return execute(ctx, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&o.rounds, "rounds", defaultRounds, "rounds over all gateways")
	fs.IntVar(&o.runs, "runs", defaultRuns, "runs of the failover without idle connections, spread over the rounds; 0: no failovers")
	fs.DurationVar(&o.duration, "duration", defaultDuration, "time of one measurement")
	fs.IntVar(&o.connections, "connections", defaultConnections, "idle connections")
	fs.IntVar(&o.busy, "busy", defaultBusy, "busy connections in failovers")
	fs.StringVar(&f.only, "only", "", "measure only rows whose name matches this `regexp`, such as down-1, kept, failover, switch, crowd, frozen, rest, rejoin, idle, cut, kept-log, kept-hot, server-kill-primary, server-kill-first, server-kill-log, ahead")
	fs.StringSliceVar(&f.gateways, "gateways", nil, "measure only these: forwarding, haproxy, iocopy, alone, pair, keepalived-haproxy, keepalived-conntrackd")
	fs.IntVar(&o.crowd, "scale", 0, "measure only so many idle connections through one pair: opening, memory, kill -9, rejoin, kill -9 of the other; all are asked after each")
	fs.StringVar(&f.offload, "offload", "both", "on, off or both: segmentation offloads of the lab's links")
	fs.StringVar(&o.congestion, "congestion", "", "congestion control of the kernels at all ends (default: the machine's)")
	fs.StringVar(&o.path, "path", "", "path of every service: auto or netstack (default: the product's, auto)")
	fs.StringVar(&o.protection, "protection", "", "protection of the services that all gateways have: gateway, log or hot (default: the product's, gateway)")
	fs.BoolVar(&f.quick, "quick", false, fmt.Sprintf("one short round with %d idle connections, in three minutes at most", quickConnections))
	fs.DurationVar(&o.limit, "limit", defaultLimit, "leave out what does not fit into this time; 0: none")
	fs.StringVar(&o.json, "json", "", "write a JSON document to this `file`, or in place of the table without one")
	fs.Lookup("json").NoOptDefVal = "-"
	fs.StringVar(&o.keepLogs, "keep-logs", "", "keep the logs of all processes in this `directory`")
	return cmd
}

// settle turns flags into options.
func (o *options) settle(f flags, changed func(string) bool) (err error) {
	o.pace = defaultPace
	if f.quick {
		o.pace = quickPace
		quick := func(flag string, set func()) {
			if !changed(flag) {
				set()
			}
		}
		quick("rounds", func() { o.rounds = quickRounds })
		quick("runs", func() { o.runs = quickRuns })
		quick("duration", func() { o.duration = quickDuration })
		quick("connections", func() { o.connections = quickConnections })
		quick("limit", func() { o.limit = quickLimit })
	}
	switch {
	case len(f.rest) == 1 && o.json == "-":
		o.json = f.rest[0]
	case len(f.rest) > 0:
		return fmt.Errorf("unexpected argument %q", f.rest[0])
	}
	if err := o.settleScale(&f, changed); err != nil {
		return err
	}
	for _, r := range []struct {
		flag     string
		n        int
		min, max int
	}{
		{"rounds", o.rounds, 1, maxRounds}, {"runs", o.runs, 0, maxRounds},
		{"connections", o.connections, 1, maxConnections}, {"busy", o.busy, 3, maxBusy},
	} {
		if r.n < r.min || r.n > r.max {
			return fmt.Errorf("--%s: %d is not within %d to %d", r.flag, r.n, r.min, r.max)
		}
	}
	if o.duration < 50*time.Millisecond || o.duration > time.Minute {
		return fmt.Errorf("--duration: %v is not within 50ms to 1m", o.duration)
	}
	if o.path != "" && o.path != string(config.PathAuto) && o.path != string(config.PathNetstack) {
		return fmt.Errorf("--path: %q is none of auto, netstack", o.path)
	}
	if o.protection != "" && !slices.Contains([]config.Protection{config.ProtectGateway, config.ProtectLog, config.ProtectHot}, config.Protection(o.protection)) {
		return fmt.Errorf("--protection: %q is none of gateway, log, hot", o.protection)
	}
	if o.limit < 0 {
		return fmt.Errorf("--limit: %v is negative", o.limit)
	}
	if o.only, err = regexp.Compile(f.only); err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	if o.gateways, err = chooseGateways(f.gateways); err != nil {
		return err
	}
	switch f.offload {
	case "both":
		o.modes = []mode{offloadOff, offloadOn}
	case string(offloadOn), string(offloadOff):
		o.modes = []mode{mode(f.offload)}
	default:
		return fmt.Errorf("--offload: %q is none of on, off, both", f.offload)
	}
	if o.keepLogs != "" {
		if o.keepLogs, err = filepath.Abs(o.keepLogs); err != nil {
			return fmt.Errorf("--keep-logs: %w", err)
		}
	}
	return nil
}

// settleScale makes of --scale what it leaves open.
func (o *options) settleScale(f *flags, changed func(string) bool) error {
	if o.crowd == 0 {
		return nil
	}
	if o.crowd < 1 || o.crowd > maxScale {
		return fmt.Errorf("--scale: %d is not within 1 to %d", o.crowd, maxScale)
	}
	f.gateways, f.only = []string{string(paired)}, "^scale-"
	if !changed("rounds") {
		o.rounds = 1
	}
	if !changed("offload") {
		f.offload = string(offloadOff)
	}
	return nil
}

func chooseGateways(names []string) (chosen []kind, err error) {
	if len(names) == 0 {
		return columns, nil
	}
	for _, n := range names {
		if !slices.Contains(columns, kind(n)) {
			return nil, fmt.Errorf("--gateways: %q is none of forwarding, haproxy, iocopy, alone, pair, keepalived-haproxy, keepalived-conntrackd", n)
		}
	}
	for _, k := range columns { // in the table's order
		if slices.Contains(names, string(k)) {
			chosen = append(chosen, k)
		}
	}
	return chosen, nil
}

// execute runs the bench and reports it.
func execute(ctx context.Context, o options, stdout, stderr io.Writer) (err error) {
	if o.dir, err = os.MkdirTemp("", "lockstep-bench-"); err != nil {
		return fmt.Errorf("create temporary directory: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(o.dir); e != nil && err == nil {
			err = fmt.Errorf("remove temporary directory: %w", e)
		}
	}()
	h := newHeader(o)
	begin := time.Now()
	b := &bench{options: o, samples: newSamples(), begin: begin}
	b.say = func(format string, args ...any) {
		line, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\n")
		fmt.Fprintf(stderr, "%5.0fs  %s\n", time.Since(begin).Seconds(), line)
	}
	if err := b.run(ctx); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted; everything has been removed")
		}
		return err
	}
	d := b.report(h)
	table := stdout
	if o.json == "-" {
		table = stderr
	}
	if err := d.text(table); err != nil {
		return err
	}
	if err := writeDocument(d, o.json, stdout); err != nil {
		return err
	}
	if b.failed > 0 {
		return fmt.Errorf("%d measurements failed", b.failed)
	}
	return nil
}

func writeDocument(d document, where string, stdout io.Writer) error {
	switch where {
	case "":
		return nil
	case "-":
		return d.writeJSON(stdout)
	}
	f, err := os.Create(where)
	if err != nil {
		return fmt.Errorf("--json: %w", err)
	}
	return errors.Join(d.writeJSON(f), f.Close())
}
