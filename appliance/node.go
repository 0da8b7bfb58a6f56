package appliance

import (
	"context"
	"sync"
	"sync/atomic"

	"lockstep/appliance/decide"
	"lockstep/appliance/relay"
	"lockstep/appliance/voter"
	"lockstep/replication/link"
	"lockstep/stack"
	"lockstep/tun"
	"lockstep/tun/steer"
)

// nodePath is what packets go through.
type nodePath struct {
	dev         tun.Device
	routes      *tun.Routes
	keeper      *tun.Keeper     // nil: there is none
	filter      *tun.Guard      // nil where the kernel has no packet filter
	steering    *steer.Steering // nil: packets come by the routes alone, noSteering says why
	noSteering  string
	noFlows     string      // why connections do not go from NIC to NIC, though they should
	others      *tun.Others // who must see packets; the same goroutine's as steering.Look
	front, back *tun.Announcer
	engine      *stack.Engine
	onLink      onLink
}

// nodeParts are what runs connections, and what it is told by.
type nodeParts struct {
	relay     *relay.Relay
	services  []*relay.Service
	servers   []*servers      // by service
	probing   context.Context // ends with the appliance; of the probes that connections ask for
	journal   *journal
	authority *decide.Authority // what wrapped servers ask
	link      *link.Link        // nil when alone
	voter     *voter.Voter      // nil without a witness
	lease     *lease            // the same
	alone     *aloneLease       // nil with a witness
}

// nodeRole is what the role loop tells others, and is told by them.
type nodeRole struct {
	role        atomic.Uint32 // replication.Role
	since       atomic.Int64  // unix nanoseconds of the last change of role
	handing     atomic.Bool   // without a witness: we say that we have no role because we have handed over
	startsEmpty atomic.Int64  // without a witness: when we start without connections, of journal.now; 0: we do not

	silent      chan struct{} // cap 1: heartbeats may have stopped
	switchovers chan switchRequest
	fitness     fitness
	orders      serverOrders
}

// nodeLoop belongs to the role loop's goroutine.
type nodeLoop struct {
	sess      *link.Session
	resting   *restOf        // nil: every connection of the last takeover is made
	handed    chan<- error   // told when we are the standby of whom we handed over to
	forgotten map[string]int // connections that we knew of last, by service
}

// nodeReports is what status says of the past.
type nodeReports struct {
	takeMu    sync.Mutex // guards the following
	takeovers int
	last      takeoverReport
	lost      *lossReport // nil: there was none
}
