package eval

import (
	"context"
	"fmt"
	"time"

	"lockstep/internal/lab/traffic"
)

// messagesExperiment is ttcp: one connection, one direction, as fast as it goes.
func messagesExperiment() experiment {
	return experiment{
		name: "messages", title: "Throughput in and out, against message size and the sync link's round trip", kind: medians, logX: true,
		x: "bytes a message", y: "Gbit/s",
		text: "ttcp's question: one connection, in one direction, in messages of so many bytes. What comes in waits for the standby's word before it is acknowledged, " +
			"so a longer sync link costs it window; with a path that passes packets on nothing waits. The sync link is one of its own; its round trip is added to the machine's.",
		runs: func(o options) (all []run) {
			trips := pick(o, []time.Duration{0, 2 * time.Millisecond}, []time.Duration{0, 500 * time.Microsecond, 2 * time.Millisecond, 5 * time.Millisecond})
			sizes := pick(o, []int{1 << 10, 64 << 10}, []int{256, 1 << 10, 4 << 10, 16 << 10, 64 << 10})
			add := func(in worldOptions, m mode, size, i int) {
				for _, way := range []string{"in", "out"} {
					name := fmt.Sprintf("%s, %s", way, m.name)
					if in.roundTrip > 0 {
						name += fmt.Sprintf(", sync link of %v", in.roundTrip)
					}
					all = append(all, run{name: fmt.Sprintf("%s, %d bytes, %d", name, size, i+1), cost: 1200 * time.Millisecond, world: in,
						do: func(ctx context.Context, w *world) ([]Sample, error) {
							rate, err := w.ttcp(ctx, m, way, size, o)
							return []Sample{{Series: name, Part: way, Run: i, X: float64(size), Y: rate}}, err
						}})
				}
			}
			for _, world := range append([]worldOptions{{routed: true}}, worlds(trips)...) {
				for i := range o.times(1, 3) {
					for _, size := range sizes {
						for _, m := range modesOf(world.routed) {
							if world.roundTrip == 0 || m == ended || m == hot { // the others do not wait, or as these do
								add(world, m, size, i)
							}
						}
					}
				}
			}
			return all
		},
	}
}

func worlds(trips []time.Duration) (all []worldOptions) {
	for _, d := range trips {
		all = append(all, worldOptions{roundTrip: d})
	}
	return all
}

// ttcp moves bytes in one direction, and returns how many bits a nanosecond it moved.
func (w *world) ttcp(ctx context.Context, m mode, way string, size int, o options) (float64, error) {
	if err := w.mend(ctx); err != nil {
		return 0, err
	}
	flow := traffic.Flow{Chunk: size, Size: int64(size) * 20000}
	flow.Size = min(flow.Size, pick[int64](o, 64<<20, 256<<20))
	r := traffic.Request{Mode: traffic.Stream, NoVerify: true, Repeatable: true}
	if way == "in" {
		r.Up = flow
	} else {
		r.Down = flow
	}
	client, err := w.client(m, traffic.ClientArgs{Results: true, Requests: []traffic.Batch{{Count: 1, Request: r}}})
	if err != nil {
		return 0, err
	}
	defer client.Finish()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout+patience)
	defer cancel()
	for {
		var e traffic.ClientEvent
		if err := client.Next(ctx, &e); err != nil {
			return 0, fmt.Errorf("what the client says: %w", err)
		}
		if e.Summary == nil {
			continue
		}
		if len(e.Results) != 1 || e.Results[0].Error != "" {
			return 0, fmt.Errorf("the transfer failed: %v", e.Summary.Errors)
		}
		return 8 * float64(flow.Size) / float64(e.Results[0].Total), nil
	}
}
