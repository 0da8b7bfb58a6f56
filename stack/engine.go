package stack

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"lockstep/internal/clock"
	"lockstep/tun"
)

const (
	nicID = 1

	// tombstoneLife is how long an ended connection's FIN is still answered: a
	// few retransmission time-outs of the peer.
	tombstoneLife = 10 * time.Second
	// tombstoneMax bounds tombstones; the oldest go first.
	tombstoneMax = 1 << 16

	// janitorPeriod paces SYN-ACK retransmission and the expiry of tombstones.
	janitorPeriod = 200 * time.Millisecond
)

const allEvents = waiter.ReadableEvents | waiter.WritableEvents | waiter.EventErr | waiter.EventHUp

// Handler is told of clients. Incoming runs on the packet path: it must not
// block. It must call l.SetEvents before it returns; later it calls l.Accept,
// l.Refuse or l.Drop.
type Handler interface {
	Incoming(l *Leg)
}

// Options configure an Engine.
type Options struct {
	Device  tun.Device
	Handler Handler
	// Queues are further ones of the device (tun.OpenQueues), each with a reader: connections that are passed on are spread
	// over them.
	Queues []tun.Device
	// Addresses are the virtual addresses and the floating gateway: for these
	// the engine behaves as the host they belong to (ping, RST, unreachable).
	Addresses []netip.Addr
	// Window is the receive window of every leg, bytes. Both appliances must
	// use the same: it decides the window scale. Default 4 MiB.
	Window int
	// SendBuffer bounds what is unacknowledged towards a peer, bytes per leg.
	// Default 4 MiB.
	SendBuffer int
	// Memory bounds the bytes in all receive queues. Above it data is dropped
	// that would add to a queue of more than fairShare (its sender slows down);
	// above twice of it, all data. Default 1 GiB.
	Memory int64
	// RACK switches RFC 8985 loss detection on. Off by default: netstack's
	// retransmits without loss on a fast LAN (measured; see docs/decisions/0011-rack-is-off.md).
	RACK bool
	// MinRTO is the least retransmission time-out; 0: netstack's, 200 ms.
	MinRTO time.Duration
	// OnPressure is told, once in a while, that the clients of an address get SYN
	// cookies now. It must not block.
	OnPressure func(addr netip.AddrPort)
	// OnFlood is told, each second in which it is so, to which addresses SYNs come by the
	// thousands whose senders do not answer. It must not block.
	OnFlood func(addrs []netip.AddrPort)
	// Notice is told what a peer has asked for and does not get, each kind once a minute.
	// It must not block.
	Notice func(n Notice, peer netip.AddrPort)
	// OnLink reports addresses of our own networks, which cost the kernel a neighbour
	// entry each (see neighbours). nil: there are none.
	OnLink func(netip.Addr) bool
	// Onward sends a packet (its virtio-net header first) to the peer, see HandOn. It must not
	// block. nil: there is no way.
	Onward func(bufs [][]byte) error
	// Offload may have connections that are passed on. nil: there is nobody.
	Offload Offload
	// Clock is what the lease, TSvals and round trips are read from. nil: the system's.
	Clock clock.Clock
}

// Engine is netstack over a TUN device with the wrap beneath.
type Engine struct {
	C Counters

	onNotice func(Notice, netip.AddrPort)
	notices  notices
	cookies  cookies
	ports    ports
	probes   prober
	mute     mute
	delays   delayer
	lost     lostFlows
	tick     atomic.Int64 // the janitor's now: good enough for how long a peer is silent

	engineIO
	engineVoice
	engineSizes
	offload offloading
	engineLegs

	neighbours neighbours

	done chan struct{}
	wg   sync.WaitGroup
}

// engineIO is what packets go through; set by New.
type engineIO struct {
	dev     tun.Device
	queues  []tun.Device // of the device, itself first
	handler Handler
	passer  Passer // the same; nil: it takes no connections to be passed on
	stack   *stack.Stack
	onward  func(bufs [][]byte) error
	clock   netClock
	link    *link

	// changing is held for reading while a packet is taken in, for writing while the engine begins or ends to speak: what
	// has come before that is done with, by all readers, before anything that is read afterwards.
	changing sync.RWMutex
	reading  sync.Mutex // beneath changing: one reader at a time, but for what is passed on; guards what follows
	gro      gro.GRO
	frags    fragments
	held     held
}

// engineVoice is whether the engine may speak: looked at for each packet, without a lock.
type engineVoice struct {
	active   atomic.Bool
	lease    atomic.Int64     // nanoseconds after clock.born: until when an active engine may emit
	activeAt atomic.Int64     // the same: when it was last made active
	mutedAt  atomic.Int64     // and since when it was silent when it was muted
	ipID     atomic.Uint32    // of IPv4 packets that may be fragmented
	looped   [2]atomic.Uint64 // IPv4, IPv6: see LoopSeen
	loopMark [16]byte         // random; set by New
}

// engineSizes are set by New, but for what is buffered.
type engineSizes struct {
	window      uint64
	windowScale uint8
	sendBuffer  int
	secret      [32]byte
	memory      int64
	buffered    atomic.Int64 // bytes in receive queues, by rxNxt-rxFreed of each leg, and of packets that wait for an endpoint
}

// engineLegs are the legs and who waits for new ones. The table has locks of its own; owned
// is set before Run.
type engineLegs struct {
	table *table
	owned map[[16]byte]bool
	// missing, unless nil, is asked of a flow that the table does not have, see SetMissing.
	missing atomic.Pointer[func(local, remote netip.AddrPort) bool]

	mu         sync.Mutex // leaf; guards what follows
	listeners  map[netip.AddrPort]*listener
	tombstones []*Leg // oldest first
	// passedBy are tombstones of connections that were passed on; they end at no fixed time.
	passedBy map[*Spliced]struct{}
	passedAt time.Duration // when they were looked at
}

// New makes an engine. It is muted until SetActive(true) and deaf until Run.
func New(o Options) (*Engine, error) {
	if o.Window == 0 {
		o.Window = 4 << 20
	}
	if o.SendBuffer == 0 {
		o.SendBuffer = 4 << 20
	}
	if o.Memory == 0 {
		o.Memory = 1 << 30
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	e := &Engine{
		onNotice: o.Notice, neighbours: neighbours{onLink: o.OnLink, tokens: strangersBurst}, done: make(chan struct{}),
		engineIO:    engineIO{dev: o.Device, queues: append([]tun.Device{o.Device}, o.Queues...), handler: o.Handler, onward: o.Onward, clock: newNetClock(o.Clock)},
		engineSizes: engineSizes{window: uint64(o.Window), sendBuffer: o.SendBuffer, memory: o.Memory},
		engineLegs:  engineLegs{table: newTable(), owned: make(map[[16]byte]bool), listeners: make(map[netip.AddrPort]*listener), passedBy: make(map[*Spliced]struct{})},
	}
	e.passer, _ = o.Handler.(Passer)
	e.offload.to = o.Offload
	if _, err := rand.Read(e.loopMark[:]); err != nil {
		return nil, fmt.Errorf("draw a mark: %w", err)
	}
	if _, err := rand.Read(e.secret[:]); err != nil {
		return nil, fmt.Errorf("seed sequence numbers: %w", err)
	}
	e.cookies.init(e.secret[:], &o)
	e.SetLease(Forever)
	e.ports.of = make(map[portKey]*portPool)
	e.delays.kick = make(chan struct{}, 1)
	e.probes.dues, e.mute.dues = newDues[*Leg](probeDelays[:]), newDues[muteKey](muteDelays[:])
	// netstack announces half of the receive buffer (the rest is for its own
	// overhead), and takes the scale from the whole.
	rcvBuf := 2 * (o.Window + windowSlack)
	e.windowScale = uint8(tcp.FindWndScale(seqnumSize(rcvBuf)))
	e.link = &link{e: e}
	if err := e.openStack(o, rcvBuf); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Engine) openStack(o Options, rcvBuf int) error {
	e.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:              &e.clock,
	})
	if err := e.setOptions(o, rcvBuf); err != nil {
		return err
	}
	if terr := e.stack.CreateNICWithOptions(nicID, e.link, stack.NICOptions{Name: "tun"}); terr != nil {
		return fmt.Errorf("create NIC: %s", terr)
	}
	// Any local address: legs to servers may carry the client's.
	if terr := e.stack.SetSpoofing(nicID, true); terr != nil {
		return fmt.Errorf("allow any source address: %s", terr)
	}
	if terr := e.stack.SetPromiscuousMode(nicID, true); terr != nil {
		return fmt.Errorf("accept any destination address: %s", terr)
	}
	e.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	for _, a := range o.Addresses {
		proto := header.IPv4ProtocolNumber
		if a.Is6() {
			proto = header.IPv6ProtocolNumber
		}
		pa := tcpip.ProtocolAddress{Protocol: tcpip.NetworkProtocolNumber(proto), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
		if terr := e.stack.AddProtocolAddress(nicID, pa, stack.AddressProperties{}); terr != nil {
			return fmt.Errorf("add address %s: %s", a, terr)
		}
		e.owned[a.As16()] = true
	}
	return nil
}

// setOptions fixes what netstack would otherwise tune by itself. Fixed buffers
// make the window the same on both appliances, so that a rebuilt leg's right
// edge is never left of the one announced before.
func (e *Engine) setOptions(o Options, rcvBuf int) error {
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	recovery := tcpip.TCPRecovery(0)
	if o.RACK {
		recovery = tcpip.TCPRACKLossDetection
	}
	cc := tcpip.CongestionControlOption("cubic")
	rcv := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: rcvBuf, Max: rcvBuf}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: o.SendBuffer, Max: o.SendBuffer}
	tw := tcpip.TCPTimeWaitTimeoutOption(time.Second) // tombstones do the duty, see Leg.Finish
	opts := []tcpip.SettableTransportProtocolOption{&sack, &moderate, &recovery, &cc, &rcv, &snd, &tw}
	if o.MinRTO > 0 {
		rto := tcpip.TCPMinRTOOption(o.MinRTO)
		opts = append(opts, &rto)
	}
	for _, opt := range opts {
		if terr := e.stack.SetTransportProtocolOption(tcp.ProtocolNumber, opt); terr != nil {
			return fmt.Errorf("set TCP option %T: %s", opt, terr)
		}
	}
	return nil
}

// Run reads the device until Close.
func (e *Engine) Run() {
	e.gro.Init(true)
	e.gro.Dispatcher = e.link.current()
	e.wg.Add(4 + len(e.queues))
	for _, q := range e.queues {
		go e.readLoop(q)
	}
	go e.delayLoop()
	go e.whenDue(e.probes.kick, e.probeTurn)
	go e.whenDue(e.mute.kick, e.muteTurn)
	go e.janitor()
}

// Active reports whether the engine may emit.
func (e *Engine) Active() bool { return e.active.Load() && !e.LeaseOver() }

// Forever is a lease that does not end.
var Forever = time.Unix(1<<40, 0)

// LeaseOver reports whether the lease has ended.
func (e *Engine) LeaseOver() bool {
	until := e.lease.Load()
	return until != math.MaxInt64 && int64(e.now()) >= until
}

// Close mutes the engine, closes the device and waits for all goroutines.
func (e *Engine) Close() error {
	e.SetActive(false)
	close(e.done)
	var errs []error
	for _, q := range e.queues {
		errs = append(errs, q.Close())
	}
	err := errors.Join(errs...)
	e.wg.Wait()
	for _, l := range e.table.all() {
		l.Drop()
	}
	e.stack.Destroy()
	return err
}

// ClockMillis is the millisecond clock that TSvals are taken from.
func (e *Engine) ClockMillis() uint32 { return uint32(e.now() / time.Millisecond) }

func (e *Engine) now() time.Duration { return e.clock.sinceBorn() }

// windowSlack is how much more an endpoint could take than is ever announced,
// bytes. A fresh endpoint counts the overhead of what is queued for it against
// its window; without slack a rebuilt leg's right edge would lie left of the
// former one's.
const windowSlack = 256 << 10

// fairShare is what a connection may buffer while memory is short, bytes.
const fairShare = 64 << 10

// tooMuch decides whether a leg that has buffered n bytes may take more.
func (e *Engine) tooMuch(n uint64) bool {
	b := e.buffered.Load()
	return b > e.memory && (n > fairShare || b > 2*e.memory)
}

// Roomy reports whether there is room for connections that buffer much.
func (e *Engine) Roomy() bool { return e.buffered.Load() < e.memory/2 }

// Buffered is how many bytes all receive queues hold, and packets that wait for an endpoint.
func (e *Engine) Buffered() int64 { return e.buffered.Load() }

// Tombstones counts ended connections that are still answered for.
func (e *Engine) Tombstones() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.tombstones) + len(e.passedBy)
}

// Legs counts the flows of all legs, those of connections that are passed on and half-open ones and tombstones included.
func (e *Engine) Legs() int { return e.table.count() }

// isn is an initial sequence number after RFC 6528.
func (e *Engine) isn(f *flow) uint32 {
	b := make([]byte, 0, 68)
	b = append(b, e.secret[:]...)
	b = append(b, f.local[:]...)
	b = append(b, f.remote[:]...)
	b = binary.BigEndian.AppendUint16(b, f.localPort)
	b = binary.BigEndian.AppendUint16(b, f.remotePort)
	h := sha256.Sum256(b)
	return binary.LittleEndian.Uint32(h[:]) + uint32(e.now()/(4*time.Microsecond))
}

// mss is what we announce: the device's MTU less headers (RFC 6691).
func (e *Engine) mss(v6 bool) uint16 {
	h := header.IPv4MinimumSize + header.TCPMinimumSize
	if v6 {
		h = header.IPv6MinimumSize + header.TCPMinimumSize
	}
	return uint16(e.dev.MTU() - h)
}

// newEndpoint makes an endpoint for l, bound to its local address. Many
// endpoints share a virtual address and port; only the 4-tuple is unique.
func (e *Engine) newEndpoint(l *Leg) (tcpip.Endpoint, *legWaits, error) {
	proto := tcpip.NetworkProtocolNumber(header.IPv4ProtocolNumber)
	if l.v6 {
		proto = header.IPv6ProtocolNumber
	}
	waits := new(legWaits)
	ep, terr := e.stack.NewEndpoint(tcp.ProtocolNumber, proto, &waits.wq)
	if terr != nil {
		return nil, nil, fmt.Errorf("make endpoint: %s", terr)
	}
	ep.SetOwner(l)
	l.heardAt.Store(e.tick.Load())
	so := ep.SocketOptions()
	so.SetReuseAddress(true)
	so.SetDelayOption(false) // no Nagle: the sender has decided already
	if terr := ep.Bind(fullAddress(l.p.Local)); terr != nil {
		ep.Close()
		return nil, nil, fmt.Errorf("bind %s: %w", l.p.Local, ErrAddrInUse)
	}
	return ep, waits, nil
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

// forget takes an ended leg out of all tables.
func (e *Engine) forget(l *Leg) {
	e.table.remove(l)
	e.halfOpenDone(l)
}

func (e *Engine) bury(l *Leg) {
	e.halfOpenDone(l)
	e.mu.Lock()
	e.tombstones = append(e.tombstones, l)
	var old *Leg
	if len(e.tombstones) > tombstoneMax {
		old = e.popTombstone()
	}
	e.mu.Unlock()
	if old != nil {
		e.table.remove(old)
	}
}

// popTombstone takes the oldest; mu is held.
func (e *Engine) popTombstone() *Leg {
	l := e.tombstones[0]
	e.tombstones[0] = nil
	e.tombstones = e.tombstones[1:]
	return l
}

func (e *Engine) janitor() {
	defer e.wg.Done()
	t := time.NewTicker(janitorPeriod)
	defer t.Stop()
	looked := e.now()
	for {
		select {
		case <-e.done:
			return
		case <-t.C:
			e.tick.Store(int64(e.now()))
			e.allowOffload()
			e.sweep(e.now())
			e.sweepSpliced(e.now())
			e.sweepLost(e.now())
			if now := e.now(); now-looked >= floodLook {
				looked = now
				if addrs := e.flooded(); len(addrs) > 0 && e.cookies.onFlood != nil {
					e.cookies.onFlood(addrs)
				}
			}
		}
	}
}

func (e *Engine) sweep(now time.Duration) {
	var half []*Leg
	e.mu.Lock()
	for _, ln := range e.listeners {
		for l := range ln.halfOpen {
			half = append(half, l)
		}
	}
	var dead []*Leg
	for len(e.tombstones) > 0 && e.tombstones[0].tombUntil <= now {
		dead = append(dead, e.popTombstone())
	}
	e.mu.Unlock()
	for _, l := range dead {
		e.table.remove(l)
	}
	for _, l := range half {
		if !l.retransmitSYNACK(now) {
			l.giveUp()
		}
	}
}
