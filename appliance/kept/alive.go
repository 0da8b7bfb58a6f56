package kept

import (
	"time"

	"lockstep/appliance/carry"
	"lockstep/stack"
)

// PassAsks makes the servers' questions ours.
func (k *Kept) PassAsks() {
	for _, r := range k.replicas() {
		r.leg.PassAsks()
	}
}

// Pass passes the peers' questions on: the client's to the source's server, each
// server's to the client.
func (k *Kept) Pass(client *carry.Asked) {
	var source *stack.Leg
	if k.source != nil {
		source = k.source.leg
	}
	client.Pass(k.client, source)
	for _, r := range k.replicas() {
		r.asked.Pass(r.leg, k.client)
	}
}

// Probe asks the servers that are silent, and says when to look again, at next at the
// latest.
func (k *Kept) Probe(alive *carry.Keepalive, next time.Duration) time.Duration {
	for _, r := range k.replicas() {
		next = min(next, r.asked.Probe(r.leg, alive))
	}
	return next
}
