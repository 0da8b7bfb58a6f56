package tun

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/nftables"

	"lockstep/internal/loglimit"
)

// GuardConfig says which packets are refused by where they come from, and with which
// hop limits (TTL) packets come and go.
type GuardConfig struct {
	TUN, Front, Back string // interface names

	// Strict refuses what can only be forged: a server's segment from the front, a
	// client's from the back unless the way back to it leads there as well, and
	// segments to Member's port from an interface that does not have its address.
	Strict bool
	// Virtual are the addresses that clients connect to. A packet to one of them has
	// arrived: unlike one that is routed on, it may come with a hop limit of 1. So may
	// a server's segment.
	Virtual []netip.Addr
	Servers []netip.AddrPort
	Member  netip.AddrPort // on the sync network; invalid: none

	HopLimits []HopLimit

	Log *slog.Logger // nil: silent
}

// HopLimit is the hop limit of one service's segments at Addr, a virtual address or a
// server's.
type HopLimit struct {
	Addr  netip.AddrPort
	Send  uint8 // of segments from (virtual address) or to (server) it, on the wire; 0: whatever routing leaves
	Least uint8 // of clients' segments to it; with less they are refused (RFC 5082); 0: any
}

// Refusals, by reason, as Refused names them.
const (
	refusedFromBack  = "client-from-back"
	refusedFromFront = "server-from-front"
	refusedSync      = "sync-from-elsewhere"
	refusedHops      = "hop-limit"
	refusedRedirect  = "redirect" // one of this host's own kernel
)

var guardReasons = []string{refusedFromBack, refusedFromFront, refusedSync, refusedHops, refusedRedirect}

// guardTable is our table of the kernel's packet filter, of both families.
const guardTable = "lockstep"

// guardPeriod paces looking after the table, which may go with anybody's
// `nft flush ruleset`, and reading its counters.
const guardPeriod = time.Second

// Guard is a table of rules in the kernel's packet filter (nftables), which sees a
// packet before it is routed and knows the interface that it came from. The TUN device
// does not.
type Guard struct {
	cfg  GuardConfig
	log  *slog.Logger
	conn *nftables.Conn
	done chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex // guards conn and what follows
	now     map[string]uint64
	before  map[string]uint64 // of tables that were flushed
	missing bool
	closed  bool
}

// InstallGuard acts on the caller's network namespace. What a killed predecessor left
// is replaced. It fails where the kernel has no nftables.
func InstallGuard(cfg GuardConfig) (*Guard, error) {
	g := &Guard{cfg: cfg, log: cfg.Log, done: make(chan struct{}), now: map[string]uint64{}, before: map[string]uint64{}}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if g.conn, err = nftables.New(nftables.AsLasting()); err != nil {
		return nil, fmt.Errorf("open packet filter: %w", err)
	}
	if err := g.put(); err != nil {
		return nil, errors.Join(fmt.Errorf("install packet filter (nf_tables): %w", err), g.conn.CloseLasting())
	}
	g.wg.Go(g.watch)
	return g, nil
}

func (g *Guard) table() *nftables.Table {
	return &nftables.Table{Name: guardTable, Family: nftables.TableFamilyINet}
}

// put replaces the table by a whole one, in one step.
func (g *Guard) put() error {
	g.conn.AddTable(g.table()) // so that there is one to delete
	g.conn.DelTable(g.table())
	r := guardRules{conn: g.conn, cfg: &g.cfg, table: g.conn.AddTable(g.table())}
	if err := r.add(); err != nil {
		return err
	}
	return g.conn.Flush()
}

func (g *Guard) watch() {
	t := time.NewTicker(guardPeriod)
	defer t.Stop()
	for {
		select {
		case <-g.done:
			return
		case <-t.C:
			g.look()
		}
	}
}

// look reads the counters, and puts the table back if it is gone.
func (g *Guard) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	objs, err := g.conn.GetObjects(g.table())
	if err == nil && len(objs) > 0 {
		g.missing = false
		g.read(objs)
		return
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		g.log.Warn("cannot read the packet filter's counters", "err", err, loglimit.Per("guard"))
		return
	}
	for reason, n := range g.now {
		g.before[reason] += n
	}
	clear(g.now)
	if err := g.put(); err != nil {
		g.log.Warn("the packet filter's table is gone and cannot be put back", "table", guardTable, "err", err, loglimit.Per("guard"))
		g.missing = true
		return
	}
	g.log.Warn("put the packet filter's table back, which somebody has removed", "table", guardTable, loglimit.Per("guard"))
}

func (g *Guard) read(objs []nftables.Obj) {
	for _, o := range objs {
		c, ok := o.(*nftables.CounterObj)
		if !ok {
			continue
		}
		if c.Packets > g.now[c.Name] {
			g.log.Warn("refused packets", "reason", c.Name, "packets", c.Packets+g.before[c.Name], loglimit.Per(c.Name))
		}
		g.now[c.Name] = c.Packets
	}
}

// Refused counts refused packets by reason, as of the last look.
func (g *Guard) Refused() map[string]uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := map[string]uint64{}
	for _, reason := range guardReasons {
		if n := g.now[reason] + g.before[reason]; n > 0 {
			m[reason] = n
		}
	}
	return m
}

// Close takes the table away.
func (g *Guard) Close() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	close(g.done)
	g.mu.Unlock()
	g.wg.Wait()
	g.conn.DelTable(g.table())
	err := g.conn.Flush()
	if errors.Is(err, os.ErrNotExist) {
		err = nil // somebody else was first
	}
	return errors.Join(err, g.conn.CloseLasting())
}
