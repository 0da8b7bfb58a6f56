package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
)

// waitPeriod is how often it is looked how many connections a server has.
const waitPeriod = 100 * time.Millisecond

type serverOptions struct {
	socketFlags
	force, wait bool
}

func serverCommand() *cobra.Command {
	var o serverOptions
	cmd := &cobra.Command{
		Use:   "server",
		Short: "List a service's servers, drain one before its maintenance, change its weight",
		Long: `Orders something of one server of a service while all runs; no connection is ever reset by it.

  drain     it gets no new connections. With protection log or hot those that it serves move to another
            server, unseen by their clients; with gateway they go on until they end. --wait waits until it is empty
  disable   it gets no new connections, and what it serves stays where it is
  enable    it gets its share again
  weight    it gets another share (not with balance: first)

It is ordered on the active appliance, and true on both when the command returns: it holds after a takeover, and after a restart
of either. It holds until ` + "`enable`" + ` (or ` + "`weight`" + ` with the file's) takes it back, or the configuration file
says something else of that server than it did then (its weight, whether it is a backup, or not at all): then, at the start of the
appliance, the file is newer. So a long absence belongs into the file, a short one here.

The appliance is found by --control SOCKET, by the ` + "`control`" + ` key of -c FILE, or at ` + config.DefaultControl + `.

Exit status: 0 done, and the standby knows; 1 refused, or the appliance cannot be reached; 2 wrong flags or configuration.`,
		Example: `  lockstep server list web
  lockstep server drain web 10.20.0.11:80 --wait && ssh 10.20.0.11 reboot
  lockstep server enable web 10.20.0.11:80
  lockstep server weight web 10.20.0.12:80 3`,
	}
	o.add(cmd, true)
	cmd.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON, one object per line")
	list := &cobra.Command{
		Use: "list [SERVICE]", Short: "Show servers, what was ordered of them, their connections", Args: cobra.MaximumNArgs(1),
		Example: "  lockstep server list web\n  lockstep server list --json | jq .state",
		RunE:    func(cmd *cobra.Command, args []string) error { return o.list(cmd.OutOrStdout(), args) },
	}
	drain := o.order("drain", "Give a server no new connections, and have those that can leave it", "  lockstep server drain web 10.20.0.11:80 --wait")
	drain.Flags().BoolVar(&o.wait, "wait", false, "wait until it serves no connection any more, and show how many are left")
	disable := o.order("disable", "Give a server no new connections, and leave what it serves", "  lockstep server disable web 10.20.0.11:80")
	for _, c := range []*cobra.Command{drain, disable} {
		c.Flags().BoolVar(&o.force, "force", false, "also if the service has no other server that takes connections")
	}
	cmd.AddCommand(list, drain, disable,
		o.order("enable", "Give a server its share again", "  lockstep server enable web 10.20.0.11:80"),
		o.order("weight", "Give a server another share beside the others'", "  lockstep server weight web 10.20.0.12:80 3"))
	for _, c := range cmd.Commands() {
		c.ValidArgsFunction = o.complete
	}
	return cmd
}

// order is the command that orders one thing.
func (o *serverOptions) order(do, short, example string) *cobra.Command {
	use, args := do+" SERVICE SERVER", 2
	if do == "weight" {
		use, args = use+" WEIGHT", 3
	}
	return &cobra.Command{
		Use: use, Short: short, Example: example, Args: cobra.ExactArgs(args),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := control.ServerCommand{Do: do, Service: args[0], Force: o.force}
			var err error
			if c.Server, err = netip.ParseAddrPort(args[1]); err != nil {
				return &exitError{exitUsage, fmt.Errorf("%q is no server: write an IP address and a port, such as 10.20.0.11:80", args[1])}
			}
			if do == "weight" {
				if c.Weight, err = strconv.Atoi(args[2]); err != nil {
					return &exitError{exitUsage, fmt.Errorf("%q is no weight: write a number, 1 to %d", args[2], config.MaxWeight)}
				}
			}
			return o.run(cmd.OutOrStdout(), cmd.ErrOrStderr(), c)
		},
	}
}

// run gives the order, and waits for what it takes if that is wanted.
func (o *serverOptions) run(out, warn io.Writer, c control.ServerCommand) error {
	client, err := o.client()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	done, err := client.Server(ctx, c)
	if err != nil {
		return &exitError{exitFailed, err}
	}
	if done.Unkept != "" {
		fmt.Fprintf(warn, "lockstep: it holds as long as this appliance runs, but is not kept over its restart: %s\n", done.Unkept)
	}
	if done.Standby != "" {
		fmt.Fprintf(warn, "lockstep: the standby may not know of it yet: %s\n", done.Standby)
	}
	begun := time.Now()
	for {
		b, all, err := find(ctx, client, c.Service, c.Server)
		if err != nil {
			return err
		}
		if !o.wait || all && b.Connections+b.Beside == 0 {
			return o.show(out, c.Service, b, time.Since(begun), "\n")
		}
		if isTerminal(out) || o.json {
			if err := o.show(out, c.Service, b, time.Since(begun), "\r"); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return &exitError{exitFailed, fmt.Errorf("%s is not empty: %s left (the order holds)", b.Addr, plural(b.Connections+b.Beside, "connection"))}
		case <-time.After(waitPeriod):
		}
	}
}

// show writes how a server is; end is how a line ends in a terminal.
func (o *serverOptions) show(out io.Writer, service string, b control.Backend, since time.Duration, end string) error {
	if o.json {
		return json.NewEncoder(out).Encode(row{service, b})
	}
	text := plural(b.Connections+b.Beside, "connection")
	if o.wait {
		text += fmt.Sprintf(" after %v", since.Round(10*time.Millisecond))
	}
	_, err := fmt.Fprintf(out, "%s %s: %s, weight %d, %s   %s", service, b.Addr, b.State, b.Weight, text, end)
	return err
}

// row is a server in JSON.
type row struct {
	Service string `json:"service"`
	control.Backend
}

// find asks how a server is. One that is not in the list has no connections. all: its connections are counted, and not only
// those that a takeover has come to.
func find(ctx context.Context, client *control.Client, service string, server netip.AddrPort) (b control.Backend, all bool, err error) {
	s, err := client.Status(ctx)
	switch {
	case err != nil:
		return b, false, &exitError{exitFailed, err}
	case s.Role != control.RoleActive:
		return b, false, &exitError{exitFailed, fmt.Errorf("this appliance is %s now: the order holds; how many connections are left the active one knows", s.Role)}
	}
	counted := 0
	for _, svc := range s.Services {
		counted += svc.Connections
	}
	all = counted >= s.Connections.Open
	for _, svc := range s.Services {
		for _, b := range svc.Servers {
			if svc.Name == service && b.Addr == server.String() {
				return b, all, nil
			}
		}
	}
	return control.Backend{Addr: server.String(), State: control.ServerRemoved}, all, nil
}

func (o *serverOptions) list(out io.Writer, only []string) error {
	client, err := o.client()
	if err != nil {
		return err
	}
	defer client.Close()
	s, err := client.Status(context.Background())
	if err != nil {
		return &exitError{exitFailed, err}
	}
	if len(only) == 1 && !slices.ContainsFunc(s.Services, func(svc control.Service) bool { return svc.Name == only[0] }) {
		return &exitError{exitFailed, fmt.Errorf("there is no service %q", only[0])}
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if !o.json {
		fmt.Fprintln(table, "SERVICE\tSERVER\tSTATE\tHEALTH\tWEIGHT\tCONNECTIONS")
	}
	for _, svc := range s.Services {
		for _, b := range svc.Servers {
			switch {
			case len(only) == 1 && svc.Name != only[0]:
			case o.json:
				if err := json.NewEncoder(out).Encode(row{svc.Name, b}); err != nil {
					return err
				}
			default:
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\n", svc.Name, b.Addr, b.State, healthText(&s, &b), weightText(&b), b.Connections)
			}
		}
	}
	return table.Flush()
}

func healthText(s *control.Status, b *control.Backend) string {
	switch {
	case s.Role != control.RoleActive:
		return "asked by the active"
	case !b.Healthy:
		return "down: " + b.Why
	case !b.Checked:
		return "not asked"
	}
	return "up"
}

func weightText(b *control.Backend) string {
	if b.Backup {
		return strconv.Itoa(b.Weight) + " (backup)"
	}
	return strconv.Itoa(b.Weight)
}

// complete offers the services that there are, and then the servers of one.
func (o *serverOptions) complete(cmd *cobra.Command, args []string, _ string) (all []string, _ cobra.ShellCompDirective) {
	const only = cobra.ShellCompDirectiveNoFileComp
	client, err := o.client()
	if err != nil {
		return nil, only
	}
	defer client.Close()
	s, err := client.Status(cmd.Context())
	if err != nil {
		return nil, only
	}
	for _, svc := range s.Services {
		switch {
		case len(args) == 0:
			all = append(all, svc.Name)
		case len(args) == 1 && svc.Name == args[0] && !strings.HasPrefix(cmd.Use, "list"):
			for _, b := range svc.Servers {
				all = append(all, b.Addr)
			}
		}
	}
	return all, only
}
