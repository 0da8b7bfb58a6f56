package traffic

import (
	"slices"
	"sync/atomic"
	"time"
)

// Gap is the longest time between two moments of progress.
type Gap struct {
	Longest time.Duration `json:"longest_ns"`
	// At is when it began (wall clock; the length is monotonic).
	At time.Time `json:"at,omitzero"`
}

// longer returns the longer of two gaps.
func (g Gap) longer(o Gap) Gap {
	if o.Longest > g.Longest {
		return o
	}
	return g
}

// maxGaps bounds how many gaps a meter keeps; a report with so many still fits into
// maxHeader.
const maxGaps = 40

// gapMeter finds the longest gap, and keeps the longest ones. The time before the first tick does not count: it belongs to
// connecting.
type gapMeter struct {
	last time.Time
	gap  Gap
	gaps []Gap // the longest, at most maxGaps, in no order
}

func (m *gapMeter) tick(now time.Time) {
	if !m.last.IsZero() {
		g := Gap{Longest: now.Sub(m.last), At: m.last}
		m.gap = m.gap.longer(g)
		m.keep(g)
	}
	m.last = now
}

func (m *gapMeter) keep(g Gap) {
	if len(m.gaps) < maxGaps {
		m.gaps = append(m.gaps, g)
		if len(m.gaps) == maxGaps {
			m.shortest()
		}
		return
	}
	if g.Longest > m.gaps[0].Longest {
		m.gaps[0] = g
		m.shortest()
	}
}

// shortest puts the shortest gap in front: it is the next to go.
func (m *gapMeter) shortest() {
	for i, g := range m.gaps {
		if g.Longest < m.gaps[0].Longest {
			m.gaps[0], m.gaps[i] = g, m.gaps[0]
		}
	}
}

// skip forgets the time until now: a pause that was meant.
func (m *gapMeter) skip(now time.Time) { m.last = now }

// Meter measures the gaps of a progress that is seen from outside, such as a file's that grows.
// The time before the first tick does not count. For one goroutine.
type Meter struct{ m gapMeter }

// Tick notes progress.
func (m *Meter) Tick(now time.Time) { m.m.tick(now) }

// Gaps are the longest one, and the longest ones, at most 40, in no order.
func (m *Meter) Gaps() (longest Gap, gaps []Gap) { return m.m.gap, slices.Clone(m.m.gaps) }

// Progress counts live, over all connections of a client or a server. The two ends count
// separately: bytes of a flow are Received at the end where they arrived.
type Progress struct {
	Sent     atomic.Int64 // bytes of pattern handed to the kernel
	Received atomic.Int64 // bytes of pattern that arrived
	Rounds   atomic.Int64 // completed rounds (client) or answered ones (server)
	Open     atomic.Int64 // connections past the request
	// LastReceived is when bytes last arrived, nanoseconds since the Unix epoch; 0: never.
	LastReceived atomic.Int64
}

// Result is what a client saw of one connection.
type Result struct {
	ID       uint64 `json:"id"`
	Mode     Mode   `json:"mode"`
	Sent     int64  `json:"sent"`
	Received int64  `json:"received"`
	Rounds   int64  `json:"rounds,omitempty"`
	// Intact: every byte that was asked for arrived at its end, verified, in both directions,
	// and the connection ended as it should.
	Intact bool   `json:"intact"`
	Error  string `json:"error,omitempty"`
	// Corrupt: bytes that arrived at the client were wrong. (A server that gets wrong ones says so
	// in its report.)
	Corrupt bool `json:"corrupt,omitempty"`
	// Down is the longest gap between arrivals at the client; Up the same at the server, from
	// its report; Write between two completed writes of the client.
	Down  Gap `json:"down"`
	Up    Gap `json:"up"`
	Write Gap `json:"write"`
	// Downs and Ups are the longest gaps of a Stream, at most 40 each, in no order.
	Downs []Gap `json:"downs,omitempty"`
	Ups   []Gap `json:"ups,omitempty"`
	// Connect is the time until the connection was established.
	Connect time.Duration `json:"connect_ns"`
	Total   time.Duration `json:"total_ns"`
}

// Gap is the longest silence of this connection in either direction. The server's view of an
// upload is preferred to the client's writes, which a socket buffer blurs.
func (r Result) Gap() Gap {
	up := r.Up
	if up.At.IsZero() {
		up = r.Write
	}
	return r.Down.longer(up)
}

// Ended is the longest of the gaps that ended in (from, until]. Of each direction only
// the longest gaps of the whole connection are known, of an upload as the server saw it.
func (r Result) Ended(from, until time.Time) (longest Gap) {
	for _, g := range slices.Concat(r.Downs, r.Ups) {
		if end := g.At.Add(g.Longest); end.After(from) && !end.After(until) {
			longest = longest.longer(g)
		}
	}
	return longest
}

// Summary of many results.
type Summary struct {
	Connections int   `json:"connections"`
	Lost        int   `json:"lost"` // not intact
	Intact      bool  `json:"intact"`
	Bytes       int64 `json:"bytes"` // of all flows, both directions, verified where they arrived
	Rounds      int64 `json:"rounds"`
	Gap         Gap   `json:"gap"`
	// Errors of the first lost connections, at most ten.
	Errors []string `json:"errors,omitempty"`
}

// Summarize adds results up.
func Summarize(results ...Result) Summary {
	s := Summary{Intact: true}
	for _, r := range results {
		s.Connections++
		s.Bytes += r.Received
		if r.Intact {
			s.Bytes += r.Sent // what a lost connection sent was perhaps never seen
		}
		s.Rounds += r.Rounds
		s.Gap = s.Gap.longer(r.Gap())
		if !r.Intact {
			s.Lost++
			s.Intact = false
			if len(s.Errors) < 10 {
				s.Errors = append(s.Errors, r.Error)
			}
		}
	}
	return s
}
