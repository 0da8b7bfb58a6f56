package demo

import (
	"fmt"
	"slices"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab/traffic"
)

// verdict is what came of it; its JSON is the output of --json. Fields may be added, not changed.
type verdict struct {
	OK              bool    `json:"ok"`     // everything below is as it should be
	Intact          bool    `json:"intact"` // every byte of every connection arrived, in its place
	Bytes           int64   `json:"bytes"`  // that were checked
	Connections     int     `json:"connections"`
	ConnectionsLost int     `json:"connections_lost"`
	LongestGapMS    float64 `json:"longest_gap_ms"` // in the byte stream of any transfer
	// GapAfterFaultMS is when that gap began, counted from the last fault before its end; negative is
	// before the fault.
	GapAfterFaultMS float64 `json:"gap_after_fault_ms"`
	// IdleAnswerMS is the slowest answer of an idle connection at the end, when all are asked at
	// once; no gap, but a sign of life.
	IdleAnswerMS float64 `json:"idle_answer_ms"`
	Fault        string  `json:"fault"`
	Protection   string  `json:"protection"`        // gateway, log or hot
	Release      string  `json:"release,omitempty"` // as asked for
	Rounds       int     `json:"rounds"`            // failures that were asked for
	Rejoins      int     `json:"rejoins"`           // how often what had failed was back in sync
	// Unasked counts takeovers that no fault explains: a machine too busy for failure_timeout.
	Unasked        int       `json:"unasked_takeovers"`
	Failures       []failure `json:"failures,omitempty"` // one a round, as far as it came
	Direction      string    `json:"direction"`
	ActiveBefore   string    `json:"active_before"`
	ActiveAfter    string    `json:"active_after"`
	TakeoverMicros int64     `json:"takeover_micros"` // the appliance's own share, as it says
	TakeoverLegs   int       `json:"takeover_legs"`
	// Of protection log and hot: who served at first and at last, and what the appliances have
	// counted: connections that lost their server, those that another one went on with, replicas
	// whose output was not the same.
	ServerBefore string `json:"server_before,omitempty"`
	ServerAfter  string `json:"server_after,omitempty"`
	ServersLost  uint64 `json:"servers_lost"`
	Failovers    uint64 `json:"failovers"`
	Divergences  uint64 `json:"divergences"`

	// Of --service: which, the client program and its last exit status, and how often it had to be run again
	// because its connection had ended with its server. Each such connection counts as lost.
	Service      string `json:"service,omitempty"`
	Client       string `json:"client,omitempty"`
	ClientStatus *int   `json:"client_status,omitempty"`
	Resumed      int    `json:"resumed,omitempty"`

	DurationMS float64  `json:"duration_ms"` // of the transfers
	Reasons    []string `json:"reasons,omitempty"`
	Error      string   `json:"error,omitempty"` // why there is no verdict
}

// judge fills in the conclusions. There are as many failures as came before the transfers ended.
func (v *verdict) judge(transfers, idle []traffic.Result, failures []failure) {
	v.Failures = failures
	for i := range failures {
		f, until := &failures[i], time.Now()
		if i+1 < len(failures) {
			until = failures[i+1].at
		}
		longest := func(from, until time.Time) (d time.Duration) {
			for _, r := range transfers {
				d = max(d, r.Ended(from, until).Longest)
			}
			return d
		}
		if f.repaired.IsZero() {
			f.repaired = until
		}
		f.LongestGapMS = milliseconds(longest(f.at, f.repaired))
		f.RejoinGapMS = milliseconds(longest(f.repaired, until))
		if f.RejoinMS > 0 {
			v.Rejoins++
		}
	}
	s := traffic.Summarize(slices.Concat(transfers, idle)...)
	gap := traffic.Summarize(transfers...).Gap
	v.IdleAnswerMS = milliseconds(traffic.Summarize(idle...).Gap.Longest)
	v.Intact = s.Intact && s.Connections > 0
	v.Bytes, v.Connections, v.ConnectionsLost = s.Bytes, s.Connections+v.Resumed, s.Lost+v.Resumed
	v.LongestGapMS = milliseconds(gap.Longest)
	if at := faultBefore(failures, gap); !at.IsZero() {
		v.GapAfterFaultMS = milliseconds(gap.At.Sub(at))
	}
	if s.Lost > 0 {
		v.Reasons = append(v.Reasons, fmt.Sprintf("%d of %d connections were lost", s.Lost, s.Connections))
		v.Reasons = append(v.Reasons, s.Errors...)
	}
	if v.Divergences > 0 {
		v.Reasons = append(v.Reasons, fmt.Sprintf("the output of %d servers' connections differed", v.Divergences))
	}
	switch {
	case v.Fault == faultNone:
		if v.ActiveAfter != v.ActiveBefore {
			v.Reasons = append(v.Reasons, fmt.Sprintf("the active changed from %s to %s without a fault", v.ActiveBefore, name(v.ActiveAfter)))
		}
	case len(failures) == 0 && len(v.Reasons) > 0: // why is said already
	case len(failures) == 0:
		v.Reasons = append(v.Reasons, "the transfer was over before the fault (hint: a larger --size)")
	case len(failures) < v.Rounds && len(v.Reasons) == 0:
		why := "the transfer was over"
		if last := failures[len(failures)-1]; last.RejoinMS == 0 {
			if why += " and the pair not in sync again"; last.Server != "" {
				why = "the transfer was over and the server not in step again"
			}
		}
		v.Reasons = append(v.Reasons, fmt.Sprintf("%s before round %d of %d (hint: a larger --size)", why, len(failures)+1, v.Rounds))
	case slices.Contains(serverFaults, v.Fault):
		v.judgeServers()
	case v.ActiveAfter == "" || v.ActiveAfter == failures[len(failures)-1].Failed:
		v.Reasons = append(v.Reasons, fmt.Sprintf("after the fault the active is %s, not the other one", name(v.ActiveAfter)))
	}
	v.OK = v.Intact && len(v.Reasons) == 0
}

// judgeServers: the server has changed.
func (v *verdict) judgeServers() {
	switch {
	case v.Protection == string(config.ProtectGateway):
		if v.Resumed == 0 {
			v.Reasons = append(v.Reasons, "the connection has not lost its server (hint: a larger --size)")
		}
	case v.ServersLost == 0 && v.Release != releaseFirst: // where both send, one may be lost unnoticed
		v.Reasons = append(v.Reasons, "no connection has lost its server")
	case v.ServerAfter == "":
		v.Reasons = append(v.Reasons, "no server has gone on after the fault")
	}
}

// faultBefore is when the last failure came before a gap ended; the first one's time if all came
// later, zero if there was none.
func faultBefore(failures []failure, gap traffic.Gap) (at time.Time) {
	if gap.At.IsZero() {
		return at
	}
	for i, f := range failures {
		if i == 0 || f.at.Before(gap.At.Add(gap.Longest)) {
			at = f.at
		}
	}
	return at
}

func name(node string) string {
	if node == "" {
		return "nobody"
	}
	return node
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// headline is the first reason; the others are details.
func (v *verdict) headline() string {
	if len(v.Reasons) == 0 {
		return "no connection was made"
	}
	return v.Reasons[0]
}
