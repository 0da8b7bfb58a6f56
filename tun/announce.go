package tun

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// burstAt is when announcements leave after Activate. Several, since each may
// be lost and nothing confirms them; the first are close together because a
// switch that has just seen a port change may drop for some milliseconds.
func burstAt() []time.Duration {
	return []time.Duration{
		0, 10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond,
		500 * time.Millisecond, time.Second,
	}
}

// AnnouncerConfig names what to answer for, and where.
type AnnouncerConfig struct {
	Interface string       // must exist and be Ethernet-like
	Addrs     []netip.Addr // IPv4 and IPv6, without zones; repeated ones count once
	Log       *slog.Logger // nil: silent
	// Heard is told of each host that asks for one of the addresses, active or not. It
	// must not block. nil: nobody is.
	Heard func(netip.Addr)
	// May is asked before each answer while active; nil: always. An appliance whose
	// lease has ended must not draw anybody's packets to itself.
	May func() bool
}

// Conflict tells that a frame claimed one of our addresses for another MAC.
type Conflict struct {
	Interface string
	Addr      netip.Addr
	MAC       net.HardwareAddr // the claimant's
}

// announcerStats counts frames since NewAnnouncer.
type announcerStats struct {
	Announced  uint64 // gratuitous ARP and unsolicited advertisements sent
	Answered   uint64 // requests and solicitations answered
	Conflicts  uint64 // frames that claimed one of our addresses while active
	Claims     uint64 // the same while inactive: the other appliance at work
	BadFrames  uint64 // malformed ARP or ND frames received
	SendErrors uint64 // frames the interface did not take (link down, say)
}

// Announcer answers ARP and neighbour discovery for addresses that the kernel
// does not have, on one interface, while active. It is made inactive, with its
// sockets open and its multicast groups joined, so that Activate is nothing
// but sending.
type Announcer struct {
	name   string
	log    *slog.Logger
	addr4  []netip.Addr
	addr6  []netip.Addr
	mine   map[netip.Addr]bool // immutable
	socks  *packetSockets
	cancel context.CancelFunc
	wg     sync.WaitGroup
	kick   chan struct{} // capacity 1: start the burst anew
	attack chan struct{} // capacity 1: somebody else has claimed an address
	may    func() bool   // see AnnouncerConfig.May; immutable
	heard  func(netip.Addr)

	// mu makes "still active?" and the sending one step: after Deactivate
	// returned not one frame leaves. It guards active, link and buf.
	mu     sync.Mutex
	active bool
	closed bool
	link   linkAddr
	buf    []byte // for one outgoing frame

	conflicts chan Conflict // capacity 1; written with mu held, so there is one writer
	claimants chan Conflict // capacity 1, likewise: what Claims delivers

	announcerCounters
}

// announcerCounters need no lock.
type announcerCounters struct {
	announced, answered, probed, conflicted, claims, badFrames, sendErrors atomic.Uint64
}

// linkAddr is where frames go out; index 0 while the interface is missing.
type linkAddr struct {
	index int
	mac   hwAddr
	up    bool
}

func linkAddrOf(n NIC) linkAddr {
	l := linkAddr{index: n.Index, up: n.Carrier}
	if len(n.MAC) == len(l.mac) {
		l.mac = hwAddr(n.MAC)
	}
	return l
}

// NewAnnouncer opens the sockets in the caller's network namespace. The result
// is inactive. Close it to end its goroutines.
func NewAnnouncer(cfg AnnouncerConfig) (*Announcer, error) {
	a := &Announcer{
		name: cfg.Interface, log: cfg.Log,
		mine: make(map[netip.Addr]bool),
		kick: make(chan struct{}, 1), attack: make(chan struct{}, 1),
		conflicts: make(chan Conflict, 1), claimants: make(chan Conflict, 1), may: cfg.May, heard: cfg.Heard,
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	for _, ip := range cfg.Addrs {
		if !usableUnicast(ip) {
			return nil, fmt.Errorf("announce on %q: %s is not a plain unicast address", a.name, ip)
		}
		ip = ip.Unmap()
		if a.mine[ip] {
			continue
		}
		a.mine[ip] = true
		if ip.Is4() {
			a.addr4 = append(a.addr4, ip)
		} else {
			a.addr6 = append(a.addr6, ip)
		}
	}
	nic, err := ReadNIC(a.name)
	if err != nil {
		return nil, fmt.Errorf("announce on %q: %w", a.name, err)
	}
	if len(nic.MAC) != len(hwAddr{}) {
		return nil, fmt.Errorf("announce on %q: hardware address %q is not an Ethernet address", a.name, nic.MAC)
	}
	a.link = linkAddrOf(nic)
	if a.socks, err = openPacketSockets(nic, a.addr4, a.addr6); err != nil {
		return nil, fmt.Errorf("announce on %q: %w", a.name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	links, err := WatchLinks(ctx, []string{a.name})
	if err != nil {
		cancel()
		a.socks.close()
		return nil, fmt.Errorf("announce on %q: %w", a.name, err)
	}
	a.cancel = cancel
	a.wg.Go(func() { a.repeat(ctx) })
	a.wg.Go(func() { a.follow(ctx, links) })
	a.wg.Go(func() { a.defences(ctx) })
	if a.socks.arp != nil {
		a.wg.Go(func() { a.socks.arp.receive(ctx, &a.mu, make([]byte, maxFrame), a.handleARP) })
	}
	if a.socks.ndp != nil {
		a.wg.Go(func() { a.socks.ndp.receive(ctx, &a.mu, make([]byte, maxFrame), a.handleND) })
	}
	return a, nil
}

// Activate answers from now on, and announces all addresses: once before it
// returns and again several times over the first second. On an active
// announcer it announces anew (after a conflict, say). What was received before
// is no conflict: it may be the last word of the appliance that this one follows.
func (a *Announcer) Activate() {
	a.mu.Lock()
	if !a.closed {
		if !a.active {
			a.drainLocked()
		}
		a.active = true
		a.announceLocked()
	}
	a.mu.Unlock()
	a.restartBurst()
}

// Deactivate stops answering and announcing; when it returns, nothing more
// leaves. Neighbours keep what they learnt until the other appliance announces.
func (a *Announcer) Deactivate() {
	a.mu.Lock()
	a.active = false
	a.mu.Unlock()
	select { // a claim seen while active is no news to who has let go
	case <-a.conflicts:
	default:
	}
}

// Conflicts delivers claims by others seen while active. It holds one, the
// latest. It is never closed.
func (a *Announcer) Conflicts() <-chan Conflict { return a.conflicts }

// stats may be called at any time.
func (a *Announcer) stats() announcerStats {
	return announcerStats{
		Announced: a.announced.Load(), Answered: a.answered.Load(), Conflicts: a.conflicted.Load(),
		Claims: a.claims.Load(), BadFrames: a.badFrames.Load(), SendErrors: a.sendErrors.Load(),
	}
}

// Close deactivates, leaves the groups and joins all goroutines.
func (a *Announcer) Close() error {
	a.mu.Lock()
	already := a.closed
	a.closed, a.active = true, false
	a.mu.Unlock()
	if already {
		a.wg.Wait()
		return nil
	}
	a.cancel()
	err := a.socks.close()
	a.wg.Wait()
	if err != nil {
		return fmt.Errorf("close announcer on %q: %w", a.name, err)
	}
	return nil
}

func (a *Announcer) restartBurst() {
	select {
	case a.kick <- struct{}{}:
	default: // one is waiting already
	}
}

// repeat sends the later announcements of each burst.
func (a *Announcer) repeat(ctx context.Context) {
	schedule := burstAt()
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	next, start := len(schedule), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.kick:
			next, start = 1, time.Now() // the first one left with Activate
		case <-timer.C:
			a.mu.Lock()
			if a.active {
				a.announceLocked()
			}
			a.mu.Unlock()
			next++
		}
		if next < len(schedule) {
			timer.Reset(time.Until(start.Add(schedule[next])))
		}
	}
}

// announceLocked sends one announcement of every kind for every address.
// a.mu is held.
func (a *Announcer) announceLocked() {
	if a.may != nil && !a.may() {
		return
	}
	for _, ip := range a.addr4 {
		for _, op := range [...]uint16{arpRequest, arpReply} {
			f := gratuitousARP(op, a.link.mac, ip)
			a.buf = f.append(a.buf[:0])
			a.count(&a.announced, a.socks.arp.send(a.link.index, a.buf))
		}
	}
	for _, ip := range a.addr6 {
		f := (&ndFrame{target: ip}).advertise(a.link.mac)
		a.buf = f.append(a.buf[:0])
		a.count(&a.announced, a.socks.ndp.send(a.link.index, a.buf))
	}
}

func (a *Announcer) count(ok *atomic.Uint64, err error) {
	if err != nil {
		// Not logged each: a link that is down refuses every frame, and follow
		// announces again when it is back.
		a.sendErrors.Add(1)
		return
	}
	ok.Add(1)
}

// follow keeps to the interface through changes of its MAC, its carrier, and
// even its deletion and return under the same name.
func (a *Announcer) follow(ctx context.Context, links <-chan LinkEvent) {
	for ev := range links {
		a.mu.Lock()
		was := a.link
		now := linkAddrOf(ev.NIC)
		if ev.Exists && now.mac == (hwAddr{}) {
			now.mac = was.mac
		}
		a.link = now
		a.mu.Unlock()
		if now == was {
			continue
		}
		a.log.Info("interface changed", "interface", a.name, "exists", ev.Exists, "carrier", now.up,
			"index", now.index, "mac", ev.MAC)
		if now.index != 0 && now.index != was.index {
			if err := a.socks.rebind(now.index); err != nil {
				a.log.Error("cannot listen for ARP and neighbour discovery", "interface", a.name, "err", err)
			}
		}
		a.mu.Lock()
		announce := a.active && now.up
		if announce {
			a.announceLocked()
		}
		a.mu.Unlock()
		if announce {
			a.restartBurst()
		}
	}
	if ctx.Err() == nil {
		a.log.Error("no longer told of link changes", "interface", a.name)
	}
}

// maxFrame is more than any ARP or ND frame has, bytes; the rest is cut off.
const maxFrame = 2048

// drainLocked handles the frames that have been received and not yet read.
// a.mu is held.
func (a *Announcer) drainLocked() {
	frame := make([]byte, maxFrame)
	if a.socks.arp != nil {
		a.socks.arp.drain(frame, a.handleARP)
	}
	if a.socks.ndp != nil {
		a.socks.ndp.drain(frame, a.handleND)
	}
}

// handleARP answers requests for our addresses, RFC 5227 probes included, and
// notices who else claims them. a.mu is held.
func (a *Announcer) handleARP(b []byte) {
	f, err := parseARP(b)
	if err != nil {
		a.badFrames.Add(1)
		return
	}
	mac := a.link.mac
	if f.senderHW == mac || f.ethSrc == mac {
		return
	}
	if f.op == arpRequest && a.mine[f.targetIP] && !a.mine[f.senderIP] {
		a.met(f.senderIP)
	}
	if !a.answering() {
		if a.mine[f.senderIP] {
			a.claimed(f.senderIP, f.senderHW)
		}
		return
	}
	if a.mine[f.senderIP] {
		a.conflict(f.senderIP, f.senderHW)
		return
	}
	// A request for somebody else can reach us on a port in promiscuous mode.
	if f.op != arpRequest || !a.mine[f.targetIP] || f.ethDst != mac && !f.ethDst.multicast() {
		return
	}
	r := f.reply(mac)
	a.buf = r.append(a.buf[:0])
	a.count(&a.answered, a.socks.arp.send(a.link.index, a.buf))
}

// met tells of a host that asks for one of our addresses; a probe (RFC 5227, RFC 4862) has no
// sender yet.
func (a *Announcer) met(host netip.Addr) {
	if a.heard != nil && usableUnicast(host) {
		a.heard(host)
	}
}

// handleND does the same for neighbour discovery. a.mu is held.
func (a *Announcer) handleND(b []byte) {
	f, err := parseND(b)
	if err != nil {
		a.badFrames.Add(1)
		return
	}
	mac := a.link.mac
	if !a.mine[f.target] || f.ethSrc == mac || f.hasLink && f.linkAddr == mac {
		return
	}
	if f.typ == ndSolicit {
		a.met(f.src)
	}
	if !a.answering() {
		if f.typ == ndAdvertise {
			a.claimed(f.target, f.ethSrc)
		}
		return
	}
	if f.typ == ndAdvertise {
		claimant := f.ethSrc
		if f.hasLink {
			claimant = f.linkAddr
		}
		a.conflict(f.target, claimant)
		return
	}
	if f.ethDst != mac && !f.ethDst.multicast() {
		return
	}
	r := f.advertise(mac)
	a.buf = r.append(a.buf[:0])
	a.count(&a.answered, a.socks.ndp.send(a.link.index, a.buf))
}

// conflict replaces an unread older report by this one. a.mu is held.
func (a *Announcer) conflict(ip netip.Addr, mac hwAddr) {
	a.conflicted.Add(1)
	c := Conflict{Interface: a.name, Addr: ip, MAC: net.HardwareAddr(mac[:])}
	select {
	case <-a.conflicts:
	default:
	}
	select {
	case a.conflicts <- c:
	default:
	}
}

// answering tells whether this is the one to answer now; mu is held.
func (a *Announcer) answering() bool { return a.active && (a.may == nil || a.may()) }
