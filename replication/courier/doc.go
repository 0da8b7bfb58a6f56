// Package courier owns the connections between the voters of a pair, the two
// appliances and the witness, and carries their small messages.
//
// It must not know what the messages say, who leads or what is voted on. Who is
// who, TLS and refusals are package transport's.
//
// One TCP connection per two voters, beside the sync session so that bulk never
// delays a message, but to the same address: the port tells them apart by ALPN.
// Which side dials is configured (Remote.Addr); it dials for ever. A connection's
// life:
//
//	TLS 1.3, the pair named in the server name; keys checked by both sides
//	  -> VoterHello from the dialling side, then from the other, each vetted
//	  -> VoterHello again from the dialling side: it agrees     -- else a Reject
//	  -> VoterMessage frames both ways until it ends
//
// A newer connection of the same voter takes the place of the older one: only the
// dialling side knows that the old one is gone. Nothing is repeated after a loss;
// what waits in the queue is sent on the next connection. So messages can be lost
// and delivered late, never changed, and never doubled.
package courier
