// Package orders knows what an operator has ordered of a service's servers at run time.
//
// It owns: the list of orders, its text (JSON: it travels to the standby, and is kept in a file), the rule by which an order
// holds, and what list of servers follows from a service's configuration and the orders.
//
// It must not know: how the text travels, where it is kept, who may order, what becomes of a server's connections.
//
// An order holds as long as the configuration file says of its server what it said when it was ordered: what people write
// later is newer than what they have typed before.
package orders

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"lockstep/appliance/config"
	"lockstep/appliance/pool"
)

// Limit is how many servers there may be orders about.
const Limit = 1024

// Order is what was ordered of one server.
type Order struct {
	Service string         `json:"service"`
	Server  netip.AddrPort `json:"server"`
	State   pool.State     `json:"state,omitempty"`
	Weight  int            `json:"weight,omitempty"` // 0: the file's
	// File is what the configuration file said of the server then.
	File string `json:"file"`
}

// What can be ordered.
const (
	Drain   = "drain"   // no new connections; those that can move go to other servers
	Disable = "disable" // no new connections
	Enable  = "enable"  // as before
	Weight  = "weight"  // another share
)

// Command is one order as it is given.
type Command struct {
	Do     string
	Server netip.AddrPort
	Weight int
	// Force: also if no other server of the service takes connections then.
	Force bool
}

type text struct {
	Orders []Order `json:"orders"`
}

// Encode writes the list as text.
func Encode(all []Order) ([]byte, error) {
	b, err := json.Marshal(text{Orders: slices.Concat([]Order{}, all)})
	if err != nil {
		return nil, fmt.Errorf("write orders about servers: %w", err)
	}
	return b, nil
}

// Decode reads it. No text is no orders.
func Decode(b []byte) ([]Order, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var t text
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("read orders about servers: %w", err)
	}
	if len(t.Orders) > Limit {
		return nil, fmt.Errorf("read orders about servers: there are %d, at most %d", len(t.Orders), Limit)
	}
	for _, o := range t.Orders {
		if o.State > pool.Disabled || o.Weight < 0 || o.Weight > config.MaxWeight || !o.Server.IsValid() {
			return nil, fmt.Errorf("read orders about servers: %+v is none", o)
		}
	}
	return t.Orders, nil
}

// written is what the file says of a server; empty: it does not name it.
func written(c *config.Service, server netip.AddrPort) string {
	i := slices.Index(c.Servers, server)
	if i < 0 {
		return ""
	}
	share := c.ShareOf(i)
	if share.Backup {
		return fmt.Sprintf("weight %d, backup", share.Weight)
	}
	return fmt.Sprintf("weight %d", share.Weight)
}

// holds reports whether an order is about the service's server as the file has it now.
func (o *Order) holds(c *config.Service) bool {
	line := written(c, o.Server)
	return o.Service == c.Name && line != "" && o.File == line
}

// Shares are what a service's servers are to have, in the file's order.
func Shares(c *config.Service, all []Order) []pool.Share {
	shares := make([]pool.Share, len(c.Servers))
	for i := range shares {
		s := c.ShareOf(i)
		shares[i] = pool.Share{Weight: s.Weight, Backup: s.Backup}
	}
	for _, o := range all {
		if !o.holds(c) {
			continue
		}
		s := &shares[slices.Index(c.Servers, o.Server)]
		s.State = o.State
		if o.Weight > 0 {
			s.Weight = o.Weight
		}
	}
	return shares
}

// Holding are those that hold for these services; over are the others.
func Holding(services []config.Service, all []Order) (holding, over []Order) {
	for _, o := range all {
		if slices.ContainsFunc(services, func(c config.Service) bool { return o.holds(&c) }) {
			holding = append(holding, o)
		} else {
			over = append(over, o)
		}
	}
	return holding, over
}

// Add is the list with one more order about a server of that service; all stays as it is.
func Add(c *config.Service, all []Order, cmd Command) ([]Order, error) {
	i := slices.Index(c.Servers, cmd.Server)
	if i < 0 {
		return nil, fmt.Errorf("service %q has no server %v (`lockstep server list %s` shows them)", c.Name, cmd.Server, c.Name)
	}
	o := Order{Service: c.Name, Server: cmd.Server, File: written(c, cmd.Server)}
	same := func(x Order) bool { return x.Service == o.Service && x.Server == o.Server }
	if k := slices.IndexFunc(all, same); k >= 0 && all[k].holds(c) {
		o = all[k]
	}
	switch cmd.Do {
	case Drain:
		o.State = pool.Drained
	case Disable:
		o.State = pool.Disabled
	case Enable:
		o.State = pool.Ready
	case Weight:
		switch {
		case cmd.Weight < 1 || cmd.Weight > config.MaxWeight:
			return nil, fmt.Errorf("weight %d is out of range (1 to %d; `drain` gives a server no new connections at all)", cmd.Weight, config.MaxWeight)
		case c.Balance == config.BalanceFirst:
			return nil, fmt.Errorf("a weight has no effect with `balance: first`, which service %q has", c.Name)
		}
		if o.Weight = cmd.Weight; o.Weight == c.ShareOf(i).Weight {
			o.Weight = 0
		}
	default:
		return nil, fmt.Errorf("nothing called %q can be ordered of a server", cmd.Do)
	}
	next := slices.DeleteFunc(slices.Clone(all), same)
	if o.State != pool.Ready || o.Weight != 0 {
		next = append(next, o)
	}
	if len(next) > Limit {
		return nil, fmt.Errorf("there are orders about %d servers already, the limit (write them into the configuration file)", Limit)
	}
	left := slices.ContainsFunc(Shares(c, next), func(s pool.Share) bool { return s.State == pool.Ready })
	if o.State != pool.Ready && !left && !cmd.Force {
		return nil, fmt.Errorf("service %q would have no server left that takes connections, and refuse its clients (--force does it all the same)", c.Name)
	}
	return next, nil
}
