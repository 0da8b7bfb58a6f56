package stack

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Events is what a leg tells its connection. Both methods are called on packet
// paths, some with netstack's locks held: they must not block and must not call
// the leg's stream methods; they note the news and let a worker act.
type Events interface {
	// Wake: readable, writable, established, ended: look at the leg.
	Wake(*Leg)
	// Delivered: the peer has acknowledged everything below off. Of a continued leg
	// that may be more than was written to it: the former active did.
	Delivered(l *Leg, off uint64)
}

type legState uint8

const (
	// stSynReceived: a client's SYN is here, the server has not answered yet.
	stSynReceived legState = iota
	// stSynAcked: our SYN-ACK left; the client's ACK is awaited.
	stSynAcked
	// stWaiting: established for the peer, without an endpoint; segments queue.
	stWaiting
	// stDialing: netstack dials the peer, in the open.
	stDialing
	// stBuilding: the private handshake of a new endpoint is under way.
	stBuilding
	// stAttached: an endpoint sends and receives.
	stAttached
	// stTombstone: ended in order; a retransmitted FIN is answered, no more.
	stTombstone
	// stReset: ended by our RST, which the peer may not have believed because we do
	// not know where it is; what it sends is answered with another one.
	stReset
	// stClosed: gone.
	stClosed
)

// Ways in which a leg can end other than in order.
var (
	ErrReset       = errors.New("stack: connection reset by peer")
	ErrRefused     = errors.New("stack: connection refused")
	ErrUnreachable = errors.New("stack: peer unreachable")
	ErrTimeout     = errors.New("stack: peer does not answer")
	ErrAddrInUse   = errors.New("stack: address and port in use")
	ErrNoPort      = errors.New("stack: no port is free for another connection with this server")
	ErrWouldBlock  = errors.New("stack: would block")
)

// pendingMax bounds what is queued for a leg that has no endpoint yet, in
// packets (superpackets of up to 64 KB). Beyond it packets are dropped; the peer
// sends them again.
const pendingMax = 32

// A Leg is one TCP connection between this appliance and one peer. Its exported
// methods may be called from any goroutine, stream methods (stream.go) from one
// at a time.
type Leg struct {
	engine *Engine
	flow   flow
	v6     bool
	events Events

	// ep is set once, before the endpoint can produce events, by the one
	// goroutine that attaches the leg. entry and wq belong to it.
	ep    tcpip.Endpoint
	wq    waiter.Queue
	entry waiter.Entry

	// outMu orders what this leg emits: netstack's segments and the wrap's own
	// ACKs must not overtake each other, or TSval would go back (RFC 7323, 5.4).
	outMu sync.Mutex

	mu    sync.Mutex
	state legState
	p     Params
	err   error // why it ended, with stClosed

	seqDelta uint32
	// tsDelta is the wire's TSval less netstack's, for echoes coming in: the
	// smallest difference seen, since netstack's stamps are only ever late.
	tsDelta  uint32
	stackISS uint32
	stackWS  uint8 // the scale netstack applies to the window it announces
	ws       uint8 // the scale the peer applies to it

	// Receive direction: offsets in the peer's stream.
	rxNxt    uint64 // RCV.NXT as netstack last said it
	rxAcked  uint64 // highest ACK that left
	rxEdge   uint64 // highest right edge of the window that left
	rxFin    uint64 // offset after the peer's FIN, once one was seen; 0 before. See learn
	rxFreed  uint64 // discarded from the receive queue; rxNxt-rxFreed is buffered here
	rxAhead  uint64 // bytes before rxFreed that wait elsewhere, see Resume.Ahead
	rxWants  uint64 // right edge that netstack last wanted to announce
	permit   uint64 // the gate: no ACK above it leaves
	gateOpen bool   // no gate at all (alone, or not protected)
	owed     owedAck

	// Send direction: offsets in our stream.
	txNxt uint64 // highest offset that left from this endpoint, FIN counted
	txUna uint64 // highest offset the peer acknowledged, at most txNxt
	txFin uint64 // offset after our FIN, once it left; 0 before

	// peerAck is how far the peer says it is, where that is beyond txNxt: the
	// former active had sent more than this endpoint has sent again so far.
	peerAck    uint64
	peerWnd    uint16 // newest window field of the peer
	peerWndMax uint16 // largest one
	// txReach is the highest offset that a former active can have sent.
	txReach uint64

	// pathMTU is what the path to the peer takes, bytes, until pathUntil; 0: not known
	// to be less than the device's.
	pathMTU   uint16
	pathUntil time.Duration
	fragment  bool // until then the path is narrower than minMTU4: routers may fragment

	// For and from the other leg, see Join.
	mate     atomic.Pointer[Leg]
	rxClass  atomic.Uint32 // DSCP of the peer's newest segment
	rxUrgent atomic.Uint64 // offset after the peer's newest urgent data; 0: there was none
	lone     atomic.Bool   // see Lone

	confirmed bool                  // the peer has shown that it knows the connection
	located   bool                  // the peer has said where it is, by an acceptable segment
	settled   bool                  // restored: and nothing that the former active sent can change that
	restored  bool                  // continued from another appliance: peers may be ahead of us
	quiet     bool                  // restore: the peer is not to be disturbed; the first pure ACK stays here
	probed    bool                  // restore: the peer's next pure ACK may tell what is in flight, see answered
	rxProbed  uint64                // restore: rxNxt when it was asked
	peerNxt   uint64                // restore: the peer's SND.NXT as it has said then
	hurryTo   uint64                // the same, if the next ACK of the wrap is to carry hurry's option; else 0
	hurries   int                   // such ACKs
	revives   int                   // times that the peer's time-out was taken back
	revive    bool                  // it is to be now, see reviving
	ownPort   bool                  // a server: the local port is from the engine's ports
	halfWay   bool                  // a server: the ACK that completes its handshake is kept back, see Complete
	finHeld   bool                  // restore: the peer's FIN is held; replay it to the endpoint
	pending   []*stack.PacketBuffer // stWaiting, stBuilding

	passAsks bool         // see PassAsks
	asked    atomic.Bool  // the peer has asked whether the other end is there
	awaited  atomic.Bool  // see Probe
	heardAt  atomic.Int64 // when the peer has said something, by Engine.tick

	// Timestamps (RFC 7323). p.PeerTS is TS.Recent if tsKnown: it was, at tsAt.
	tsKnown    bool
	tsAt       time.Duration
	staleTS    uint32        // restored: the peer's stamp that netstack was given in place of TS.Recent
	tsBorn     uint32        // restored: our stamp when the endpoint was made
	bornAt     time.Duration // restored: and when that was
	ownEcho    bool          // restored: the peer has echoed a stamp of this endpoint
	freshTS    uint32        // echoed until freshUntil in place of an older one: see late.go
	freshUntil time.Duration

	// Probing, see probe.go.
	probing    bool // the prober has it
	probesSent int
	head       *stack.PacketBuffer // first segment that the peer may lack, as it left
	headEnd    uint64              // offset after it
	headAt     time.Duration       // when it left last
	headDone   bool                // the peer has acknowledged one of this endpoint's
	headSeen   uint64              // end of the newest segment that left
	resumed    bool                // it is probed because we were silent: see resume.go
	unheard    bool                // and has said nothing since
	missed     atomic.Bool         // something of it was not taken in while we were silent

	challengeAt time.Duration // when the next refused segment may be answered
	aheadSaid   int           // answers to acknowledgements from ahead of us

	synAckAt    time.Duration // monotonic; for the round trip and retransmission
	synAckTries int
	tombUntil   time.Duration
}

// owedAck is the newest acknowledgement that the gate kept back.
type owedAck struct {
	set   bool
	ack   uint64 // offset
	edge  uint64 // right edge that netstack wants to announce, not capped
	tsEcr uint32
	sack  [34]byte // SACK option of the kept segment
	sackN uint8
}

// KUID and KGID make a Leg a tcpip.PacketOwner: netstack stamps every segment
// of an endpoint with its owner, which saves a look-up on the way out.
func (l *Leg) KUID() uint32 { return 0 }

// KGID: see KUID.
func (l *Leg) KGID() uint32 { return 0 }

// NotifyEvent implements waiter.EventListener.
func (l *Leg) NotifyEvent(waiter.EventMask) { l.events.Wake(l) }

// SetEvents gives a leg its listener; before that there is none to wake. It must
// be called before any method that can cause events.
func (l *Leg) SetEvents(ev Events) { l.events = ev }

// Params returns what must be known to continue the leg elsewhere. For a dialled
// leg it is complete once Established.
func (l *Leg) Params() Params {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.p
}

// Established reports whether the leg has an endpoint that can carry data.
func (l *Leg) Established() bool {
	l.mu.Lock()
	st := l.state
	l.mu.Unlock()
	return st == stAttached && l.ep != nil && tcp.EndpointState(l.ep.State()) != tcp.StateSynSent
}

// Waiting reports that the peer is established and an endpoint is to be built.
func (l *Leg) Waiting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == stWaiting
}

// Confirmed reports whether the peer has shown that it knows the connection; a
// client that may still be in SYN-SENT must not be sent data.
func (l *Leg) Confirmed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.confirmed
}

// Delivered returns the offset below which the peer has acknowledged everything.
func (l *Leg) Delivered() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.txUna
}

// PeerHas returns how far the peer is known to have our stream, which may be more
// than we have sent: a former active had. ok is false while a continued leg's peer
// has not said it; its saying so is an event. Also a peer with whom nothing was going
// on may have been sent something of which only the former active knew: see AskPeer.
func (l *Leg) PeerHas() (off uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.txUna, l.peerAck), !l.restored || l.located
}

// Err returns why the leg ended, or nil while it has not ended or ended in order.
func (l *Leg) Err() error {
	l.mu.Lock()
	st, err := l.state, l.err
	l.mu.Unlock()
	if err != nil || l.ep == nil {
		return err
	}
	if st >= stTombstone {
		return nil
	}
	switch tcp.EndpointState(l.ep.State()) {
	case tcp.StateError:
		err = errorOf(l.ep.LastError())
	case tcp.StateClose:
		// The end of LAST-ACK or TIME-WAIT, or what netstack makes of a RST in
		// CLOSE-WAIT: in order only if our FIN was acknowledged.
		if l.finAcked() {
			return nil
		}
		err = ErrReset
	default:
		return nil
	}
	l.mu.Lock()
	l.err = err
	l.mu.Unlock()
	return err
}

func (l *Leg) finAcked() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.txFin > 0 && l.txUna >= l.txFin
}

func errorOf(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrConnectionRefused:
		return ErrRefused
	case *tcpip.ErrHostUnreachable, *tcpip.ErrNetworkUnreachable, *tcpip.ErrHostDown, *tcpip.ErrNoNet:
		return ErrUnreachable
	case *tcpip.ErrTimeout:
		return ErrTimeout
	default:
		return ErrReset
	}
}

// Finish ends a leg whose two FINs are acknowledged: the endpoint goes, and a
// tombstone answers a FIN that is sent again. It replaces netstack's TIME-WAIT,
// which would hold an endpoint per ended connection (RFC 9293, 3.6.1: the duty
// of TIME-WAIT is to answer and to keep old duplicates away; SYNs with the same
// addresses end it early, as RFC 6191 allows).
func (l *Leg) Finish() { l.end(stTombstone, nil) }

// Abort resets the peer and ends the leg.
func (l *Leg) Abort() {
	l.mu.Lock()
	st := l.state
	l.mu.Unlock()
	switch st {
	case stSynAcked, stWaiting, stBuilding:
		// In a private handshake the endpoint can not speak to the peer yet.
		l.sendReset()
	case stAttached, stDialing:
		if l.ep != nil {
			l.ep.Abort() // its RST passes through output while still attached
		}
	}
	switch {
	case l.unlocated():
		l.end(stReset, ErrReset)
		l.askForReset()
	case l.inFlight():
		l.end(stReset, ErrReset)
	default:
		l.end(stClosed, ErrReset)
	}
}

// inFlight reports whether the peer has not acknowledged everything: then it may not be
// where our RST says (RFC 5961, 3.2), and is answered with another one.
func (l *Leg) inFlight() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == stAttached && l.txNxt > l.txUna
}

// unlocated reports whether the leg is continued from another appliance and its
// peer has not yet said where it is. A peer ignores a RST from anywhere else
// (RFC 5961, 3.2).
func (l *Leg) unlocated() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.restored && !l.located && l.state < stTombstone
}

// Drop ends the leg without a word to the peer.
func (l *Leg) Drop() { l.end(stClosed, ErrReset) }

func (l *Leg) end(st legState, err error) {
	l.mu.Lock()
	if l.state >= stTombstone {
		l.mu.Unlock()
		return
	}
	l.state = st
	if l.err == nil {
		l.err = err
	}
	pend := l.pending
	l.pending = nil
	l.dropHead()
	l.engine.buffered.Add(-int64(l.rxNxt - l.rxFreed))
	l.rxFreed = l.rxNxt
	l.tombUntil = l.engine.now() + tombstoneLife
	l.mu.Unlock()
	for _, p := range pend {
		p.DecRef()
	}
	if l.ownPort {
		l.engine.ports.give(l)
	}
	if st != stClosed {
		l.engine.bury(l)
	} else {
		l.engine.forget(l)
	}
	if l.ep != nil {
		// From here on what the endpoint says is dropped as detached.
		l.wq.EventUnregister(&l.entry)
		l.ep.Abort()
	}
}

// rxOffset turns a wire number of the peer's direction into an offset, nearest to
// what is already known. ok is false for numbers before the stream's start.
func (l *Leg) rxOffset(seq uint32) (off uint64, ok bool) {
	return near(l.rxNxt, seq-(l.p.IRS+1))
}

// txOffset is rxOffset for our direction.
func (l *Leg) txOffset(seq uint32) (off uint64, ok bool) {
	return near(l.txNxt, seq-(l.p.ISS+1))
}

// near returns the 64-bit position whose low 32 bits are low and that lies
// nearest to ref (RFC 9293, 3.4: comparison modulo 2^32).
func near(ref uint64, low uint32) (uint64, bool) {
	d := int64(int32(low - uint32(ref)))
	if d < 0 && uint64(-d) > ref {
		return 0, false
	}
	return uint64(int64(ref) + d), true
}

// received notes RCV.NXT as netstack says it; mu is held.
func (l *Leg) received(off uint64) {
	if off > l.rxNxt {
		l.engine.buffered.Add(int64(off - l.rxNxt))
		l.rxNxt = off
		if off > l.rxFin {
			l.rxFin = 0 // bytes came from beyond: it was none
		}
	}
}

// freed notes that n bytes left the receive queue.
func (l *Leg) freed(n uint64) {
	l.mu.Lock()
	if n = min(n, l.rxNxt-l.rxFreed); l.state == stAttached && n > 0 {
		l.rxFreed += n
		l.engine.buffered.Add(-int64(n))
	}
	l.mu.Unlock()
}

func (l *Leg) rxSeq(off uint64) uint32 { return l.p.IRS + 1 + uint32(off) }
func (l *Leg) txSeq(off uint64) uint32 { return l.p.ISS + 1 + uint32(off) }

// tsNow is the TSval of whatever leaves now, netstack's segments and the wrap's
// own alike: the clock at the moment of leaving. netstack's own stamp is older by
// the time the segment took to get here; a value taken there could go back on the
// wire, and an offset derived from it would be too small for the appliance that
// continues the leg (RFC 7323, 5.3 R1: the peer drops what seems old).
func (l *Leg) tsNow() uint32 { return l.engine.ClockMillis() + l.p.TSOffset }

func be32(b []byte) uint32     { return binary.BigEndian.Uint32(b) }
func put32(b []byte, v uint32) { binary.BigEndian.PutUint32(b, v) }
