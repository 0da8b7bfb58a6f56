package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lockstep/appliance/control"
)

// render writes a status for people: one fact per line, the question that
// matters (could the standby take over now?) near the top. all shows every service.
func render(s *control.Status, c palette, now time.Time, all bool) string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%s %s\n", c.faint(fmt.Sprintf("%-12s", name)), fmt.Sprintf(format, args...))
	}
	row("node", "%s of pair %s, lockstep %s", c.strong(s.Node), s.Pair, s.Version)
	row("role", "%s", renderRole(s, c, now))
	row("peer", "%s", renderPeer(s, c))
	renderFitness(s, c, row)
	if q := s.Quorum; q != nil {
		row("quorum", "%s", renderQuorum(q, c))
	}
	if s.InSync {
		row("in sync", "%s", c.good("yes"))
	} else {
		why := s.WhyNotInSync
		if why == "" {
			why = "no reason given"
		}
		row("in sync", "%s: %s", c.bad("no"), why)
	}
	row("lag", "%s in %s, %s; round trip %s", bytesText(s.Lag.Bytes), batches(s.Lag.Batches), micros(s.Lag.Micros), orUnknown(s.RTTMicros))
	if t := &s.Timing; max(t.EffectiveMicros, t.PromisedMicros) > t.FailureTimeoutMicros {
		row("time-out", "%s", renderTiming(t, c))
	}
	unprotected := fmt.Sprintf("%d unprotected", s.Connections.Unprotected)
	if s.Connections.Unprotected > 0 {
		unprotected = c.warn(unprotected)
	}
	row("connections", "%d open: %d protected, %s; %d half-open, %d tombstones",
		s.Connections.Open, s.Connections.Protected, unprotected, s.Connections.HalfOpen, s.Connections.Tombstones)
	if s.Connections.CookiesSent > 0 {
		row("SYN cookies", "%d sent, %d answered", s.Connections.CookiesSent, s.Connections.CookiesAccepted)
	}
	row("takeovers", "%s", renderTakeovers(s, c, now))
	if l := s.LastLoss; l != nil {
		row("lost", "%s ago this appliance started without connections: %s (%s)", age(now, l.At), c.bad(l.Text), l.Why)
	}
	if t := &s.Steering; t.Why != "" {
		row("steering", "by routing: %s", t.Why)
	} else if t.On && all {
		row("steering", "past routing and packet filter: %d packets in, %d out%s", t.Packets["front"]+t.Packets["back"], t.Packets["out"], renderFlows(t))
	}
	if why := s.Steering.NoFlows; why != "" {
		row("steering", "not from NIC to NIC: %s", why)
	}
	row("memory", "%s buffered of %s", bytesText(s.Memory.BufferedBytes), bytesText(s.Memory.Limit))
	if w := s.Wrapped; w != nil {
		row("wrapped", "%s; %s decided for %d connections and starts", cmp.Or(strings.Join(w.Servers, ", "), "no server")+" asking", bytesText(w.DecidedBytes), w.Lives)
	}
	renderServices(s, c, row, all)
	renderDrops(s, row)
	return b.String()
}

// renderFlows says what does not come to the process; nothing where that is not asked for.
func renderFlows(t *control.Steering) string {
	n, ok := t.Packets["flows"]
	if !ok {
		return ""
	}
	return fmt.Sprintf(", %d past the process (%d connections now)", n, t.Flows)
}

func renderRole(s *control.Status, c palette, now time.Time) string {
	role := c.strong(s.Role)
	switch s.Role {
	case control.RoleActive:
		role = c.good(s.Role)
	case control.RoleStarting:
		role = c.warn(s.Role)
	}
	if s.Since.IsZero() {
		return fmt.Sprintf("%s, epoch %d", role, s.Epoch)
	}
	return fmt.Sprintf("%s for %s, epoch %d", role, age(now, s.Since), s.Epoch)
}

// renderTiming tells why silence is borne for longer than failure_timeout.
func renderTiming(t *control.Timing, c palette) string {
	why := fmt.Sprintf("timers here up to %s late, the peer's heartbeats up to %s, in the last minute", micros(t.OwnLateMicros), micros(t.PeerLateMicros))
	if t.HoldDown {
		why = "a takeover was a moment ago; " + why
	}
	promised := ""
	if t.PromisedMicros > 0 {
		promised = fmt.Sprintf(", %s promised", micros(t.PromisedMicros))
	}
	return fmt.Sprintf("%s instead of %s%s: %s", c.warn(micros(t.EffectiveMicros)), micros(t.FailureTimeoutMicros), promised, why)
}

// renderFitness tells what keeps either appliance from serving, and what a standby would
// not know; nothing where all is well.
func renderFitness(s *control.Status, c palette, row rows) {
	for _, fault := range s.Fitness.Faults {
		row("fault", "%s", c.bad(fault))
	}
	for _, fault := range s.Fitness.PeerFaults {
		row("fault", "at %s: %s", s.Peer.Name, c.bad(fault))
	}
	for _, what := range slices.Concat(s.Fitness.Differences, s.Fitness.HarmlessDifferences) {
		row("differs", "%s", c.warn(what))
	}
}

func renderQuorum(q *control.Quorum, c palette) string {
	witness, heard := c.good("witness connected"), c.good("majority heard")
	if !q.Witness {
		witness = c.bad("witness not connected")
	}
	if !q.Heard {
		heard = c.bad("no majority")
	}
	set := "nobody is active yet"
	if q.Active != "" {
		set = fmt.Sprintf("%s active in epoch %d, in-sync set {%s}", q.Active, q.Epoch, strings.Trim(q.Active+" "+q.Standby, " "))
	}
	if q.Silent {
		set += c.bad(", SILENT: its lease is over")
	}
	return fmt.Sprintf("%s, %s; %s", witness, heard, set)
}

func renderPeer(s *control.Status, c palette) string {
	switch {
	case s.Peer.Name == "":
		return c.warn("none configured")
	case s.Peer.Connected:
		return fmt.Sprintf("%s at %s, %s", s.Peer.Name, s.Peer.Address, c.good("connected"))
	}
	why := ""
	if s.Peer.Why != "" {
		why = ": " + s.Peer.Why
	}
	return fmt.Sprintf("%s at %s, %s%s", s.Peer.Name, s.Peer.Address, c.bad("not connected"), why)
}

func renderTakeovers(s *control.Status, c palette, now time.Time) string {
	t := s.LastTakeover
	if t == nil {
		return fmt.Sprint(s.Takeovers)
	}
	text := fmt.Sprintf("%d; the last %s ago: %d connections, %d legs in %s", s.Takeovers, age(now, t.At), t.Connections, t.Legs, micros(t.DurationMicros))
	if t.Lost > 0 {
		text += ", " + c.bad(fmt.Sprintf("%d lost", t.Lost))
	}
	if t.Why != "" {
		text += " (" + t.Why + ")"
	}
	return text
}

// renderDrops lists the reasons that occurred, the most frequent first.
func renderDrops(s *control.Status, row func(name, format string, args ...any)) {
	reasons := slices.DeleteFunc(slices.Sorted(maps.Keys(s.Drops)), func(r string) bool { return s.Drops[r] == 0 })
	slices.SortStableFunc(reasons, func(a, b string) int {
		switch {
		case s.Drops[a] > s.Drops[b]:
			return -1
		case s.Drops[a] < s.Drops[b]:
			return 1
		}
		return 0
	})
	if len(reasons) == 0 {
		row("drops", "none")
	}
	name := "drops"
	for _, r := range reasons {
		row(name, "%-10d %s", s.Drops[r], r)
		name = ""
	}
}

func bytesText(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, suffixes := float64(n)/unit, []string{"KiB", "MiB", "GiB", "TiB"}
	for value >= unit && len(suffixes) > 1 {
		value, suffixes = value/unit, suffixes[1:]
	}
	return fmt.Sprintf("%.1f %s", value, suffixes[0])
}

// micros writes microseconds, and milliseconds from 10 ms on.
func micros(n int64) string {
	if n < 10_000 {
		return fmt.Sprintf("%d us", n)
	}
	return fmt.Sprintf("%.1f ms", float64(n)/1000)
}

func orUnknown(rtt int64) string {
	if rtt == 0 {
		return "not known"
	}
	return micros(rtt)
}

func age(now, since time.Time) string {
	return max(now.Sub(since), 0).Round(time.Second).String()
}
