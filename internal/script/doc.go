// Package script plays TCP packet by packet against a whole active appliance in
// one process, and takes over from it between any two packets, once and again. Tests only.
//
// It owns: two fake peers that speak segments (Peer), an in-memory sync link
// between a real active core and a real standby core (Journal), the engine and
// relay between them (Rig), and a small language for exchanges (parse, play).
// It must not look into the engine: it knows what a peer on the wire, or the
// standby, can know.
//
// # The invariants, checked on every packet
//
// At the moment of emission, against the standby's store (monitor.go): no SYN-ACK
// and no request byte to a server without a record there (but a request told again
// to another server of a connection that outlives them: the connection's record
// suffices), no byte of such a server's to the client before the record of its leg
// is there, no ACK above what it holds or knows to be delivered. On arrival at a peer (arrive.go): ACK numbers
// and TSvals never go back, no ACK covers what was not sent, the right edge of
// the window never shrinks, bytes once received never change, no RST that the
// script does not expect, checksums and virtio-net headers are right, options
// are those that were negotiated.
//
// # The language
//
// One step per line, after packetdrill. c is the client's side, s the server's;
// > injects a segment into the appliance, < awaits an effect at that peer.
// Numbers are relative to the initial sequence numbers (the SYN is 0, the first
// byte 1), payload is a pattern that follows from stream and offset.
//
//	option window 65536         settings of the rig: window, sendbuffer, held, cookies,
//	                            minrto (seconds), family, source, takeovers (see script.option)
//	handshake [<opts>]          both handshakes, from SYN to the client's ACK
//	reopen isn N                a new connection from the client's same port
//	c> S 0:0(0) win 65535 <mss 1460,sackOK,TS,wscale 7>
//	c> P. 1:1001(1000) ack 1    seq defaults to the next one, ack to the last one
//	c> . 1:51(50) alt           the other pattern: bytes that contradict
//	s< . 1:1001(1000)           the server has received 1:1001
//	s< F. 1001:1001(0)          ... and a FIN there
//	c< . ack 1001               it is acknowledged; at once or later
//	c< . ack 1001 again         by a packet that came after the last injection
//	c= ack 1 rcv 1              when all is quiet, exactly this (plain runs only)
//	forge c R 601               a segment in the client's name that it did not send;
//	                            also: ack N, len N, ts N (its TSval, against the newest)
//	dropped ack-range           it was dropped, and counted so (plain runs only)
//	mute c                      until it sends, it does not even acknowledge what
//	                            comes again (plain runs)
//	sync hold|auto              nothing, or everything, goes to the standby
//	sync deliver|confirm        what waits reaches it; its answer returns, too
//	sync lost                   it is decided that the active goes on alone
//	advance 150ms               the replication cores' clock moves on
//	tick                        what only time brings: retransmissions by the peers
//	takeover                    the standby continues (in plain runs, too)
//	held 5000                   the standby holds so many bytes
//	rejoin                      a fresh standby joins and gets in sync; it may take
//	                            over in its turn
//	gone                        nothing is left but tombstones
package script
