package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"lockstep/internal/loglimit"
)

// GuardConfig says which packets are refused by where they come from, and with which
// hop limits (TTL) packets come and go.
type GuardConfig struct {
	TUN, Front, Back string // interface names

	// Strict refuses what can only be forged: a server's segment from the front, a
	// client's from the back unless the way back to it leads there as well, and
	// what is for Member's port or the tunnel's from an interface that does not have its address.
	Strict bool
	// Virtual are the addresses that clients connect to. A packet to one of them has
	// arrived: unlike one that is routed on, it may come with a hop limit of 1. So may
	// a server's segment.
	Virtual []netip.Addr
	Servers []netip.AddrPort
	Member  netip.AddrPort // on the sync network; invalid: none
	// TunnelPort is the UDP port of the tunnel to the peer, at Member's address; 0: none.
	TunnelPort uint16

	HopLimits []HopLimit

	Log *slog.Logger // nil: silent

	tried uint32 // whose second SYN is waited for; 0: pressureTried
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
	refusedFlood     = "syn-flood"
)

var guardReasons = []string{refusedFromBack, refusedFromFront, refusedSync, refusedHops, refusedRedirect, refusedFlood}

// guardTable is our table of the kernel's packet filter, of both families.
const guardTable = "lockstep"

// guardPeriod paces looking after the table, which may go with anybody's
// `nft flush ruleset`, and reading its counters.
const guardPeriod = time.Second

// guardPatience is how long it may take until one answer is read whole. The kernel gives it while it
// is asked, and what is not there then never comes: all that takes time is this process on a busy machine.
const guardPatience = 30 * time.Second

// guardBuffer is for what is sent at once, and for an acknowledgement of each message of
// it, which costs the kernel about 1 KiB: a thousand services with a ttl are some 4000.
const guardBuffer = 8 << 20 // bytes

// Guard is a table of rules in the kernel's packet filter (nftables), which sees a
// packet before it is routed and knows the interface that it came from. The TUN device
// does not.
type Guard struct {
	cfg  GuardConfig
	log  *slog.Logger
	conn *nftables.Conn
	sock *netlink.Conn // beneath conn
	done chan struct{}
	wg   sync.WaitGroup

	faults chan []string         // cap 1, the newest
	press  chan []netip.AddrPort // cap 1

	plain bool // the table has no rules for a flood of SYNs

	mu      sync.Mutex // guards conn and what follows
	present guardContents
	seen    uint32 // the generation at which all of it was there
	now     map[string]uint64
	before  map[string]uint64            // of tables that were flushed
	pressed map[netip.AddrPort]time.Time // when that was put into the table
	missing bool
	closed  bool
}

// InstallGuard acts on the caller's network namespace. What a killed predecessor left
// is replaced. It fails where the kernel has no nftables.
func InstallGuard(cfg GuardConfig) (*Guard, error) { return installGuard(cfg) }

func installGuard(cfg GuardConfig, opts ...nftables.ConnOption) (*Guard, error) {
	g := &Guard{cfg: cfg, log: cfg.Log, done: make(chan struct{}), faults: make(chan []string, 1),
		press: make(chan []netip.AddrPort, 1), pressed: map[netip.AddrPort]time.Time{}, now: map[string]uint64{}, before: map[string]uint64{}}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if err := g.open(opts); err != nil {
		return nil, err
	}
	if err := g.putFirst(); err != nil {
		return nil, errors.Join(fmt.Errorf("install packet filter (nf_tables): %w", err), g.conn.CloseLasting())
	}
	g.wg.Go(g.watch)
	return g, nil
}

// open opens the packet filter's socket, and asks whether there is one behind it. A kernel
// without nf_tables has one answer to all that is put at once, and put waits for one to
// each. So it is asked first what has one answer in any case.
func (g *Guard) open(opts []nftables.ConnOption) (err error) {
	if g.conn, err = nftables.New(append([]nftables.ConnOption{nftables.AsLasting(), nftables.WithSockOptions(g.prepare)}, opts...)...); err != nil {
		return fmt.Errorf("open packet filter: %w", err)
	}
	g.await()
	if _, err = g.conn.ListTablesOfFamily(nftables.TableFamilyINet); err != nil {
		return errors.Join(fmt.Errorf("ask the kernel's packet filter (has it nf_tables?): %w", err), g.conn.CloseLasting())
	}
	return nil
}

// prepare is for a new socket. With smaller buffers than it asks for, few rules do.
func (g *Guard) prepare(sock *netlink.Conn) error {
	g.sock = sock
	_ = sock.SetReadBuffer(guardBuffer)
	_ = sock.SetWriteBuffer(guardBuffer)
	return nil
}

// await bounds the wait for the answers to what is asked next. (The sockets of tests
// have no deadlines.)
func (g *Guard) await() { _ = g.sock.SetReadDeadline(time.Now().Add(guardPatience)) }

// drain forgets answers that an error has left unread: they would be taken for those to
// what is asked next.
func (g *Guard) drain() {
	raw, err := g.sock.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		var b [1]byte
		for {
			_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_DONTWAIT)
			if err != nil && err != unix.ENOBUFS && err != unix.EINTR {
				return
			}
		}
	})
}

func (g *Guard) table() *nftables.Table {
	return &nftables.Table{Name: guardTable, Family: nftables.TableFamilyINet}
}

// putFirst puts the table, without the rules for a flood if the kernel does not take it with
// them: they only make one cheaper.
func (g *Guard) putFirst() error {
	err := g.put()
	if err == nil {
		return nil
	}
	g.plain = true
	if plain := g.put(); plain != nil {
		return err
	}
	g.log.Warn("a flood of SYNs is not dropped where it arrives: the packet filter does not take the rules for it (has the kernel CONFIG_NFT_LIMIT?)", "err", err)
	return nil
}

// put replaces the table by a whole one, in one step. After an error there is none: that
// answers do not get through does not say that the kernel has not done it.
func (g *Guard) put() error {
	g.conn.AddTable(g.table()) // so that there is one to delete
	g.conn.DelTable(g.table())
	r := guardRules{conn: g.conn, cfg: &g.cfg, table: g.conn.AddTable(g.table()), plain: g.plain}
	if err := r.add(); err != nil {
		return err
	}
	g.await()
	err := g.conn.Flush()
	if err == nil {
		g.present = r.contents
		return nil
	}
	g.drain()
	return errors.Join(err, g.remove())
}

// remove takes the table away, if there is one.
func (g *Guard) remove() error {
	g.conn.DelTable(g.table())
	g.await()
	err := g.conn.Flush()
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	g.drain()
	return fmt.Errorf("remove table %s: %w", guardTable, err)
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
		case addrs := <-g.press:
			g.pressNow(addrs)
		}
	}
}

// look reads the counters, and puts the table back if it or what is in it is gone.
func (g *Guard) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.await()
	objs, err := g.conn.GetObjects(g.table()) // none of a table that is not there
	whole := false
	if err == nil {
		g.read(objs)
		if len(objs) > 0 {
			whole, err = g.whole()
		}
	}
	switch {
	case err != nil:
		g.drain()
		g.log.Warn("cannot look after the packet filter's table", "table", guardTable, "err", err, loglimit.Per("guard"))
	case whole:
		g.tell(nil)
	default:
		g.putBack()
	}
}

// nfgenmsg is the length of the header of what the packet filter is asked and answers:
// struct nfgenmsg of linux/netfilter/nfnetlink.h.
const nfgenmsg = 4

// generation is the number of the packet filter's present state: every change of anybody's
// counts it on.
func generation(sock *netlink.Conn) (uint32, error) {
	replies, err := sock.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, nfgenmsg),
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the generation: %w", err)
	}
	for _, m := range replies {
		if len(m.Data) < nfgenmsg {
			continue
		}
		attrs, err := netlink.NewAttributeDecoder(m.Data[nfgenmsg:])
		if err != nil {
			return 0, fmt.Errorf("ask for the generation: %w", err)
		}
		attrs.ByteOrder = binary.BigEndian
		for attrs.Next() {
			if attrs.Type() == unix.NFTA_GEN_ID {
				return attrs.Uint32(), attrs.Err()
			}
		}
	}
	return 0, errors.New("ask for the generation: the answer has none")
}

// whole tells whether everything is in the table: `nft flush` takes the rules and leaves
// the counters. It reads them, perhaps thousands, only when somebody has changed something.
func (g *Guard) whole() (bool, error) {
	generation, err := generation(g.sock)
	if err != nil || generation == g.seen {
		return err == nil, err
	}
	whole, err := g.complete()
	if whole {
		g.seen = generation
	}
	return whole, err
}

func (g *Guard) complete() (bool, error) {
	for name, n := range g.present.rules {
		g.await()
		rules, err := g.conn.GetRules(g.table(), &nftables.Chain{Name: name})
		if err != nil {
			return false, fmt.Errorf("list the rules of chain %s: %w", name, err)
		}
		if len(rules) < n {
			return false, nil
		}
	}
	for name, n := range g.present.elements {
		g.await()
		elems, err := g.conn.GetSetElements(&nftables.Set{Table: g.table(), Name: name})
		if err != nil {
			return false, fmt.Errorf("list the elements of set %s: %w", name, err)
		}
		if len(elems) < n {
			return false, nil
		}
	}
	return true, nil
}

func (g *Guard) putBack() {
	for reason, n := range g.now {
		g.before[reason] += n
	}
	clear(g.now)
	clear(g.pressed)
	if err := g.put(); err != nil {
		g.log.Warn("the packet filter's table is gone and cannot be put back", "table", guardTable, "err", err, loglimit.Per("guard"))
		g.tell([]string{fmt.Sprintf("the packet filter's table %s is gone and cannot be put back (nft list table inet %[1]s)", guardTable)})
		return
	}
	g.log.Warn("put the packet filter's table back, which somebody has removed or emptied", "table", guardTable, loglimit.Per("guard"))
	g.tell(nil)
}

// tell delivers what has changed.
func (g *Guard) tell(faults []string) {
	if missing := len(faults) > 0; missing != g.missing {
		g.missing = missing
		select {
		case <-g.faults:
		default:
		}
		g.faults <- faults // has room: we are the only sender
	}
}

// Faults delivers what is wrong whenever that changes: without the table what is
// configured does not hold.
func (g *Guard) Faults() <-chan []string { return g.faults }

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
	return errors.Join(g.remove(), g.conn.CloseLasting()) // nil if somebody else was first
}
