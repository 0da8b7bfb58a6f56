// Package control owns the appliance's control socket: HTTP with JSON over a
// unix socket, what it says (Status), its server and its client.
//
// It must not know how the appliance works: what it reports comes from a
// Provider, in one call, as a copy. The JSON names are a contract with
// scripts: they may be added to, not changed.
package control

import (
	"context"
	"net/netip"
	"time"
)

// Roles as Status.Role names them.
const (
	RoleStarting = "starting"
	RoleActive   = "active"
	RoleStandby  = "standby"
)

// Status is what an appliance says of itself at one moment. Durations are in
// microseconds where the name says so; counters count since the process began.
type Status struct {
	Version      string            `json:"version"`
	Node         string            `json:"node"`
	Pair         string            `json:"pair"`
	Role         string            `json:"role"` // starting, active, standby
	Epoch        uint64            `json:"epoch"`
	Since        time.Time         `json:"since"` // when this role began
	Peer         Peer              `json:"peer"`
	Quorum       *Quorum           `json:"quorum,omitempty"` // nil: witness: none
	InSync       bool              `json:"in_sync"`          // the standby could take over now without loss
	WhyNotInSync string            `json:"why_not_in_sync"`  // empty when in sync
	Fitness      Fitness           `json:"fitness"`
	Steering     Steering          `json:"steering"`
	Timing       Timing            `json:"timing"`
	Snapshot     Snapshot          `json:"snapshot"`
	Lag          Lag               `json:"lag"`
	RTTMicros    int64             `json:"rtt_micros"` // of the sync link; 0: not known
	Connections  Connections       `json:"connections"`
	Takeovers    uint64            `json:"takeovers"` // done by this process
	LastTakeover *Takeover         `json:"last_takeover,omitempty"`
	LastLoss     *Loss             `json:"last_loss,omitempty"`
	Drops        map[string]uint64 `json:"drops"` // packets, frames, connections by reason
	Services     []Service         `json:"services"`
	Memory       Memory            `json:"memory"`
	Wrapped      *Wrapped          `json:"wrapped,omitempty"` // nil: without authority in the configuration
}

// Peer is the other appliance.
type Peer struct {
	Name      string `json:"name"` // empty: configured alone
	Connected bool   `json:"connected"`
	Address   string `json:"address"`
	Why       string `json:"why"` // why not connected; empty when it is
}

// Wrapped is what servers under lockstep wrap agree on, here.
type Wrapped struct {
	Servers      []string `json:"servers,omitempty"` // who asks at present, by the names of their keys; on the active
	Lives        int      `json:"lives"`             // connections, and starts of services' programs, of which something is decided
	DecidedBytes uint64   `json:"decided_bytes"`
}

// Timing is how long the peer's silence is borne. Delays are the longest of the last minute.
type Timing struct {
	FailureTimeoutMicros int64 `json:"failure_timeout_micros"`
	EffectiveMicros      int64 `json:"effective_micros"` // failure_timeout, or longer because of what follows
	// PromisedMicros, of a pair without a witness: the standby waits at least so long, and for so long the active may speak without
	// being confirmed; 0: not in session.
	PromisedMicros int64 `json:"promised_micros"`
	OwnLateMicros  int64 `json:"own_late_micros"`  // by which a timer of this process was late
	PeerLateMicros int64 `json:"peer_late_micros"` // by which the peer's heartbeat was late
	HoldDown       bool  `json:"hold_down"`        // a takeover was a moment ago
}

// Fitness is whether the two appliances could serve.
type Fitness struct {
	Faults              []string `json:"faults,omitempty"`               // what keeps this one from serving, sentences
	PeerFaults          []string `json:"peer_faults,omitempty"`          // what keeps the peer from serving, as it says
	PeerKnown           bool     `json:"peer_known"`                     // the peer has said something of it in this session
	Differences         []string `json:"differences,omitempty"`          // of the two configurations, as far as a takeover would lose connections
	HarmlessDifferences []string `json:"harmless_differences,omitempty"` // by which a takeover loses none
	// Repairs counts what somebody had changed in the kernel and was put back, by kind.
	Repairs map[string]uint64 `json:"repairs,omitempty"`
}

// Steering is how services' packets come to the process and go from it.
type Steering struct {
	On      bool              `json:"on"`                 // past routing and packet filter
	Why     string            `json:"why,omitempty"`      // why not; empty when it is on
	Packets map[string]uint64 `json:"packets,omitempty"`  // that took the short cut: from the front, from the back, out of the process; flows: from NIC to NIC
	NoFlows string            `json:"no_flows,omitempty"` // why none go from NIC to NIC, though they should
	Flows   int               `json:"flows"`              // connections that are passed on from NIC to NIC at present
	Entered uint64            `json:"flows_entered"`      // so far
	Left    uint64            `json:"flows_left"`         // and that came back to the process, some of them more than once
}

// Quorum is what the voters, two appliances and the witness, have agreed on, as far
// as this one knows.
type Quorum struct {
	Leader  bool   `json:"leader"`  // this one leads
	Heard   bool   `json:"heard"`   // a majority was heard of a moment ago
	Witness bool   `json:"witness"` // the witness is connected
	Active  string `json:"active"`  // node; empty: nobody has claimed yet
	Standby string `json:"standby"` // node that may take over; empty: the active is alone
	Epoch   uint64 `json:"epoch"`   // of the active's claim
	Silent  bool   `json:"silent"`  // we are active, but our lease is over: we may not speak
}

// Snapshot is how far a standby that has joined has been told of the connections that
// ran already. Both are 0 where nothing ran, and on a standby.
type Snapshot struct {
	Done  int `json:"done"`
	Total int `json:"total"`
}

// Lag is what the standby has not confirmed yet.
type Lag struct {
	Bytes   uint64 `json:"bytes"`
	Batches int    `json:"batches"`
	Micros  int64  `json:"micros"` // age of the oldest unconfirmed
}

// Connections counts connections by state.
type Connections struct {
	Open        int `json:"open"`
	Protected   int `json:"protected"`
	Unprotected int `json:"unprotected"`
	HalfOpen    int `json:"half_open"`
	// SYN cookies: clients that were answered without being remembered, and those that
	// have answered in their turn.
	CookiesSent     uint64 `json:"cookies_sent"`
	CookiesAccepted uint64 `json:"cookies_accepted"`
	Tombstones      int    `json:"tombstones"` // finished, kept to answer a repeated FIN
	// Segments of connections that changed hands: given to the peer by an active that hands over; and
	// those that came before this appliance was the active, and were treated then.
	HandedOn uint64 `json:"handed_on"`
	Held     uint64 `json:"held"`
}

// Takeover describes one takeover by this appliance.
type Takeover struct {
	At             time.Time `json:"at"`
	DurationMicros int64     `json:"duration_micros"` // from knowing to the last leg rebuilt
	Legs           int       `json:"legs"`
	Connections    int       `json:"connections"`
	Lost           int       `json:"lost"` // connections that could not be continued
	Why            string    `json:"why"`  // what told that the active was gone
}

// Loss describes a start without the connections that somebody held: nobody who did was
// left, or heard of for pair.start_empty_after.
type Loss struct {
	At          time.Time      `json:"at"`
	Why         string         `json:"why"`
	Connections int            `json:"connections"` // as far as this appliance knew
	Services    map[string]int `json:"services"`    // the same by service; null: it has seen none of them
	Text        string         `json:"text"`        // the same in words
}

// Service is one protected service.
type Service struct {
	Name        string   `json:"name"`
	Listen      []string `json:"listen"`
	Protection  string   `json:"protection"`
	Path        string   `json:"path"`
	Balance     string   `json:"balance"`
	Connections int      `json:"connections"`
	Spliced     int      `json:"spliced"`    // of them, on the active: passed on between their two ends
	Terminated  int      `json:"terminated"` // and those that are ended in netstack, on both sides
	// Since the process began: connections that were passed on and came to be ended here, because their clients did
	// not read; and how often that was given up.
	TakenUp     uint64    `json:"taken_up"`
	TakeGivenUp uint64    `json:"take_given_up"`
	Parked      int       `json:"parked"` // of the terminated: idle, without endpoints until something comes
	Servers     []Backend `json:"servers"`
	Kept        *Kept     `json:"kept,omitempty"` // protection log and hot, on the active
}

// Kept is what connections that outlive their server have seen since the process
// began.
type Kept struct {
	Connections  int    `json:"connections"`     // open ones
	LogBytes     uint64 `json:"log_bytes"`       // request bytes kept for a replay
	Replicas     int    `json:"replicas"`        // servers' legs of these connections
	InStep       int    `json:"in_step"`         // of them: those that could go on at once
	LagBytes     uint64 `json:"lag_bytes"`       // by which the slowest replica is behind
	Orphans      int    `json:"orphans"`         // connections without a server just now
	Lost         uint64 `json:"servers_lost"`    // times that a connection lost its server
	Failovers    uint64 `json:"failovers"`       // and another one went on
	Replays      uint64 `json:"replays"`         // legs that were told a request again, or beside another
	Switched     uint64 `json:"switched"`        // release: first: bytes came from another replica
	Claims       uint64 `json:"claims_judged"`   // ends of a server that a probe had to judge
	Compared     uint64 `json:"digests"`         // compared
	Divergences  uint64 `json:"divergences"`     // replicas whose output was not the same
	Unverified   uint64 `json:"unverified"`      // connections reset because nobody could tell whether it was
	GivenUp      uint64 `json:"given_up"`        // connections reset because no server continued them in time
	LogFull      uint64 `json:"log_full"`        // connections that fell back to gateway: limits.log
	TooSlow      uint64 `json:"too_slow"`        // replicas dropped because they were too far behind
	Refused      uint64 `json:"replays_refused"` // replays that a server has ended before where the client was
	LastFailover string `json:"last,omitempty"`  // in words
	// The same failover in figures: which server went on, when, and how long after the loss was
	// known. Empty and 0: there was none.
	LastServer string    `json:"last_server,omitempty"`
	LastAt     time.Time `json:"last_at,omitzero"`
	LastMicros int64     `json:"last_micros,omitempty"`
	// LastDivergence says, in words, which server sent what instead of what the client has.
	LastDivergence string    `json:"last_divergence,omitempty"`
	DivergedAt     time.Time `json:"diverged_at,omitzero"`
}

// Backend is one server of a service.
type Backend struct {
	Addr    string `json:"addr"`
	Healthy bool   `json:"healthy"`       // also one that nobody has asked yet
	Checked bool   `json:"checked"`       // by a health check, or by clients' connections in its place
	Why     string `json:"why,omitempty"` // not healthy
	// Connections are those that it serves, or that are on their way to it.
	Connections int  `json:"connections"`
	Weight      int  `json:"weight"`
	Backup      bool `json:"backup,omitempty"`
	// State is what was ordered of it (lockstep server): ready, drained, disabled; removed: it is in the list no more, and
	// serves connections still.
	State string `json:"state"`
	// Beside are connections of protection hot whose client gets another server's bytes while this one runs beside it.
	Beside int `json:"beside,omitempty"`
}

// States of a server.
const (
	ServerReady    = "ready"
	ServerDrained  = "drained"
	ServerDisabled = "disabled"
	ServerRemoved  = "removed"
)

// ServerCommand orders something of a service's server.
type ServerCommand struct {
	Do      string         `json:"do"` // drain, disable, enable, weight
	Service string         `json:"service"`
	Server  netip.AddrPort `json:"server"`
	Weight  int            `json:"weight,omitempty"`
	Force   bool           `json:"force,omitempty"` // also if no other server takes connections then
}

// ServerOrdered is what came of one.
type ServerOrdered struct {
	Standby string `json:"standby,omitempty"` // why the standby may not know of it; empty: it goes by it
	Unkept  string `json:"unkept,omitempty"`  // why it would not outlive the process; empty: it does
}

// Memory is what the bytes that connections have buffered take, copies and overhead
// included; on a standby, what it holds.
type Memory struct {
	BufferedBytes uint64 `json:"buffered_bytes"`
	Limit         uint64 `json:"limit"`
}

// Provider answers for the appliance. Status is called from several goroutines
// and returns a copy that nobody changes afterwards.
type Provider interface {
	Status() Status
	// Switchover hands over to the standby and returns when that is active, or why it
	// is not.
	Switchover(ctx context.Context) error
	// Reload reads the configuration file again and makes its changes, or, if dry, tells them.
	Reload(dry bool) (Reloaded, error)
	// FindConnections says how some connections stand.
	FindConnections(q ConnectionQuery) ConnectionList
	// Server does what is ordered of a server, and returns when the standby goes by it, too.
	Server(ctx context.Context, cmd ServerCommand) (ServerOrdered, error)
}

// Reloaded is what reading the configuration again has come to: all changes are made, or none.
type Reloaded struct {
	Changes []Change `json:"changes"`
	Refused bool     `json:"refused"` // one of them cannot be made
	Applied bool     `json:"applied"`
}

// Change is one key that is not as it was.
type Change struct {
	Key     string `json:"key"`               // such as services.web.limits.idle; a service that is new, or there no more: services.web
	From    string `json:"from,omitempty"`    // empty: there was none
	To      string `json:"to,omitempty"`      // empty: there is none any more
	Refused string `json:"refused,omitempty"` // why it cannot change now, and what to do instead
}
