package roles

import (
	"lockstep/replication"
	"lockstep/replication/arbiter"
)

// appliance is what the rules act on. Each call has its effect before it returns.
type appliance interface {
	Role() replication.Role
	Epoch() uint64   // of the role
	InSync() bool    // see replication.Core.InSync
	Connected() bool // a session is up

	// CloseSession ends the session and leaves the core's gates as they are. False:
	// there is none.
	CloseSession() bool
	// Release tells the core that the session is over for good (PeerLost): on an
	// active every gate opens, on a standby the store stays for Continue.
	Release()

	// Follow makes us the standby of the active of that epoch, with an empty store.
	Follow(epoch uint64)
	// Continue makes us the active of that epoch with the connections of our store;
	// after an error nothing has changed. since is when it was known that we have to.
	Continue(epoch uint64, since Nanos, why string) error
	// StartEmpty makes us the active of that epoch with no connections. lost, if not
	// empty, says why those are lost that somebody may have held.
	StartEmpty(epoch uint64, why, lost string)
	// Mute lets nothing out any more until we are told to speak again.
	Mute()
	// StepDown mutes us, forgets all connections, and leaves us without a role.
	StepDown(why string)

	// Say tells the operator what has come to pass.
	Say(what Event, why string)
}

// VotedAppliance is one that has a witness. What it tells the voter happens in its order
// some time later.
type VotedAppliance interface {
	appliance

	// Unpark lets go of a session that Session put off, so that both sides meet again
	// and say what they are by then.
	Unpark()
	// Unmute: the hand-over has come to nothing, see Rules.Declined.
	Unmute(why error)
	// Announce claims the addresses again: neighbours may have lost us.
	Announce()

	// Leased reports whether the voters let us speak for that epoch at this moment: then
	// none is served that is newer.
	Leased(epoch uint64) bool
	// SetAble, AddStandby, RemoveStandby: see arbiter.Core.
	SetAble(epoch uint64, able bool)
	AddStandby(m arbiter.Member)
	RemoveStandby()
	// Yield lets the standby claim. An error says that it was not asked to.
	Yield(to string) error
	// SeekProof finds out for a while whether m's process is dead, and tells the voter if
	// it is.
	SeekProof(m arbiter.Member)
}

// LoneAppliance is one of a pair without a witness.
type LoneAppliance interface {
	appliance

	// Replaceable reports, on an active, that the standby of this session was told that
	// it holds everything: it may take over.
	Replaceable() bool
	// Heard is when the last frame of the newest session came, Confirmed when the newest
	// of our heartbeats in it that the peer has answered was sent; not ok if none was.
	Heard() Nanos
	Confirmed() (at Nanos, ok bool)
	// Promised and PeerPromise: see replication.Core; for how long silence is borne.
	Promised() replication.Promised
	PeerPromise() replication.Promise
	// Lease is, on an active, until when it may speak.
	Lease() Nanos
	// CutOff reports that neither network works here.
	CutOff() bool

	// Raise moves an active without a session to a later epoch.
	Raise(epoch uint64) error
	// GiveUp lets a standby forget its store, and leaves it without a role.
	GiveUp(why string)
	// GoOn is Release on an active that is alone from now on, mute or not, perhaps after a
	// hand-over that has come to nothing: it speaks until then, unless OwnLease is called
	// again.
	GoOn(until Nanos)
	// OwnLease lets an active speak until then. It has no effect while the active is
	// Replaceable: then the standby's answers are the lease.
	OwnLease(until Nanos)

	// Ask asks both networks once who holds our addresses; the answers come by Claimed.
	Ask()
	// Prove asks the peer's kernel again and again whether its process is dead, while
	// on; Refused tells that it is. Switching it on forgets what was found before.
	Prove(on bool)
}

// Event is something that an operator wants to know.
type Event int

const (
	StandbyLost      Event = iota // the active finds out what has become of the standby
	StandbyRemoved                // the active asks the voters to go on alone
	StandbyLostEarly              // before it was in sync
	GoesOnAlone                   // the active goes on, unprotected
	ActiveLost                    // the standby finds out what has become of the active
	SessionEnded                  // the standby has lost its session, and asks the voters
	Silent                        // the active has fallen silent
	Unheard                       // the active has fallen silent, as no voter answers
	HeardAgain                    // the voters answer again
	StaysBack                     // without a role: somebody else holds the addresses
	PeerStepsDown                 // both were active
)
