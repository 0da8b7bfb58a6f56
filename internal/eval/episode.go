package eval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// An episode is one download through a pair, and a fault in the middle of it. The download is paced, so that the machine
// is not saturated and a gap is the fault's.

const (
	chunk     = 16 << 10         // bytes at a time
	chunkPace = time.Millisecond // from one to the next: 0.13 Gbit/s
	look      = 2 * time.Millisecond
	before    = 300 * time.Millisecond
	after     = 700 * time.Millisecond
)

// point is what a client had received at a moment.
type point struct {
	at       time.Time
	received int64
}

// episode is what was seen.
type episode struct {
	at     time.Time // of the fault
	points []point
	result traffic.Result
	// status is what the one says who is active afterwards.
	status control.Status
}

// fault happens to a world in the middle of a download of a service.
type fault struct {
	name string
	do   func(ctx context.Context, w *world) error
	// undo what mend does not, before it.
	undo func(w *world)
	// ofServer: what goes on afterwards is another server, not another appliance.
	ofServer bool
}

var (
	serverKilled = fault{name: "server killed", ofServer: true, do: func(_ context.Context, w *world) error { return w.servers[0].Kill() }}
	activeKilled = fault{name: "appliance killed", do: func(_ context.Context, w *world) error { return w.pair.Active.Process().Kill() }}
	bothKilled   = fault{name: "server killed, 300 ms later the appliance", do: func(ctx context.Context, w *world) error {
		if err := w.servers[0].Kill(); err != nil {
			return err
		}
		if err := lab.Pause(ctx, 300*time.Millisecond); err != nil {
			return err
		}
		return w.pair.Active.Process().Kill()
	}}
	switchover   = fault{name: "switchover", do: func(ctx context.Context, w *world) error { return w.pair.Active.Client.Switchover(ctx) }}
	activeFrozen = fault{name: "appliance stands still",
		do:   func(_ context.Context, w *world) error { return w.pair.Active.Process().Stop() },
		undo: func(w *world) { _ = w.pair.Active.Process().Cont() }, // one that has ended is no matter
	}
)

// episode runs one. What was sent before the fault is `history` bytes as fast as they go, and then what the pace has.
func (w *world) episode(ctx context.Context, m mode, f fault, history int64) (e episode, err error) {
	if err := w.mend(ctx); err != nil {
		return e, err
	}
	flow := traffic.Flow{Chunk: chunk, Pace: chunkPace, PaceAfter: history, Size: history + chunk*int64((before+after)/chunkPace)}
	client, err := w.client(m, traffic.ClientArgs{Every: look, Results: true,
		Requests: []traffic.Batch{{Count: 1, Request: traffic.Request{Mode: traffic.Stream, Down: flow, Repeatable: true}}}})
	if err != nil {
		return e, err
	}
	defer client.Finish()
	if f.undo != nil {
		defer f.undo(w)
	}
	due := history + chunk*int64(before/chunkPace)
	done := make(chan error, 1) // of the fault; nil: it has not begun
	begun := false
	limit, cancel := context.WithTimeout(ctx, readyTimeout+patience)
	defer cancel()
	for {
		var event traffic.ClientEvent
		if err := client.Next(limit, &event); err != nil {
			return e, fmt.Errorf("what the client says: %w", err)
		}
		e.points = append(e.points, point{time.Now(), event.Received})
		if !begun && event.Received >= due {
			begun, e.at = true, time.Now()
			go func() { done <- f.do(ctx, w) }()
		}
		if event.Summary == nil {
			continue
		}
		if !begun || len(event.Results) != 1 {
			return e, errors.New("the download was over before the fault")
		}
		e.result = event.Results[0]
		break
	}
	if err := <-done; err != nil {
		return e, fmt.Errorf("%s: %w", f.name, err)
	}
	return e, w.ask(ctx, &e)
}

// ask whoever is active now.
func (w *world) ask(ctx context.Context, e *episode) (err error) {
	n := w.pair.Leading(ctx)
	if e.status, err = n.Status(ctx); err != nil {
		return fmt.Errorf("ask the active: %w", err)
	}
	return nil
}

// gap is the longest one that the fault has to do with: of those that begin within a little, since what was on its way
// arrives first, or that it happens in. Only the longest gaps of the download are known: if it is none of them, it was no longer than
// the shortest of them, which is what is said then.
func (e *episode) gap() (longest time.Duration) {
	const little = 100 * time.Millisecond
	if len(e.result.Downs) == 0 {
		return 0
	}
	shortest := e.result.Downs[0].Longest
	for _, g := range e.result.Downs {
		shortest = min(shortest, g.Longest)
		if g.At.Before(e.at.Add(little)) && g.At.Add(g.Longest).After(e.at) {
			longest = max(longest, g.Longest)
		}
	}
	return cmp.Or(longest, shortest)
}

// kept is what the active says of the connections of a service that outlive servers.
func (e *episode) kept(m mode) (control.Kept, bool) {
	for _, s := range e.status.Services {
		if s.Name == fmt.Sprintf("port%d", m.port) && s.Kept != nil {
			return *s.Kept, true
		}
	}
	return control.Kept{}, false
}

// ms are milliseconds.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
