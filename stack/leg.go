package stack

import (
	"encoding/binary"
	"errors"
	"sync"

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
	// stParked: as stWaiting, but an endpoint is to be built only if something comes that needs one.
	stParked
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
	errTimeout     = errors.New("stack: peer does not answer")
	ErrAddrInUse   = errors.New("stack: address and port in use")
	ErrNoPort      = errors.New("stack: no port is free for another connection with this server")
	errWouldBlock  = errors.New("stack: would block")
)

// pendingMax bounds what is queued for a leg that has no endpoint yet, in
// packets (superpackets of up to 64 KB; see pendingAgain, and tooMuch). Beyond it packets are
// dropped; the peer sends them again.
const pendingMax = 32

// A Leg is one TCP connection between this appliance and one peer. Its exported
// methods may be called from any goroutine, stream methods (stream.go) from one
// at a time. Its fields are in groups, each with what guards it; where nothing else is
// said that is mu.
type Leg struct {
	engine *Engine
	flow   flow
	v6     bool
	events Events

	legEndpoint
	legMate
	legAsked

	// outMu orders what this leg emits: netstack's segments and the wrap's own
	// ACKs must not overtake each other, or TSval would go back (RFC 7323, 5.4).
	outMu sync.Mutex

	mu    sync.Mutex
	state legState
	p     Params
	err   error // why it ended, with stClosed

	legNumbers
	legReceiving
	legSending
	legHandshake
	legContinued
	legHurry
	legStamps
	legProbe
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
	st, ep := l.state, l.ep
	l.mu.Unlock()
	return st == stAttached && ep != nil && tcp.EndpointState(ep.State()) != tcp.StateSynSent
}

// Waiting reports that the peer is established and an endpoint is to be built.
func (l *Leg) Waiting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == stWaiting
}

// Attaching reports whether the leg is about to get its endpoint.
func (l *Leg) Attaching() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == stWaiting || l.state == stBuilding
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

// Received returns the offset below which everything of the peer's has come.
func (l *Leg) Received() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rxNxt
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
	st, err, ep := l.state, l.err, l.ep
	l.mu.Unlock()
	if err != nil || ep == nil {
		return err
	}
	if st >= stTombstone {
		return nil
	}
	switch tcp.EndpointState(ep.State()) {
	case tcp.StateError:
		err = errorOf(ep.LastError())
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
	defer l.mu.Unlock()
	if l.ep != ep {
		return l.err // it was given back meanwhile: its end is not the leg's, see Park
	}
	l.err = err
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
		return errTimeout
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
	st, ep := l.state, l.ep
	l.mu.Unlock()
	switch st {
	case stSynAcked, stWaiting, stBuilding, stParked:
		// In a private handshake the endpoint can not speak to the peer yet.
		l.sendReset()
	case stAttached, stDialing:
		if ep != nil {
			ep.Abort() // its RST passes through output while still attached
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
	pend, ep, waits := l.pending, l.ep, l.waits
	l.pending = nil
	l.dropHead()
	l.engine.buffered.Add(-int64(l.rxNxt - l.rxFreed))
	l.rxFreed = l.rxNxt
	l.tombUntil = l.engine.now() + tombstoneLife
	l.mu.Unlock()
	l.release(pend, func(*stack.PacketBuffer) {})
	if l.ownPort {
		l.engine.ports.give(&l.p)
	}
	if st != stClosed {
		l.engine.bury(l)
	} else {
		l.engine.forget(l)
	}
	if ep != nil {
		// From here on what the endpoint says is dropped as detached.
		waits.wq.EventUnregister(&waits.entry)
		ep.Abort()
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
