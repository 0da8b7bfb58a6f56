// Package kept carries the bytes of a connection that outlives its server (protection log
// and hot).
//
// It owns: the legs to the connection's servers (replicas), the log of the request since
// the last checkpoint, the digests of the response that was released, the judgement of a
// server's end (claims), the loss and the replacement of servers, and the picture of all
// this for a standby.
//
// It must not know: who runs the connection, listening addresses, who is active, how
// records reach the other appliance. All that is behind Host and Journal. Which server is
// next, and which live, says package pool; where messages begin and end, package adapter.
//
// The request goes from the client's receive queue into the log, and from there to
// each server at its own pace. The response comes from one of the servers, the
// source; the others' is compared and discarded. A server that is lost is replaced by
// one that has reached the point up to which the response was released: one that runs
// beside it (hot), or one that is told the request again (log; FT-TCP's message
// logging, section 3 of the paper).
//
// Who owns what: the connection's worker calls every method of Kept but Permit, Need,
// Unlogged, LegHeld, OpenGates and Deliver, and owns every field that is not atomic. Those six may
// be called by the journal and by the packet path at any time after the journal knows the
// connection; they touch atomics, and legs, which have locks of their own. A replica's
// events set its atomics, tell the journal and wake the host. Kept.recording is held while the
// journal is told which leg serves, or what its server has acknowledged; nothing of a leg and
// none of the six is called with it. A leg's locks may be held when it is taken (order:
// Leg.outMu > recording > the shell's mu). Else Host and Journal are called with none held.
//
// The files: kept.go the step, life.go beginning and ends, request.go and requestlog.go
// the request's way, release.go the response's, former.go what is left of a former source's, leg.go the record of who serves, replica.go one server's leg, dismiss.go
// the loss of servers, elect.go who serves, failover.go new ones, claim.go, digest.go,
// divergence.go, adopt.go and restore.go the other appliance, look.go what is told to
// people.
package kept
