package demo

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"lockstep/appliance/config"
)

// verdict prints the end of the story.
func (v *view) verdict(r verdict) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintln(v.out)
	v.transferRows(&r)
	v.roleRows(&r)
	v.roundRows(&r)
	fmt.Fprintln(v.out)
	if r.OK {
		fmt.Fprintln(v.out, v.paint(styleGreen, r.moral()))
		return
	}
	fmt.Fprintln(v.out, v.paint(styleRed, "Not everything survived:"))
	for _, reason := range r.Reasons {
		fmt.Fprintln(v.out, "  "+strings.ReplaceAll(reason, "\n", "\n  "))
	}
}

func (v *view) row(what, format string, args ...any) {
	fmt.Fprintf(v.out, "  %-18s %s\n", what, fmt.Sprintf(format, args...))
}

// transferRows are about bytes and connections.
func (v *view) transferRows(r *verdict) {
	where := "every one in its place"
	if !r.Intact {
		where = "NOT all in their place"
	}
	v.row("bytes checked", "%s, %s", humanBytes(r.Bytes), where)
	v.row("connections kept", "%d of %d", r.Connections-r.ConnectionsLost, r.Connections)
	if r.Service != "" && r.ClientStatus != nil {
		is := "is"
		if !r.Intact {
			is = "is NOT"
		}
		client := fmt.Sprintf("%s, exit status %d; its file %s what the servers have", r.Client, *r.ClientStatus, is)
		if r.Resumed > 0 {
			client += fmt.Sprintf("; run again %d times", r.Resumed)
		}
		v.row("client", "%s", client)
	}
	gap := fmt.Sprintf("%.1f ms", r.LongestGapMS)
	if r.Fault != faultNone && r.LongestGapMS > 0 {
		when := "after"
		if r.GapAfterFaultMS < 0 {
			when = "before"
		}
		gap += fmt.Sprintf(", beginning %.1f ms %s the fault", math.Abs(r.GapAfterFaultMS), when)
	}
	v.row("longest gap", "%s", gap)
	if r.IdleAnswerMS > 0 {
		v.row("idle connections", "all asked at once: slowest answer %.1f ms", r.IdleAnswerMS)
	}
}

// roleRows are about who was what.
func (v *view) roleRows(r *verdict) {
	v.row("active", "%s before, %s after (fault: %s)", name(r.ActiveBefore), name(r.ActiveAfter), r.Fault)
	if r.ServerBefore != "" {
		v.row("server", "%s before, %s after (protection: %s)", r.ServerBefore, name(r.ServerAfter), r.Protection)
	}
	if r.ServerBefore != "" && r.Protection != string(config.ProtectGateway) {
		v.row("failovers", "%d connections lost their server, %d went on with another one or the same restarted; %d differed",
			r.ServersLost, r.Failovers, r.Divergences)
	}
	if r.Unasked > 0 {
		v.row("without a fault", "%d takeovers: the machine is too busy for failure_timeout", r.Unasked)
	}
}

// roundRows are about the failures, one by one.
func (v *view) roundRows(r *verdict) {
	if r.Rounds <= 1 {
		if r.TakeoverLegs > 0 {
			v.row("takeover itself", "%.2f ms for %d legs", float64(r.TakeoverMicros)/1000, r.TakeoverLegs)
		}
		return
	}
	ofServer := r.ServerBefore != "" && slices.Contains(serverFaults, r.Fault)
	back := "in sync"
	if ofServer {
		back = "in step"
	}
	v.row("rounds", "%d of %d, and %d times back %s", len(r.Failures), r.Rounds, r.Rejoins, back)
	for _, f := range r.Failures {
		line := f.line()
		if ofServer {
			line = f.serverLine()
		}
		v.row(fmt.Sprintf("  round %d", f.Round), "%s", line)
	}
}

// line tells an appliance's failure.
func (f *failure) line() string {
	line := fmt.Sprintf("%s failed, %s active: longest gap %.1f ms, takeover %.2f ms for %d legs",
		f.Failed, name(f.Active), f.LongestGapMS, float64(f.TakeoverMicros)/1000, f.TakeoverLegs)
	if f.RejoinMS > 0 {
		line += fmt.Sprintf(", in sync %.0f ms after the repair (longest gap %.1f ms)", f.RejoinMS, f.RejoinGapMS)
	}
	return line
}

// moral of a story that ended well.
func (r *verdict) moral() string {
	switch {
	case r.Fault == faultPartition:
		return "Every connection outlived the partition."
	case r.Fault == faultSwitchover:
		return "Every connection went over."
	case r.Resumed > 0:
		return "The file is whole. Under gateway its connection ended with its server; " + r.Client + ", run again, went on with the other one."
	case slices.Contains(serverFaults, r.Fault):
		return "Every connection outlived its server."
	case r.Fault != faultNone:
		return "Every connection outlived its appliance."
	}
	return "Every connection is whole."
}
