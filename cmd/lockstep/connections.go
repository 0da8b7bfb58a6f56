package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
)

// connectionFlags are what says which connections are wanted.
type connectionFlags struct {
	socketFlags
	from  string // --client
	query control.ConnectionQuery
}

func connectionsCommand() *cobra.Command {
	var o connectionFlags
	cmd := &cobra.Command{
		Use:   "connections",
		Short: "List connections: client, server, state, whether a crash now would cost them",
		Long: `Asks the active appliance on this machine for its connections, and lists those that the flags
choose. Looking wakes and moves none of them.

  STATE       dialling, opening (the standby is told of it), accepting (the client's ACK is awaited),
              open, lingering (over for the client), over
  PATH        passed on: from end to end; ended: here, at both sides; parked: ended, and idle
  KEPT        whether it would outlive this appliance if that died now
  WAITS FOR   what has to come for it to move

The appliance is found by --control SOCKET, by the ` + "`control`" + ` key of -c FILE, or at ` + config.DefaultControl + `.

Exit status: 0 they were listed; 1 the appliance cannot be reached; 2 wrong flags or configuration.`,
		Example: `  lockstep connections
  lockstep connections --service web --sort idle
  lockstep connections --client 192.0.2.0/24 --state open --limit 1000
  lockstep connections --json | jq '.connections[] | select(.protected | not)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.settle(); err != nil {
				return &exitError{exitUsage, err}
			}
			return o.ask(cmd, func(out io.Writer, l *control.ConnectionList) error {
				return renderConnections(out, newPalette(out), l)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.query.Service, "service", "", "only of this service")
	f.StringVar(&o.from, "client", "", "only of clients at this `address`, or in this network")
	f.StringVar(&o.query.State, "state", "", "only in this state")
	f.StringVar(&o.query.Path, "path", "", "only on this path: passed on, ended or parked")
	f.StringVar(&o.query.Sort, "sort", control.OrderAge, "order: "+strings.Join(control.Orders, ", "))
	f.IntVar(&o.query.Limit, "limit", control.UsualConnections, fmt.Sprintf("how many at the most, up to %d", control.MostConnections))
	o.common(cmd)
	return cmd
}

func explainCommand() *cobra.Command {
	var o connectionFlags
	cmd := &cobra.Command{
		Use:   "explain CLIENT:PORT",
		Short: "Explain one connection: where it is, what it waits for, what a crash now would do to it",
		Long: `Asks the active appliance on this machine for the connection of a client's address and port, and says
in words how it stands: its server, by which way its packets go, what it waits for, and what would
become of it if this appliance died now. --json has the same, and all numbers that support asks for.

Exit status: 0 it was found; 1 there is none, or the appliance cannot be reached; 2 wrong flags or
configuration.`,
		Example: `  lockstep explain 192.0.2.17:50312
  lockstep explain '[2001:db8::17]:50312' --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.query.Exactly, err = netip.ParseAddrPort(args[0]); err != nil {
				return &exitError{exitUsage, fmt.Errorf("the client's address and port: %w (such as 192.0.2.17:50312)", err)}
			}
			return o.ask(cmd, func(out io.Writer, l *control.ConnectionList) error {
				if len(l.Connections) == 0 {
					why := "it has ended, or never came here (`lockstep connections --client " + o.query.Exactly.Addr().String() + "` lists this client's)"
					if l.Role != control.RoleActive {
						why = "this appliance is " + l.Role + ": ask the active one"
					}
					return &exitError{exitFailed, fmt.Errorf("no connection from %s: %s", o.query.Exactly, why)}
				}
				_, err := io.WriteString(out, explain(&l.Connections[0], newPalette(out)))
				return err
			})
		},
	}
	o.common(cmd)
	return cmd
}

// common are the flags of both.
func (o *connectionFlags) common(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.json, "json", false, "print one JSON object")
	o.add(cmd, false)
}

// settle checks what was asked for.
func (o *connectionFlags) settle() (err error) {
	if o.from != "" {
		if o.query.Client, err = netip.ParsePrefix(o.from); err != nil {
			addr, e := netip.ParseAddr(o.from)
			if e != nil {
				return fmt.Errorf("--client: %q is neither an address nor a network", o.from)
			}
			o.query.Client = netip.PrefixFrom(addr, addr.BitLen())
		}
	}
	if !slices.Contains(control.Orders, o.query.Sort) {
		return fmt.Errorf("--sort: %q is none of %s", o.query.Sort, strings.Join(control.Orders, ", "))
	}
	if o.query.Limit < 1 || o.query.Limit > control.MostConnections {
		return fmt.Errorf("--limit: %d is not within 1 to %d", o.query.Limit, control.MostConnections)
	}
	return nil
}

// ask for connections and show them.
func (o *connectionFlags) ask(cmd *cobra.Command, show func(io.Writer, *control.ConnectionList) error) error {
	client, err := o.client()
	if err != nil {
		return err
	}
	defer client.Close()
	l, err := client.FindConnections(cmd.Context(), o.query)
	if err != nil {
		return &exitError{exitFailed, err}
	}
	out := cmd.OutOrStdout()
	if o.json {
		return printJSON(out, l)
	}
	return show(out, &l)
}

// renderConnections writes a table, and beneath it what it does not have.
func renderConnections(out io.Writer, c palette, l *control.ConnectionList) error {
	if l.Role != control.RoleActive {
		_, err := fmt.Fprintf(out, "this appliance is %s: the active one has the connections\n", l.Role)
		return err
	}
	if len(l.Connections) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "CLIENT\tSERVICE\tSERVER\tSTATE\tPATH\tKEPT\tAGE\tIDLE\tWAITS FOR")
		for _, x := range l.Connections {
			kept, server, waits := "yes", x.Server, x.WaitsFor
			if !x.Protected {
				kept = "no"
			}
			if server == "" {
				server = "none"
			}
			if waits == "" {
				waits = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Client, x.Service, server, x.State, x.Path, kept, span(x.AgeMicros), span(x.IdleMicros), waits)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	rest := fmt.Sprintf("%d of %d", len(l.Connections), l.Matched)
	if l.Matched > len(l.Connections) {
		rest += " (--limit shows more)"
	}
	if l.Busy > 0 {
		rest += fmt.Sprintf("; %d more were being run all the time", l.Busy)
	}
	if l.Resting > 0 {
		rest += fmt.Sprintf("; %d more were taken over, and nothing has passed on them yet", l.Resting)
	}
	_, err := fmt.Fprintln(out, c.faint(rest))
	return err
}

// span is a time as people read it.
func span(micros int64) string {
	d := time.Duration(micros) * time.Microsecond
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// paths in words.
var paths = map[string]string{
	"passed on": "passed on: its packets go from end to end, and nothing of it is kept here but who they are",
	"ended":     "ended here: this appliance acknowledges to both ends, and keeps what the other one has not acknowledged",
	"parked":    "ended here, and parked: idle, without endpoints; the next segment makes them again",
}

// explain puts a connection into words.
func explain(x *control.Connection, c palette) string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-13s%s\n", name, fmt.Sprintf(format, args...))
	}
	row("connection", "%s -> %s, service %s", c.strong(x.Client), x.Listen, c.strong(x.Service))
	if x.Server == "" {
		row("server", "%s", c.warn("none at present"))
	} else {
		row("server", "%s", x.Server)
	}
	row("state", "%s, begun or taken over here %s ago; this appliance had to do with it %s ago", x.State, span(x.AgeMicros), span(x.IdleMicros))
	way, ok := paths[x.Path]
	if !ok {
		way = x.Path
	}
	row("way", "%s", way)
	if x.Protected {
		row("kept", "%s", c.good("yes: the standby would continue it if this appliance died now"))
	} else {
		row("kept", "%s", c.warn("no: it would be lost with this appliance now (`lockstep status` says why the pair is not in sync)"))
	}
	if x.WaitsFor == "" {
		row("waits for", "nothing: it is being run")
	} else {
		row("waits for", "%s", x.WaitsFor)
	}
	if x.Text != "" {
		row("for support", "%s", c.faint(x.Text))
	}
	return b.String()
}
