package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"lockstep/appliance"
	"lockstep/appliance/config"
	"lockstep/replication/identity"
	"lockstep/stack"
)

func checkCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration, without starting anything",
		Long: `Checks a configuration file and prints every fault at once, each with its key and what to write
instead. If there is none it prints what would be in effect (defaults and LOCKSTEP_ environment
included), then warnings about this machine: missing interfaces, unreadable keys and the like.

Exit status: 0 the configuration is right (warnings or not), 2 it is not.`,
		Example: `  lockstep check -c lockstep.yaml
  LOCKSTEP_NODE=b lockstep check -c lockstep.yaml      # the same file on the other appliance`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(path)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s is right.\n\n", path)
			summarise(out, cfg)
			warn(out, cfg)
			return nil
		},
	}
	configFlag(cmd, &path, defaultConfig)
	return cmd
}

// summarise prints the configuration in effect.
func summarise(out io.Writer, c *config.Config) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("node", "%s, at %v", c.Node, c.Self())
	if name, addr, ok := c.Peer(); ok {
		row("peer", "%s, at %v", name, addr)
	} else {
		row("peer", "none: this appliance runs alone")
	}
	witness := "none"
	if c.Pair.Witness.IsValid() {
		witness = c.Pair.Witness.String()
	}
	row("pair", "%s, commit %s, witness %s", c.Pair.Name, c.Pair.Commit, witness)
	row("heartbeat", "every %v, failure after %v", c.Pair.Heartbeat, c.Pair.FailureTimeout)
	row("", "starts without connections when whoever may hold some was silent for %v", c.Pair.StartEmptyAfter)
	row("identity", "%s", c.Pair.Identity)
	if at, ok := c.Decides(); ok {
		row("authority", "wrapped servers ask at %v; keys %s", at, c.Authority.Identity)
	}
	if c.Pair.Witness.IsValid() {
		row("state", "%s", c.Pair.State)
	}
	row("front", "%s", c.Networks.Front.Interface)
	row("", "%s", reach(&c.Networks.Front))
	row("back", "%s, gateway %s", c.Networks.Back.Interface, list(c.Networks.Back.Gateway))
	row("", "%s", reach(&c.Networks.Back.Network))
	row("ingress", "%s", c.Networks.Ingress)
	row("steering", "%s", c.Networks.Steering)
	for i := range c.Services {
		summariseService(row, &c.Services[i])
	}
	row("memory", "%v", c.Limits.Memory)
	row("control", "%s", c.Control)
	metrics := "off"
	if c.Metrics.IsValid() {
		metrics = c.Metrics.String()
	}
	row("metrics", "%s", metrics)
	row("log", "%s, %s", c.Log.Level, c.Log.Format)
	w.Flush()
}

// reach says what is known of a network beyond its own NIC.
func reach(n *config.Network) string {
	if len(n.Reach) == 0 {
		return "reach: nobody is asked, only the carrier counts"
	}
	words := make([]string, len(n.Reach))
	for i, a := range n.Reach {
		words[i] = a.String()
	}
	return "reach: hands over when none of " + strings.Join(words, ", ") + " answers any more"
}

// summariseService prints what a service is and what will be done with its clients and servers.
func summariseService(row func(name, format string, args ...any), s *config.Service) {
	row("service "+s.Name, "%s -> %s", list(s.Listen), list(s.Servers))
	row("", "protection %s, protocol %s, release %s, source %s, path %s, slow clients %s", s.Protection, s.Protocol, s.Release, s.Source, s.Path, s.SlowClients)
	row("", "balance %s", balanceText(s))
	if s.Source == config.SourceGateway {
		row("", "to each server at most %d connections from each gateway address", stack.PortsPerServer)
	}
	if s.TTL > 0 || s.MinTTL > 0 {
		row("", "ttl %d, of clients at least %d", cmp.Or(s.TTL, 63), s.MinTTL)
	}
	probe := "tcp"
	if s.Health.Off() {
		probe = "not probed"
	}
	if s.Health.HTTP != "" {
		probe = "http " + s.Health.HTTP
	}
	row("", "health %s every %v, timeout %v", probe, s.Health.Interval, s.Health.Timeout)
	if s.Protection != config.ProtectGateway {
		row("", "waits %v for a server that continues a connection", s.Patience)
		if s.Health.Canary {
			row("", "canary: two idle connections are held to each server while it serves clients")
		} else {
			row("", "canary: off, a request whose server ends the connection is carried out once more, to be sure that it was no crash")
		}
	}
	if k := s.Keepalive; k.Idle == 0 {
		row("", "keepalive: nobody is asked; what clients and servers ask is passed on")
	} else {
		row("", "keepalive: who is silent for %v is asked every %v, and is dead after %d questions", k.Idle, k.Interval, k.Count)
	}
	idle := s.Limits.Idle.String()
	if s.Limits.Idle == 0 {
		idle = "never"
	}
	if s.ParkAfter > 0 && (s.Path == config.PathNetstack || s.Protection != config.ProtectGateway) {
		row("", "parked when idle for %v", s.ParkAfter)
	}
	row("", "at most %d connections, %d half-open (%d of one network), idle %s, log %v", s.Limits.Connections, s.Limits.HalfOpen, s.Limits.HalfOpenSource, idle, s.Limits.Log)
}

// balanceText says how servers are chosen, and what is special about each.
func balanceText(s *config.Service) string {
	text := string(s.Balance)
	for i, a := range s.Servers {
		share := s.ShareOf(i)
		if share.Weight != 1 {
			text += fmt.Sprintf(", %v weight %d", a, share.Weight)
		}
		if share.Backup {
			text += fmt.Sprintf(", %v backup", a)
		}
	}
	if s.SlowStart > 0 {
		text += fmt.Sprintf(", slow start %v", s.SlowStart)
	}
	return text
}

func list[T netip.AddrPort | netip.Prefix](items []T) string {
	if len(items) == 0 {
		return "none"
	}
	words := make([]string, len(items))
	for i, item := range items {
		words[i] = fmt.Sprint(item)
	}
	return strings.Join(words, ", ")
}

// warn prints what about this machine does not fit the configuration.
func warn(out io.Writer, c *config.Config) {
	c, _ = appliance.RealNames(c) // of an interface that is missing Check speaks
	warnings := config.Check(c)
	identityWarned := slices.ContainsFunc(warnings, func(w config.Warning) bool { return w.Path == "pair.identity" })
	if name, _, paired := c.Peer(); paired && !identityWarned {
		// Whether the files fit together only package link can tell.
		id, err := identity.Load(c.Pair.Identity)
		switch {
		case err != nil:
			warnings = append(warnings, config.Warning{Path: "pair.identity", Msg: err.Error()})
		case id.Node != c.Node || id.Pair != c.Pair.Name || !id.Has(name):
			warnings = append(warnings, config.Warning{Path: "pair.identity",
				Msg:  fmt.Sprintf("holds the keys of node %q in pair %q; this is node %q in pair %q with peer %q", id.Node, id.Pair, c.Node, c.Pair.Name, name),
				Hint: "copy the directory that `lockstep keys` made for this node"})
		case c.Pair.Witness.IsValid():
			names, _ := c.Appliances()
			if _, err := id.Witness(names); err != nil {
				warnings = append(warnings, config.Warning{Path: "pair.witness", Msg: err.Error()})
			}
		}
	}
	warnings = append(warnings, authorityKeys(c, warnings)...)
	printWarnings(out, slices.Concat(warnings, appliance.CheckFilter(c), appliance.CheckSteering(c), appliance.CheckRoom(c)))
}

// authorityKeys says whether the keys by which wrapped servers are known are this node's, and know any. warned are what is said already.
func authorityKeys(c *config.Config, warned []config.Warning) []config.Warning {
	const path = "authority.identity"
	if _, decides := c.Decides(); !decides || slices.ContainsFunc(warned, func(w config.Warning) bool { return w.Path == path }) {
		return nil
	}
	const hint = "copy the directory that `lockstep keys --servers` made for this node"
	id, err := identity.Load(c.Authority.Identity)
	switch {
	case err != nil:
		return []config.Warning{{Path: path, Msg: err.Error()}}
	case id.Node != c.Node:
		return []config.Warning{{Path: path, Msg: fmt.Sprintf("holds the keys of node %q, and this is node %q", id.Node, c.Node), Hint: hint}}
	case len(id.Servers()) == 0:
		return []config.Warning{{Path: path, Msg: "knows no server's key: none can ask", Hint: hint}}
	}
	return nil
}

func printWarnings(out io.Writer, warnings []config.Warning) {
	if len(warnings) > 0 {
		fmt.Fprintf(out, "\nOn this machine:\n")
	}
	for _, w := range warnings {
		fmt.Fprintf(out, "  warning: %v\n", w)
	}
}
