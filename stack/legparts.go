package stack

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/waiter"
)

// The groups of a leg's fields. What guards one is said at it; else it is Leg.mu.

// legEndpoint is the leg's endpoint. The one goroutine that attaches and parks the leg sets ep, with mu
// held, before the endpoint can produce events, and may read it without. A leg that has ended
// gets none. waits belongs to the endpoint, and comes and goes with it.
type legEndpoint struct {
	ep    tcpip.Endpoint
	waits *legWaits
}

// legWaits is how the endpoint wakes the leg.
type legWaits struct {
	wq    waiter.Queue
	entry waiter.Entry
}

// legMate is what is for and from the other leg, see Join: no lock is held for it.
type legMate struct {
	mate     atomic.Pointer[Leg]
	rxUrgent atomic.Uint64 // offset after the peer's newest urgent data; 0: there was none
	rxClass  atomic.Uint32 // DSCP of the peer's newest segment
	lone     atomic.Bool   // see Lone
}

// legAsked is who has asked whom whether it is there: passAsks is set before the leg is used, the
// others need no lock.
type legAsked struct {
	passAsks bool         // see PassAsks
	asked    atomic.Bool  // the peer has asked whether the other end is there
	awaited  atomic.Bool  // see Probe
	missed   atomic.Bool  // something of it was not taken in while we were silent
	heardAt  atomic.Int64 // when the peer has said something, by Engine.tick
}

// legNumbers are the differences between netstack's numbers and the wire's.
type legNumbers struct {
	seqDelta uint32
	// tsDelta is the wire's TSval less netstack's, for echoes coming in: the
	// smallest difference seen, since netstack's stamps are only ever late.
	tsDelta  uint32
	stackISS uint32
	stackWS  uint8 // the scale netstack applies to the window it announces
	ws       uint8 // the scale the peer applies to it
}

// legReceiving is the receive direction, and what may be acknowledged: offsets in the peer's stream.
type legReceiving struct {
	rxNxt   uint64 // RCV.NXT as netstack last said it
	rxAcked uint64 // highest ACK that left
	rxEdge  uint64 // highest right edge of the window that left
	rxFin   uint64 // offset after the peer's FIN, once one was seen; 0 before. See learn
	rxFreed uint64 // discarded from the receive queue; rxNxt-rxFreed is buffered here
	rxAhead uint64 // bytes before rxFreed that wait elsewhere, see Resume.Ahead
	rxWants uint64 // right edge that netstack last wanted to announce
	rxSeen  uint64 // end of what has come from furthest ahead
	// rxCame is when netstack was given a segment last that told it anything, by Engine.tick.
	rxCame time.Duration
	// ahead is what has come behind a hole, the newest first; see halfsack.go.
	ahead []offsets

	permit   uint64 // the gate: no ACK above it leaves
	owed     owedAck
	delay    legDelay
	gateOpen bool // no gate at all (alone, or not protected)
}

// legSending is the send direction, and the path: offsets in our stream.
type legSending struct {
	txNxt uint64 // highest offset that left from this endpoint, FIN counted
	txUna uint64 // highest offset the peer acknowledged, at most txNxt
	txFin uint64 // offset after our FIN, once it left; 0 before

	// peerAck is how far the peer says it is, where that is beyond txNxt: the
	// former active had sent more than this endpoint has sent again so far.
	peerAck  uint64
	peerEdge uint64 // right edge of its window, as the newest ACK has put it; of our stream
	// txReach is the highest offset that a former active can have sent.
	txReach    uint64
	peerWndMax uint16 // largest window field of the peer
	peerTold   bool   // peerEdge is what an endpoint of this appliance's has been told, or would have been

	fragment bool // until pathUntil the path is narrower than minMTU4: routers may fragment
	// pathMTU is what the path to the peer takes, bytes, until pathUntil; 0: not known
	// to be less than the device's.
	pathMTU   uint16
	pathUntil time.Duration

	challengeAt time.Duration // when the next refused segment may be answered
	aheadSaid   int32         // answers to acknowledgements from ahead of us
}

// legHandshake is how far it has come, before an endpoint is there and at its end.
type legHandshake struct {
	pending     []*stack.PacketBuffer // stWaiting, stBuilding
	synAckAt    time.Duration         // monotonic; for the round trip and retransmission
	tombUntil   time.Duration
	synAckTries int32
	confirmed   bool // the peer has shown that it knows the connection
	ownPort     bool // a server: the local port is from the engine's ports
	halfWay     bool // a server: the ACK that completes its handshake is kept back, see Complete
}

// legContinued is of a leg whose endpoint is not its first: it is continued from another appliance, or was parked.
type legContinued struct {
	located  bool // the peer has said where it is, by an acceptable segment
	settled  bool // nothing that the former active sent can change that
	restored bool // continued from another appliance: peers may be ahead of us
	quiet    bool // the peer is not to be disturbed; the first pure ACK stays here
	finHeld  bool // the peer's FIN is held; replay it to the endpoint
	parked   bool // an endpoint of it was given back here, see Park; also when it has the next. Not of one restored as parked
	drain    legDrain
}

// legHurry is what makes a peer that has lost what was in flight send it again, see hurry.go.
type legHurry struct {
	rxProbed uint64 // rxNxt when it was asked
	peerNxt  uint64 // the peer's SND.NXT as it has said then
	hurryTo  uint64 // the same, if the next ACK of the wrap is to carry hurry's option; else 0
	hurries  int32  // such ACKs
	revives  int32  // times that the peer's time-out was taken back
	probed   bool   // the peer's next pure ACK may tell what is in flight, see answered
	revive   bool   // it is to be now, see reviving
}

// legStamps are timestamps (RFC 7323). p.PeerTS is TS.Recent if tsKnown: it was, at tsAt.
type legStamps struct {
	tsKnown    bool
	tsAt       time.Duration
	staleTS    uint32        // restored: the peer's stamp that netstack was given in place of TS.Recent
	tsBorn     uint32        // restored: our stamp when the endpoint was made
	bornAt     time.Duration // restored: and when that was
	ownEcho    bool          // restored: the peer has echoed a stamp of this endpoint
	freshTS    uint32        // echoed until freshUntil in place of an older one: see late.go
	freshUntil time.Duration
}

// legProbe is how the peer is asked where it is, see probe.go.
type legProbe struct {
	head       *stack.PacketBuffer // first segment that the peer may lack, as it left
	headEnd    uint64              // offset after it
	headAt     time.Duration       // when it left last
	headSeen   uint64              // end of the newest segment that left
	headFirst  time.Duration       // when one left for the first time that was then the next that the peer lacks; by Engine.tick
	silentFrom time.Duration       // it is suspected, and the peer has been silent since then
	answeredAt time.Duration       // when it answered last; by Engine.tick
	turn       uint32              // of the prober's items only the newest counts
	probesSent int32
	probing    bool // the prober has it
	headDone   bool // the peer has acknowledged one of this endpoint's
	resumed    bool // it is probed because we were silent: see resume.go
	unheard    bool // and has said nothing since
	suspected  bool // it is probed because the peer is silent: see outage.go
}

// owedAck is the newest acknowledgement that the gate kept back.
type owedAck struct {
	ack   uint64    // offset
	edge  uint64    // right edge that netstack wants to announce, not capped
	sack  *[34]byte // SACK option of the kept segment, if sackN > 0
	tsEcr uint32
	sackN uint8
	set   bool
}
