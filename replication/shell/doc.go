// Package shell is the one shell around a replication core: in the product, in the
// script rig and in the simulation.
//
// It owns: the lock that gives a core to one caller at a time; the order in which what
// Core.Ready asks for is carried out, one Ready at a time; what is sent when, and in which
// order frames reach the session; how late timers and the peer are, how long the peer's
// silence is borne, and when it counts.
//
// It must not know: sockets, netstack, the relay, configuration, and what the time is.
// Whoever drives it passes the time in (it may be read before the lock is had: what comes
// out of order does not go back), and decides on which goroutine things run. So the
// simulation drives the same shell as the product.
//
// # What follows from an input
//
// An input is given to the core, and what follows from it is done at once where somebody
// waits for it: Step sends the answer and then carries out what the frame has brought,
// Released sends the digest before the bytes that it is of. Everything else waits for Run,
// which Host.Kick asks for: the packet path and the workers, which hold locks of their
// own, only ever wait for the core.
//
// # Locks
//
// apply > send > mu, the last a leaf around the core's own time. Effects is called with
// apply held, Sender and Host.MayTakeOver with send, and neither ever with mu. So an effect
// may give the core more to do, but must not wait for another effect.
package shell
