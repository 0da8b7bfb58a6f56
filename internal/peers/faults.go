package main

import (
	"context"
	"errors"
	"time"
)

// fault is what happens while all clients are in the middle of something.
type fault struct {
	name string
	do   func(ctx context.Context, b *bed) error
}

var faults = []fault{
	{name: "appliance", do: killActive},
	{name: "switchover", do: switchover},
	{name: "both", do: func(ctx context.Context, b *bed) error { return errors.Join(killActive(ctx, b), killActive(ctx, b)) }},
	{name: "server", do: killServers},
}

// Under log and hot the servers die last of all, and then an appliance, too.
var keptFaults = []fault{
	{name: "appliance", do: killActive},
	{name: "server", do: killServers},
	{name: "both", do: func(ctx context.Context, b *bed) error { return errors.Join(killServers(ctx, b), killActive(ctx, b)) }},
}

// syncWithin is how long a busy machine may take until the pair is in sync.
const syncWithin = 25 * time.Second

// killActive kills the active, starts it again and waits until it is the standby.
func killActive(ctx context.Context, b *bed) error {
	victim := b.nodes.Active
	if err := victim.Kill(); err != nil {
		return err
	}
	if err := victim.Start(ctx); err != nil {
		return err
	}
	err := b.nodes.AwaitInSync(ctx, syncWithin)
	if err != nil {
		b.dump()
	}
	return err
}

func switchover(ctx context.Context, b *bed) error {
	if err := b.nodes.Active.Client.Switchover(ctx); err != nil {
		return err
	}
	return b.nodes.AwaitInSync(ctx, syncWithin)
}

// killServers kills those that clients have: under gateway all, otherwise the first. They are started
// again at once.
func killServers(ctx context.Context, b *bed) error {
	var all error
	for _, m := range b.modes {
		for _, p := range b.peers {
			d := b.daemons[p.script+b.lab.Servers[m.servers[0]].Name()]
			if d.killed {
				continue
			}
			d.killed = true
			all = errors.Join(all, d.proc.Kill())
		}
	}
	for _, d := range b.daemons {
		if d.killed {
			d.killed = false
			all = errors.Join(all, d.start(ctx))
		}
	}
	return all
}
