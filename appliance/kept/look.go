package kept

import (
	"fmt"
	"net/netip"
	"time"

	"lockstep/replication"
	"lockstep/stack"
)

// What is told to people, and to the search for connections that wait for nothing.

// buildMax is how long endpoints may take that are built again, on the busiest machine.
const buildMax = 30 * time.Second

// Waits says what the connection waits for; empty if for nothing.
func (k *Kept) Waits() string {
	switch {
	case k.lingering:
		if until := k.lingerTo - k.host.Now(); until > 0 {
			return fmt.Sprintf("the end of other servers, for %v", until.Round(time.Second))
		}
		return ""
	case k.parked && !k.disturbed() && stack.Parked(k.legs()...):
		return "a segment that ends its being parked"
	case k.client.Waiting():
		return "" // an endpoint should have been made
	case k.building && k.host.Now()-k.unparked < buildMax:
		return "its endpoints"
	case k.building:
		return "" // each is a handshake within this process
	case !k.client.Established() && k.client.Err() == nil:
		return "the client's endpoint"
	case k.drain.On.Load():
		return "the delivery of what came before a reset"
	}
	return k.awaits()
}

// awaits is Waits of a connection that is in the middle of things.
func (k *Kept) awaits() string {
	req, resp := &k.streams[replication.Request], &k.streams[replication.Response]
	switch {
	case k.client.Err() != nil || k.finished():
		return ""
	case k.RequestLeft() && k.requestRoom() > 0 && !k.flags.Paused.Load():
		return ""
	case k.wakeDue > k.host.Now():
		return fmt.Sprintf("a timer, in %v", (k.wakeDue - k.host.Now()).Round(time.Millisecond))
	case resp.Delivered.Load() < resp.Next || resp.FinPassed && resp.Delivered.Load() <= resp.End:
		return "the client's ACK"
	case resp.FinPassed && k.source == nil && !req.FinPassed:
		return "the client's end"
	case resp.FinPassed && k.source == nil && k.flags.Protected.Load() && req.Permit.Load() <= req.End:
		return "the standby's confirmation of the FIN"
	case k.source == nil && k.dials():
		return "the answer of a server that is dialled" // beside a timer, which may be late
	case k.source == nil:
		return ""
	case !k.mayRelease() && k.legOut.Load():
		return "the standby's confirmation of its server's leg"
	case k.source.leg.Err() != nil && (k.claim.answer == nil || Fate(k.claim.answer.Load()) != claimAsked):
		return ""
	case k.source.leg.Waiting() || resp.Next < k.seen.end && k.peeks():
		return ""
	case k.claim.answer != nil && Fate(k.claim.answer.Load()) == claimAsked:
		return "what a probe of the server says"
	case k.claim.answer != nil && Fate(k.claim.answer.Load()) == Unproven && !k.safe():
		return "the standby's confirmation of what the client has"
	case !resp.FinPassed:
		return "the server's next byte"
	case k.source.acked.Load() < k.log.end || req.FinPassed && k.source.acked.Load() <= req.End:
		return "the server's ACK"
	case !req.FinPassed:
		return "the client's next byte"
	case k.flags.Protected.Load():
		return "the standby's confirmation"
	}
	return ""
}

// dials reports whether a server may still answer its SYN.
func (k *Kept) dials() bool {
	for _, r := range k.replicas() {
		if !r.leg.Established() && r.leg.Err() == nil {
			return true
		}
	}
	return false
}

// peeks reports whether there are bytes for the client.
func (k *Kept) peeks() bool {
	_, n, _ := k.peekResponse(k.source, nil)
	return n > 0
}

// Server is the address of the one whose output the client gets.
func (k *Kept) Server() netip.AddrPort {
	if k.source == nil || k.source.leg == nil {
		return netip.AddrPort{}
	}
	return k.source.leg.Params().Remote
}

// Text describes the connection's streams and servers.
func (k *Kept) Text() string {
	req, resp := &k.streams[replication.Request], &k.streams[replication.Response]
	lost := "no"
	if k.source == nil {
		lost = fmt.Sprintf("%v_ago (%s)", (k.host.Now() - k.lostAt).Round(time.Millisecond), k.lostWhy)
	}
	s := fmt.Sprintf("request{base=%d next=%d delivered=%d permit=%d fin=%v} "+
		"response{next=%d end=%d told=%d delivered=%d permit=%d fin=%v held=%d} log=%d..%d checkpoint=%v plain=%v source_lost=%s",
		req.Base, req.Next, req.Delivered.Load(), req.Permit.Load(), req.FinPassed,
		resp.Next, k.seen.end, k.told.Load(), resp.Delivered.Load(), resp.Permit.Load(), resp.FinPassed, len(k.held),
		k.log.base, k.log.end, k.ckpt, k.plain, lost)
	for _, r := range k.withProof() {
		s += fmt.Sprintf("\n  server %d source=%v start=%v written=%d acked=%d base=%d at=%d doubt=%v ended=%v recorded=%v leg{%v}",
			r.server, r == k.source, r.start, r.written, r.acked.Load(), r.base, r.at, r.doubt, r.ended, r.recorded.Load(), r.leg)
	}
	return s
}
