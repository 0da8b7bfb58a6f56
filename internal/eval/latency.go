package eval

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"lockstep/internal/lab/traffic"
)

const (
	latencyClients  = 8
	latencyInterval = 10 * time.Millisecond
)

// latencyExperiment: how long a request takes when the machine is not saturated.
func latencyExperiment() experiment {
	return experiment{
		name: "latency", title: "Latency at a fixed load", kind: cumulative, logX: true,
		x: "time of a request (ms)", y: "share of the requests",
		text: fmt.Sprintf("%d clients ask every %v, each on a connection of its own: a load that no mode is saturated by. The share of requests that took no longer than so long, up to the 99.9th "+
			"percentile.", latencyClients, latencyInterval),
		runs: func(o options) (all []run) {
			for _, routed := range []bool{true, false} {
				for i := range o.times(1, 3) {
					for _, m := range modesOf(routed) {
						all = append(all, run{name: fmt.Sprintf("%s, %d", m.name, i+1), cost: o.latencySpan() + time.Second, world: worldOptions{routed: routed},
							do: func(ctx context.Context, w *world) ([]Sample, error) { return w.latencies(ctx, m, i, o.latencySpan()) }})
					}
				}
			}
			return all
		},
	}
}

func (o options) latencySpan() time.Duration { return pick(o, 2*time.Second, 10*time.Second) }

// latencies of a spell. The client is this process, in the client's namespace: a round's time is not to be sent anywhere.
func (w *world) latencies(ctx context.Context, m mode, i int, span time.Duration) (all []Sample, err error) {
	if err := w.mend(ctx); err != nil {
		return nil, err
	}
	var mu sync.Mutex // guards all
	c := traffic.Client{
		Patience: patience,
		Dial:     func(ctx context.Context) (net.Conn, error) { return w.Client.DialContext(ctx, "tcp", w.target(m)) },
		OnRound: func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, Sample{Series: m.name, Run: i, Y: ms(d)})
		},
	}
	r := traffic.Request{Mode: traffic.Rounds, Rounds: int(span / latencyInterval), Interval: latencyInterval,
		RequestSize: requestSize, ResponseSize: responseSize, Repeatable: true}
	if s := traffic.Summarize(c.Run(ctx, traffic.Times(latencyClients, r)...)...); s.Lost > 0 || !s.Intact {
		return nil, fmt.Errorf("%d of %d connections were lost: %v", s.Lost, s.Connections, s.Errors)
	}
	return all, nil
}
