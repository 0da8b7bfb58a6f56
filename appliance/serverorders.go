package appliance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/appliance/orders"
	"lockstep/appliance/pool"
	"lockstep/appliance/statefile"
	"lockstep/replication"
	"lockstep/replication/wire"
)

// What the operator orders of servers at run time (lockstep server). The active takes it, keeps it in a file, goes by it and tells the
// standby, which does the same and says so.

// standbyTakes bounds how long an order waits for the standby to have it.
const standbyTakes = 2 * time.Second

// serverOrders are what this appliance goes by.
type serverOrders struct {
	peer chan struct{} // cap 1: the peer has said what it goes by

	mu   sync.Mutex
	list []orders.Order
	text []byte          // as the peer is told
	file *statefile.File // nil: nothing is kept yet, or it cannot be
	// unkept is why the newest orders would not outlive the process; nil: they do.
	unkept error
	// said is closed, and made anew, when the peer has said what it goes by.
	said chan struct{}
}

func (n *Node) ordersPath() string {
	return filepath.Join(n.cfg.Pair.State, n.cfg.Pair.Name+"."+n.cfg.Node+".servers")
}

// loadOrders reads what was ordered before this process began.
func (n *Node) loadOrders(undo *closers) {
	o := &n.orders
	o.peer, o.said = make(chan struct{}, 1), make(chan struct{})
	undo.add("orders about servers", func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.file == nil {
			return nil
		}
		return o.file.Close()
	})
	if _, err := os.Stat(n.ordersPath()); err != nil {
		return // none
	}
	all, err := n.readOrders()
	if err != nil {
		n.log.Warn("what was ordered of servers (lockstep server) is forgotten", "err", err)
		return
	}
	holding, over := orders.Holding(n.cfg.Services, all)
	for _, x := range over {
		n.log.Info("the configuration file says something else of a server than when something was ordered of it (lockstep server): the order is over", "service", x.Service, "server", x.Server)
	}
	if o.text, err = orders.Encode(holding); err == nil {
		o.list = holding
	}
}

// readOrders opens the file and reads it.
func (n *Node) readOrders() ([]orders.Order, error) {
	f, err := statefile.Open(n.ordersPath())
	if err != nil {
		return nil, err
	}
	n.orders.file = f
	b, err := f.Load()
	if err != nil {
		return nil, err
	}
	return orders.Decode(b)
}

// watchOrders begins to tell the peer what is gone by here, and as the standby to go by what it says.
func (n *Node) watchOrders(ctx context.Context) {
	o := &n.orders
	o.mu.Lock()
	text := o.text
	n.journal.with(func(c *replication.Core, _ replication.Nanos) { c.SetOrders(text) })
	o.mu.Unlock()
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		for {
			select {
			case <-ctx.Done():
				return
			case <-o.peer:
				n.followOrders()
			}
		}
	}()
}

// followOrders takes what the active says.
func (n *Node) followOrders() {
	o := &n.orders
	var text []byte
	var follow bool
	n.journal.shell.Look(func(c *replication.Core) {
		text, follow = c.PeerOrders()
		follow = follow && c.Role() == replication.RoleStandby
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.said)
	o.said = make(chan struct{})
	if !follow || string(text) == string(o.text) {
		return
	}
	all, err := orders.Decode(text)
	if err != nil {
		n.log.Warn("the active goes by orders about servers that are not understood here", "err", err)
		return
	}
	n.goBy(all, text)
	if _, over := orders.Holding(n.cfg.Services, all); len(over) > 0 {
		n.log.Warn("what was ordered of servers on the active is not about servers as this appliance's configuration has them: here the file holds", "orders", len(over), "first", over[0].Server)
	}
	n.log.Info("the active has told what was ordered of servers", "orders", len(all))
}

// goBy makes the list what this appliance goes by. orders.mu is held.
func (n *Node) goBy(all []orders.Order, text []byte) {
	o := &n.orders
	o.list, o.text = all, text
	o.unkept = n.keepOrders(text)
	for i := range n.cfg.Services {
		c := &n.cfg.Services[i]
		if err := n.services[i].Pool.Change(poolConfig(c, all)); err != nil {
			n.log.Error("what was ordered of a service's servers cannot be done", "service", c.Name, "err", err)
			continue
		}
		n.relay.Rearranged(n.services[i])
	}
	n.journal.with(func(c *replication.Core, _ replication.Nanos) { c.SetOrders(text) })
}

// keepOrders writes the text to the file. orders.mu is held.
func (n *Node) keepOrders(text []byte) (err error) {
	o := &n.orders
	if o.file == nil {
		if o.file, err = statefile.Open(n.ordersPath()); err != nil {
			return fmt.Errorf("keep orders about servers: %w", err)
		}
	}
	return o.file.Save(text)
}

// Server implements control.Provider: it does what is ordered of a server.
func (n *Node) Server(ctx context.Context, cmd control.ServerCommand) (control.ServerOrdered, error) {
	var done control.ServerOrdered
	if n.getRole() != replication.RoleActive {
		return done, fmt.Errorf("this appliance is %s, not active: order it on the active one%s", roleName(n.getRole()), n.whoIsActive())
	}
	i := slices.IndexFunc(n.cfg.Services, func(c config.Service) bool { return c.Name == cmd.Service })
	if i < 0 {
		return done, fmt.Errorf("there is no service %q", cmd.Service)
	}
	o := &n.orders
	o.mu.Lock()
	next, err := orders.Add(&n.cfg.Services[i], o.list, orders.Command{Do: cmd.Do, Server: cmd.Server, Weight: cmd.Weight, Force: cmd.Force})
	var text []byte
	if err == nil {
		text, err = orders.Encode(next)
	}
	if err == nil && len(text) > wire.MaxOrders {
		err = errors.New("too much is ordered of servers: write it into the configuration file")
	}
	if err != nil {
		o.mu.Unlock()
		return done, err
	}
	n.goBy(next, text)
	unkept := o.unkept
	o.mu.Unlock()
	n.log.Info("ordered of a server", "service", cmd.Service, "server", cmd.Server, "what", cmd.Do, "weight", cmd.Weight)
	if unkept != nil {
		n.log.Warn("orders about servers would not outlive this process", "err", unkept)
		done.Unkept = unkept.Error()
	}
	done.Standby = n.standbyHasOrders(ctx)
	return done, nil
}

func (n *Node) whoIsActive() string {
	if name := n.peerName(); name != "" && n.getRole() == replication.RoleStandby {
		return ", " + name
	}
	return ""
}

// standbyHasOrders waits until the standby goes by the newest orders, or says why that is not known.
func (n *Node) standbyHasOrders(ctx context.Context) (why string) {
	ctx, cancel := context.WithTimeout(ctx, standbyTakes)
	defer cancel()
	o := &n.orders
	for {
		o.mu.Lock()
		said := o.said
		o.mu.Unlock()
		var joined, owed bool
		n.journal.shell.Look(func(c *replication.Core) {
			_, joined = c.PeerOrders()
			owed = c.OrdersOwed()
		})
		switch {
		case !owed && joined:
			return ""
		case !owed:
			return "there is no standby that could be told, or it is of an older version: one is told when it joins"
		}
		select {
		case <-said:
		case <-ctx.Done():
			return "the standby has not said that it goes by it (is it busy? see `lockstep status`)"
		}
	}
}

// stateOf names what was ordered of a server.
func stateOf(s *pool.Status) string {
	if s.Gone {
		return control.ServerRemoved
	}
	return s.Share.State.String()
}
