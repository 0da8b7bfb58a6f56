// Package carry is what the two carriers of a connection's bytes have in common: the
// plain one (package relay) and the one that outlives its servers (package kept).
//
// It owns: where a stream stands (Stream), what of a connection is read from outside its
// worker (Flags), the time that a reset waits for what was sent before it (Draining), the
// questions of silent peers (Asked), and how a leg and its record become each other.
//
// It must not know: services, servers, who runs a connection, or the journal beyond the
// two calls that hand a stream over.
package carry
