package eval

import (
	"context"
	"fmt"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

const (
	requestSize, responseSize = 100, 8 << 10 // bytes
	warmUp                    = 300 * time.Millisecond
)

// clientsExperiment: whether it scales with clients.
func clientsExperiment() experiment {
	return experiment{
		name: "clients", title: "Requests against the number of clients", kind: medians, logX: true,
		x: "clients", y: "requests a second",
		text: "So many clients ask, each on a connection of its own, as fast as they are answered: 100 bytes, 8 KiB. All ends share this machine's processors; with `hot` " +
			"both servers answer.",
		runs: func(o options) (all []run) {
			for _, routed := range []bool{true, false} {
				for i := range o.times(1, 3) {
					for _, n := range pick(o, []int{1, 10, 100}, []int{1, 3, 10, 30, 100, 300, 1000}) {
						for _, m := range modesOf(routed) {
							all = append(all, run{name: fmt.Sprintf("%s, %d clients, %d", m.name, n, i+1), cost: o.span() + time.Second, world: worldOptions{routed: routed},
								do: func(ctx context.Context, w *world) ([]Sample, error) {
									rate, err := w.rate(ctx, m, n, o.span())
									return []Sample{{Series: m.name, Run: i, X: float64(n), Y: rate}}, err
								}})
						}
					}
				}
			}
			return all
		},
	}
}

// modesOf a world.
func modesOf(routed bool) []mode {
	if routed {
		return []mode{direct}
	}
	return modes
}

// span of a measurement.
func (o options) span() time.Duration { return pick(o, 700*time.Millisecond, 2*time.Second) }

// rate of requests of n clients.
func (w *world) rate(ctx context.Context, m mode, n int, span time.Duration) (float64, error) {
	if err := w.mend(ctx); err != nil {
		return 0, err
	}
	client, err := w.client(m, traffic.ClientArgs{Every: 10 * time.Millisecond, Requests: []traffic.Batch{{Count: n, Request: traffic.Request{
		Mode: traffic.Rounds, Rounds: 1 << 30, RequestSize: requestSize, ResponseSize: responseSize, NoVerify: true, Repeatable: true,
	}}}})
	if err != nil {
		return 0, err
	}
	defer client.Finish()
	return w.measure(ctx, client, span)
}

// measure takes how often rounds are made, once all connections are open and a little has passed.
func (w *world) measure(ctx context.Context, client *lab.RoleProc, span time.Duration) (float64, error) {
	limit, cancel := context.WithTimeout(ctx, readyTimeout+span)
	defer cancel()
	var open, from time.Time
	var rounds int64
	for {
		var e traffic.ClientEvent
		if err := client.Next(limit, &e); err != nil {
			return 0, fmt.Errorf("what the client says: %w", err)
		}
		now := time.Now()
		switch {
		case e.Summary != nil:
			return 0, fmt.Errorf("%d of %d connections were lost: %v", e.Summary.Lost, e.Summary.Connections, e.Summary.Errors)
		case e.AllOpen:
			open = now
		case open.IsZero() || now.Sub(open) < warmUp:
		case from.IsZero():
			from, rounds = now, e.Rounds
		case now.Sub(from) >= span:
			return float64(e.Rounds-rounds) / now.Sub(from).Seconds(), nil
		}
	}
}
