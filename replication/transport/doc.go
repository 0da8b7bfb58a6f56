// Package transport owns what every connection between nodes begins with: one
// TCP listener for all protocols of a node (Port), TLS 1.3 in which each side
// proves its pinned key, the first words of the handshake above it, refusals
// that both sides' logs name alike, and whole frames on a byte stream.
//
// It must not know what is said once a connection stands, nor how many of them
// there may be: that is for the protocols above it (packages link and courier).
//
// The protocol is agreed on by ALPN (RFC 7301). A node that serves several pairs,
// the witness, finds the right identity by the TLS server name (RFC 6066,
// section 3), in which the dialling node names its pair. Where no name is given
// the only identity of the port is meant.
//
// A refusal is told to the peer before the connection is closed. Everything
// that a stranger can make us hold is bounded by Port's slots and time-out.
package transport
