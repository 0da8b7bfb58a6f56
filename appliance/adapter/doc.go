// Package adapter knows the protocols that run through a service, as far as masking
// the crash of a server needs it: where messages begin and end, which request a
// response answers, and which bytes differ by nature between two correct servers.
//
// It owns: the framing of both streams of a connection, the points at which a
// replacement server may be started (checkpoints), the verdict on a server's FIN, and
// the list of header fields that are not compared.
//
// It must not know: legs, servers, replicas, what is done with a verdict, or how
// responses are compared. It has no clock, no goroutine and no I/O, keeps no byte of
// the streams, and never fails: what it does not understand it calls opaque, and from
// there on the connection is treated as Raw would treat it.
//
// A relay's turn, where b came from the server whose bytes the client gets, follows
// what was released, and eof says that nothing comes after it:
//
//	b = b[:write(b[:a.Releasable(b, eof)])] // to the client
//	for len(b) > 0 {
//		masked = a.Mask(masked[:0], b) // before Response is given the same bytes
//		n := a.Response(b)
//		digest(b[:n], masked) // of which those below n
//		b = b[n:]
//		if req, ok := a.Checkpoint(); ok {
//			// Requests before req are needed no more; keep a.State for replacements.
//		}
//	}
//	if eof && /* all that is releasable was written */ {
//		// Believe the FIN as far as a.End says.
//	}
//
// HTTP/1 is read by a machine that takes one byte at a time in heads and chunk lines
// and skips bodies by their length (fields.go, message.go). It is strict, so that it
// never sees another message boundary than the server does: RFC 9112 section 11.2
// tells what comes of guessing. Its whole state is a small value without pointers, so
// looking ahead is making a copy, and another appliance can be told it at any byte.
package adapter
