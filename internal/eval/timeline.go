package eval

import (
	"context"
	"fmt"
	"time"
)

// What an episode takes on a quiet machine, the pair's new start included; frozenCost where who stood still has to find out.
const (
	episodeCost = 2800 * time.Millisecond
	frozenCost  = 7 * time.Second
)

// timelineExperiment: what a client sees around each fault.
func timelineExperiment() experiment {
	cases := []struct {
		f     fault
		modes []mode
	}{
		{serverKilled, []mode{passedOn, logged, hot}},
		{activeKilled, modes},
		{bothKilled, []mode{logged, hot}},
		{switchover, modes},
	}
	return experiment{
		name: "timeline", title: "What a client has received, around each fault", kind: lines,
		x: "time since the fault (ms)", y: "received (MiB)",
		text: "One download, paced to 0.13 Gbit/s, and a fault in the middle of it; what was received is counted from 200 ms before. A step is a pause; the steeper piece after it is what was " +
			"on its way, or was kept for the client, meanwhile. A line that ends is a connection that was reset: `gateway` does not mask the death of a server.",
		runs: func(options) (all []run) {
			for _, c := range cases {
				for _, m := range c.modes {
					all = append(all, run{name: c.f.name + ", " + m.name, cost: episodeCost, do: func(ctx context.Context, w *world) ([]Sample, error) {
						e, err := w.episode(ctx, m, c.f, 0)
						if err != nil {
							return nil, err
						}
						noticed := c.f.name == serverKilled.name && m.protection == passedOn.protection
						if !e.result.Intact && !noticed {
							return nil, fmt.Errorf("the connection was lost: %s", e.result.Error)
						}
						return e.line(m.name, c.f.name), nil
					}})
				}
			}
			return all
		},
	}
}

// line is an episode as a line of a picture, from 200 ms before the fault to half a second after it.
func (e *episode) line(name, part string) (all []Sample) {
	const from, to = -200 * time.Millisecond, 500 * time.Millisecond
	var first int64
	for _, p := range e.points {
		since := p.at.Sub(e.at)
		if since < from {
			first = p.received
			continue
		}
		if since <= to {
			all = append(all, Sample{Series: name, Part: part, X: ms(since), Y: float64(p.received-first) / (1 << 20)})
		}
	}
	return all
}
