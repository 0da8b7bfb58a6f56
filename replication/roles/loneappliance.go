package roles

import "lockstep/replication"

// LoneAppliance is what the rules of a pair without a witness act on. Each call has its
// effect before it returns.
type LoneAppliance interface {
	Role() replication.Role
	Epoch() uint64
	// Whole reports, on a standby, whether its store could be continued.
	Whole() bool
	Connected() bool
	// Replaceable reports, on an active, that the standby of this session was told that
	// it holds everything: it may take over.
	Replaceable() bool
	// Heard is when the last frame of the newest session came, Confirmed when the newest
	// of our heartbeats in it that the peer has answered was sent; not ok if none was.
	Heard() Nanos
	Confirmed() (at Nanos, ok bool)
	// Lease is, on an active, until when it may speak.
	Lease() Nanos
	// CutOff reports that neither network works here.
	CutOff() bool

	// CloseSession, Release, Follow, Continue: see Appliance.
	CloseSession() bool
	Release()
	Follow(epoch uint64)
	Continue(epoch uint64, why string) error
	// StartEmpty makes us the active of that epoch with no connections. lost: somebody
	// may have held some.
	StartEmpty(epoch uint64, why string, lost bool)
	// Raise moves an active without a session to a later epoch.
	Raise(epoch uint64) error
	// Mute lets nothing out any more until GoOn, Continue or StartEmpty.
	Mute()
	// StepDown mutes us, forgets all connections, and leaves us without a role.
	StepDown(why string)
	// GiveUp lets a standby forget its store, and leaves it without a role.
	GiveUp(why string)
	// GoOn is Release on an active that is alone from now on, mute or not: it speaks until
	// then, unless OwnLease is called again.
	GoOn(until Nanos)
	// OwnLease lets an active speak until then. It has no effect while the active is
	// Replaceable: then the standby's answers are the lease.
	OwnLease(until Nanos)

	// Ask asks both networks once who holds our addresses; the answers come by Claimed.
	Ask()
	// Prove asks the peer's kernel again and again whether its process is dead, while
	// on; Refused tells that it is. Switching it on forgets what was found before.
	Prove(on bool)
	// Say tells the operator what has come to pass.
	Say(what Event, why string)
}

// Event is something that an operator wants to know.
type Event int

const (
	StandbyLost   Event = iota // the active finds out what has become of the standby
	Silent                     // the active has fallen silent
	GoesOnAlone                // the active goes on, unprotected
	ActiveLost                 // the standby finds out what has become of the active
	StaysBack                  // a candidate: somebody else holds the addresses
	PeerStepsDown              // both were active
)
