package bench

import "fmt"

// target is one demand on the figures of one mode.
type target struct {
	title  string
	unit   string
	digits int
	// limit is a lower bound if atLeast, else an upper one.
	limit   float64
	atLeast bool
	value   func(s *samples, m mode) (float64, bool)
}

// verdict on one target.
type verdict struct {
	Title   string   `json:"title"`
	Offload mode     `json:"offload"`
	Unit    string   `json:"unit"`
	Limit   float64  `json:"limit"`
	AtLeast bool     `json:"at_least"` // false: Limit is an upper bound
	Value   *float64 `json:"value"`    // null: not measured
	Pass    bool     `json:"pass"`
	digits  int
}

// targets with the numbers of busy and idle connections of the failover measurements.
func targets(busy, idle int) (all []target) {
	for _, b := range bulkLoads {
		limit := 0.95
		if b.load.Kind == loadUp {
			limit = 0.7 // both appliances share the machine's cores
		}
		all = append(all, ratioTarget(b.title+", pair : alone", b.name, paired, alone, limit))
	}
	for _, b := range bulkLoads {
		all = append(all, ratioTarget(b.title+", alone : HAProxy", b.name, alone, haproxy, 0.9))
	}
	for _, r := range requestLoads {
		all = append(all, target{title: "CPU of the whole machine, pair : HAProxy, " + r.title, digits: 2, limit: 1,
			value: func(s *samples, m mode) (float64, bool) {
				id := r.name + suffixMachine
				return s.compare(key{m, paired, id}, key{m, haproxy, id}, ratio)
			}})
		if r.load.Kind != loadKept {
			continue
		}
		title := "added p50, pair over alone, " + r.title
		if r.load.Connections > 1 {
			title += " (saturated)" // the CPUs' limit shows here, not the path's length
		}
		all = append(all, target{title: title, unit: "us", limit: 100,
			value: func(s *samples, m mode) (float64, bool) {
				id := r.name + suffixP50
				return s.compare(key{m, paired, id}, key{m, alone, id}, difference)
			}})
	}
	crowd := fmt.Sprintf("%d idle and %d busy", idle, busy)
	all = append(all, cutTargets()...)
	all = append(all, keptTargets()...)
	for _, l := range levels(busy) {
		all = append(all,
			medianTarget(fmt.Sprintf("kill -9, %d busy: gap beyond that without a kill, median run", l.busy), failBeyond+l.suffix, "ms", 1, 15),
			worstTarget(fmt.Sprintf("kill -9, %d busy: connections lost, worst run", l.busy), failLost+l.suffix),
			medianTarget(fmt.Sprintf("switchover, %d busy: gap beyond that without one, median run", l.busy), switchBeyond+l.suffix, "ms", 1, 10),
			worstTarget(fmt.Sprintf("switchover, %d busy: connections lost, worst run", l.busy), switchLost+l.suffix))
	}
	return append(all,
		medianTarget("kill -9, "+crowd+": gap of the busy ones beyond that without a kill, median run", crowdBeyond, "ms", 1, 20),
		worstTarget("kill -9, "+crowd+": busy ones lost, worst run", crowdLost),
		worstTarget("kill -9, "+crowd+": idle ones not usable afterwards, worst run", crowdIdle),
		medianTarget("memory per idle connection on the active", idleActive, "KiB", 2, 16),
		medianTarget("memory per idle connection on the standby", idleStandby, "KiB", 2, 1),
		medianTarget(fmt.Sprintf("takeover time per rebuilt leg, %d connections", idle), restLeg, "us", 1, 75),
		worstTarget(fmt.Sprintf("kill -9, %d idle: not usable afterwards, worst run", idle), restLost),
		medianTarget(fmt.Sprintf("active frozen, %d busy: longest gap, failure_timeout %v + 30 ms", busy, frozen.failure), frozenGap, "ms", 1, ms(frozen.failure)+30),
		worstTarget(fmt.Sprintf("active frozen, %d busy: connections lost, worst run", busy), frozenLost),
		medianTarget(fmt.Sprintf("standby frozen, %d busy: longest gap, failure_timeout %v + 20 ms", busy, failureTimeout), soloGap, "ms", 1, ms(failureTimeout)+20),
		worstTarget(fmt.Sprintf("standby frozen, %d busy: connections lost, worst run", busy), soloLost),
		medianTarget(fmt.Sprintf("rejoin with %d connections: time until in sync", idle), rejoinSync, "ms", 0, 2000),
		target{title: "throughput of a running download meanwhile, relative to before", digits: 2, limit: 0.8, atLeast: true,
			value: func(s *samples, m mode) (float64, bool) { return s.median(key{m, paired, rejoinRate}) }},
	)
}

func ratioTarget(title, figure string, a, b kind, limit float64) target {
	return target{title: title, digits: 2, limit: limit, atLeast: true,
		value: func(s *samples, m mode) (float64, bool) {
			return s.compare(key{m, a, figure}, key{m, b, figure}, ratio)
		}}
}

func medianTarget(title, figure, unit string, digits int, limit float64) target {
	return target{title: title, unit: unit, digits: digits, limit: limit,
		value: func(s *samples, m mode) (float64, bool) { return s.median(key{m, paired, figure}) }}
}

// worstTarget demands that nothing is lost in any run.
func worstTarget(title, figure string) target {
	return target{title: title,
		value: func(s *samples, m mode) (float64, bool) { return s.worst(key{m, paired, figure}) }}
}

// judge all targets for one mode.
func judge(s *samples, m mode, all []target) (verdicts []verdict) {
	for _, t := range all {
		v := verdict{Title: t.title, Offload: m, Unit: t.unit, Limit: t.limit, AtLeast: t.atLeast, digits: t.digits}
		if x, ok := t.value(s, m); ok {
			v.Value = &x
			v.Pass = x <= t.limit
			if t.atLeast {
				v.Pass = x >= t.limit
			}
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}
