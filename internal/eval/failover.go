package eval

import (
	"context"
	"fmt"
	"time"
)

// What the pause of a failover is made of. Detection is the optimum: nobody can act on what he does not know.
const (
	partKnown   = "until it is known"
	partRebuild = "taking over"
	partRest    = "until bytes move"
	partGap     = "the whole pause"
)

// failoverExperiment: how long a failover takes, as a distribution, and where the time goes.
func failoverExperiment() experiment {
	kinds := []struct {
		f       fault
		m       mode
		failure time.Duration
	}{
		{f: activeKilled, m: passedOn}, {f: activeKilled, m: ended}, {f: activeKilled, m: hot},
		{f: switchover, m: passedOn},
		{f: activeFrozen, m: passedOn, failure: 100 * time.Millisecond},
		{f: serverKilled, m: hot}, {f: serverKilled, m: logged},
	}
	return experiment{
		name: "failover", title: "How long a failover takes", kind: distribution,
		x: "", y: "longest pause at the client (ms)",
		text: "The same download, again and again. What a pause is made of: the time until the death is known (a dead process's kernel closes its " +
			"connections, a frozen one is missed after pair.failure_timeout, here 100 ms); taking over, with `log` the time in which the server's successor sends again what " +
			"it has sent; and the rest, in which the ends notice. Knowing is the optimum: what a failover costs beyond it is what there is to judge.",
		runs: func(o options) (all []run) {
			for _, k := range kinds {
				name, cost := k.f.name+": "+k.m.name, episodeCost
				if k.failure > 0 {
					cost = frozenCost
				}
				for i := range o.times(3, 100) {
					all = append(all, run{name: fmt.Sprintf("%s, %d", name, i+1), cost: cost, world: worldOptions{failure: k.failure},
						do: func(ctx context.Context, w *world) ([]Sample, error) {
							e, err := w.episode(ctx, k.m, k.f, 0)
							if err != nil {
								return nil, err
							}
							if !e.result.Intact {
								return nil, fmt.Errorf("the connection was lost: %s", e.result.Error)
							}
							return e.parts(name, i, k.f, k.m), nil
						}})
				}
			}
			return all
		},
	}
}

// parts of an episode's pause. Which of the two failovers it was is the fault's to say: an appliance that has taken over may give its
// connections other servers, too, later.
func (e *episode) parts(series string, run int, f fault, m mode) (all []Sample) {
	gap := e.gap()
	known, rebuild := time.Duration(0), time.Duration(0)
	if k, ok := e.kept(m); f.ofServer && ok && k.Failovers > 0 {
		rebuild = time.Duration(k.LastMicros) * time.Microsecond
		known = k.LastAt.Add(-rebuild).Sub(e.at)
	} else if t := e.status.LastTakeover; !f.ofServer && t != nil {
		known, rebuild = t.At.Sub(e.at), time.Duration(t.DurationMicros)*time.Microsecond
	}
	// A leg that nobody waits for may be rebuilt after bytes move again.
	known = min(max(0, known), gap)
	rebuild = min(max(0, rebuild), gap-known)
	for _, p := range []struct {
		name string
		d    time.Duration
	}{{partKnown, known}, {partRebuild, rebuild}, {partRest, gap - known - rebuild}, {partGap, gap}} {
		all = append(all, Sample{Series: series, Part: p.name, Run: run, Y: ms(p.d)})
	}
	return all
}
