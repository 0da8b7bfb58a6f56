// Package arbiter decides who of the pair may speak, and who may continue whose
// connections. Three voters agree on it by Raft: the two appliances and a witness.
//
// It owns: votes and log, the State (epoch, active, standby in sync), the rules of who
// may claim and how, the lease. It must not know: connections, TUN, sockets, files.
// It is a pure state machine around go.etcd.io/raft/v3, like package replication: no
// clock, goroutine or I/O; the same calls with the same arguments give the same
// results, byte for byte.
//
// # Who says what to whom
//
// a and b are the appliances, w is the witness; a>w is a message.
//
//	first start     a,b,w: ask each other what they forgot; all: nothing
//	                a>b,w vote?   b,w>a yes   a>b,w claim 1, empty   b,w>a held
//	                a is active; its rounds go on, and each answer extends its lease
//	standby         b tells a that it holds all (sync link); a>b,w add b    b,w>a held
//	crash of a      b hears of it (PeerGone)   b>w vote, forced   w>b yes
//	                b>w claim 2, whole   w>b held   b continues a's connections
//	a frozen        a's lease runs out; then b,w are free of their promise
//	                b>w vote?   w>b yes   b>w claim 2, whole   w>b held
//	                a wakes up mute   a>b,w round 1.n   b,w>a epoch 2: a joins as standby
//	solo            b is silent   a>w remove b   w>a held   a goes on alone (Ready.Solo)
//	rejoin          b starts   a>b what b lacks of the log   (snapshot over the sync link)
//	                a>b,w add b'   b,w>a held
//	switchover      a mutes itself (Yield)   a>b your turn   b>w,a vote, forced
//	                w>b yes   b>w,a claim 2, whole   w>b held
//	both crash      a>w vote?   w>a no: your log lacks some of mine   w>a vote?   a>w yes
//	                w>a the log   w>a your turn   a>w vote, forced   ...   a waits for b
//	                Patience long, then a>w claim 3, empty
//
// # The lease
//
// A voter that answers a leader, or gives its vote, promises: for FailureTimeout no
// other leader. It keeps quiet for as long after its own start, since it does not
// remember what it promised before. The active counts from when it sent the round
// that was answered (or asked for the votes), by 2 % less, so that clocks may be off
// by 1 % each. Only a forced vote passes the promise, in two cases: the active is
// proved dead (PeerGone), or a leader hands over, and then it neither speaks nor claims
// in that term any more. So at no time two may speak.
//
// Raft's own timers do not run: its Tick is never called. Rounds, campaigns and looks
// for a quorum come from the time that is passed in, so the random time-outs that raft
// draws decide nothing.
//
// # Logs that only the witness has
//
// The witness never claims. It leads only if an appliance asks for votes with a log
// that lacks what the witness has, and no leader is heard: otherwise a pair whose last
// change was committed by the witness and an appliance that is gone for good would
// never come back. It passes its log on, and the leadership with it.
//
// # A voter without memory
//
// A voter whose disk is lost has forgotten its votes and its log. It counts for
// nothing until both others have answered what they know, and its log is as new as
// theirs; it never votes in a term in which it may have voted before (join.go). One
// disk at a time may be lost. At a first start nobody knows anything, and all begin at
// once; if the second appliance does not answer, after a second.
package arbiter
