// Package steer takes the segments of protected services straight from the two
// NICs into the TUN device, and what comes out of the TUN device straight to the
// NIC that routing says: past policy rules, connection tracking and the packet
// filter, whose work on each packet costs more than the gateway's own. It is three
// small programs (eBPF) in the kernel's TCX hooks (since Linux 6.6).
//
// Only what all of these would let pass unchanged (but for what docs/steering.md names) is taken: whole TCP segments
// without IP options, of known addresses and ports, no first SYN, with hops left,
// that fit. All else goes the kernel's usual way, and so does everything where the
// programs are not: they only make it shorter. They are bound to file descriptors
// and end with the process, however that ends.
//
// [Flows] go further: plain segments of connections that are passed on go from NIC to NIC, rewritten and noted
// as package splice would.
//
// It must not know of roles or services, nor when a connection is given to it or taken back: it is told
// addresses, interfaces and where a connection's ends are.
package steer
