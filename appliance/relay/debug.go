package relay

import (
	"fmt"

	"lockstep/replication"
)

// String describes a connection for logs and tests. It reads fields that a
// worker owns: a snapshot that may be torn.
func (c *Conn) String() string {
	if k := c.kept; k != nil {
		return c.keptString(k)
	}
	f := func(id replication.Stream) string {
		s := &c.streams[id]
		if k := c.kept; k != nil {
			return c.keptString(k)
		}
		return fmt.Sprintf("base=%d next=%d delivered=%d permit=%d fin=%v", s.base, s.next, s.delivered.Load(), s.permit.Load(), s.finPassed)
	}
	return fmt.Sprintf("conn %d phase=%d sched=%d client{%v} server{%v} request{%s} response{%s}",
		c.ID, c.phase, c.schedule.Load(), c.client, c.server, f(replication.Request), f(replication.Response))
}

func (c *Conn) keptString(k *kept) string {
	req, resp := &c.streams[replication.Request], &c.streams[replication.Response]
	s := fmt.Sprintf("conn %d phase=%d client{%v} request{base=%d next=%d delivered=%d permit=%d fin=%v} "+
		"response{next=%d end=%d told=%d delivered=%d permit=%d fin=%v held=%d} log=%d..%d checkpoint=%v plain=%v lost=%v (%s)",
		c.ID, c.phase, c.client, req.base, req.next, req.delivered.Load(), req.permit.Load(), req.finPassed,
		resp.next, k.seen.end, k.told.Load(), resp.delivered.Load(), resp.permit.Load(), resp.finPassed, len(k.held),
		k.log.base, k.log.end, k.ckpt, k.plain, k.lostAt, k.lostWhy)
	for _, r := range k.replicas() {
		s += fmt.Sprintf("\n  server %d source=%v start=%v written=%d acked=%d base=%d at=%d doubt=%v ended=%v recorded=%v leg{%v}",
			r.server, r == k.source, r.start, r.written, r.acked.Load(), r.base, r.at, r.doubt, r.ended, r.recorded.Load(), r.leg)
	}
	return s
}
