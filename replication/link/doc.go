// Package link owns the sync session: one ordered stream of frames between the
// two appliances, over TLS 1.3 on TCP, each side knowing the other's key.
//
// It finds the peer (both sides listen and dial), agrees on a protocol version,
// keeps at most one session, and moves whole frames. Who the peer is, is proved by
// package transport. Of package wire it uses Hello. It must not know
// what other frames say, nor anything of connections, streams or epochs: what
// to say of this node comes from the caller (Config.Hello).
//
// A session's life:
//
//	TCP connected (by either side)
//	  -> TLS 1.3, both certificates presented, possession of the keys proved
//	  -> pin check: the certificate is the one in peers/ -- or refused "wrong key"
//	  -> Hello both ways, checked by both              -- or refused with a reason
//	  -> a second Hello is consent: first from the node with the larger name,
//	     then from the smaller, which decides           -- or refused with a reason
//	  -> session; Serve delivers frames until it ends, then both dial again
//
// Of two connections that come up at once, the lexically smaller node alone
// decides which one is kept: the first that passes all checks. While it holds
// a live session with the same boot of the peer it refuses any other as a
// duplicate. A peer with another boot id has restarted, so its old session
// is dead whatever TCP says, and is replaced.
//
// A refusal is told to the peer before the connection is closed, so that the
// logs of both sides name the same reason.
package link
