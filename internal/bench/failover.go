package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

const (
	// Each busy flow: so much at a time, so often: 0.4 MB/s, so that 100 of them keep a gateway
	// busy on MTU-sized frames but not saturated, and a gap is seen within busyPace.
	busyChunk = 4 << 10 // bytes
	busyPace  = 10 * time.Millisecond
	// patience of the busy clients: without a byte for so long a connection is lost.
	patience = 15 * time.Second
)

// episode is a spell of busy traffic through a pair, with a kill in it or not.
type episode struct {
	gap   time.Duration
	at    time.Duration // when the gap began, from the kill, or without one from the start
	way   string        // in which direction it was: down, up
	lost  int
	error string // of the first lost connection
	// quiet is the longest gap in a spell of the same load just before, in which nothing happened.
	quiet time.Duration
	// With a takeover:
	span     time.Duration // the longest gap that began before the standby knew and ended after the kill
	known    time.Duration // from the kill until the standby knew
	takeover control.Takeover
}

// busy is a third downloads, a third uploads, the rest both ways.
func busy(n int, lasting time.Duration) []traffic.Batch {
	flow := traffic.Flow{
		Size:  busyChunk * int64(lasting/busyPace),
		Chunk: busyChunk, Pace: busyPace,
	}
	third := n / 3
	return []traffic.Batch{
		{Count: third, Request: traffic.Request{Mode: traffic.Stream, Down: flow}},
		{Count: third, Request: traffic.Request{Mode: traffic.Stream, Up: flow}},
		{Count: n - 2*third, Request: traffic.Request{Mode: traffic.Stream, Up: flow, Down: flow}},
	}
}

// event is what happens in the middle of an episode, and when it did.
type event func(ctx context.Context) (at time.Time, err error)

// quiet runs n busy connections through a gateway, in which nothing happens.
func (b *bed) quiet(ctx context.Context, n int, p pace) (ep episode, err error) {
	ep, _, _, err = b.busySpell(ctx, n, p, nil)
	if err == nil && ep.lost > 0 {
		err = fmt.Errorf("%w: %d connections lost although nothing had happened, the first: %s", errLoad, ep.lost, ep.error)
	}
	if err == nil {
		err = b.gateway.check(ctx)
	}
	return ep, err
}

// afterQuiet is an episode, and before it a quiet spell of the same load through the same processes: what
// the machine, its scheduler and the load's own pace cost is no failure's.
func (b *bed) afterQuiet(ctx context.Context, n int, p pace, run func() (episode, error)) (ep episode, err error) {
	before, err := b.quiet(ctx, n, p)
	if err != nil {
		return ep, err
	}
	ep, err = run()
	ep.quiet = before.gap
	return ep, err
}

// beyond is how much longer the longest gap was than without what happened.
func (e episode) beyond() time.Duration { return e.gap - e.quiet }

// gaps puts an episode's into words.
func (e episode) gaps() string {
	return fmt.Sprintf("longest gap %.1f ms %s from %+.0f ms, %.1f ms beyond that of the same load before",
		ms(e.gap), e.way, ms(e.at), ms(e.beyond()))
}

// killed runs n busy connections through a pair and kills its active in the middle.
func (b *bed) killed(ctx context.Context, n int, p pace) (ep episode, err error) {
	return b.afterQuiet(ctx, n, p, func() (episode, error) { return b.overtaken(ctx, n, p, b.killActive) })
}

// overtaken is an episode in which the standby takes over.
func (b *bed) overtaken(ctx context.Context, n int, p pace, why event) (ep episode, err error) {
	ep, killed, results, err := b.busySpell(ctx, n, p, why)
	if err != nil {
		return ep, err
	}
	if err := b.survivor(ctx, killed, &ep); err != nil {
		return ep, err
	}
	// Between the kill and the moment of knowing nothing can move.
	ep.span = spanning(results, killed, killed.Add(ep.known))
	return ep, nil
}

// busySpell runs n busy connections through a gateway with an event in the middle, unless
// that is nil.
func (b *bed) busySpell(ctx context.Context, n int, p pace, happens event) (ep episode, at time.Time, results []traffic.Result, err error) {
	client, err := b.checkedClient(traffic.ClientArgs{Requests: busy(n, p.before+p.after), Patience: patience, Results: true})
	if err != nil {
		return ep, at, nil, err
	}
	defer client.Finish()
	if err := awaitOpen(ctx, client, readyTimeout); err != nil {
		return ep, at, nil, fmt.Errorf("open %d busy connections: %w", n, err)
	}
	at = time.Now()
	if happens != nil {
		if err := lab.Pause(ctx, p.before); err != nil {
			return ep, at, nil, err
		}
		if at, err = happens(ctx); err != nil {
			return ep, at, nil, err
		}
	}
	e, err := awaitSummary(ctx, client, readyTimeout+patience)
	if err != nil {
		return ep, at, nil, err
	}
	ep.way = "up"
	for _, r := range e.Results {
		if r.Down == e.Summary.Gap {
			ep.way = "down"
		}
	}
	ep.gap, ep.at, ep.lost = e.Summary.Gap.Longest, e.Summary.Gap.At.Sub(at), e.Summary.Lost
	if len(e.Summary.Errors) > 0 {
		ep.error = e.Summary.Errors[0]
	}
	return ep, at, e.Results, nil
}

// killActive kills the active of a pair that is as it was when it started: one that has changed
// its roles by itself would make a fine figure of a wrong thing.
func (b *bed) killActive(ctx context.Context) (at time.Time, err error) {
	if err := b.gateway.check(ctx); err != nil {
		return at, err
	}
	at = time.Now()
	return at, b.gateway.processes()[0].Kill()
}

// spanning is the longest gap that overlaps a time. Only the longest of each connection and
// direction is known: one that was longer elsewhere hides the one looked for.
func spanning(results []traffic.Result, from, until time.Time) (longest time.Duration) {
	for _, r := range results {
		for _, g := range []traffic.Gap{r.Down, r.Up} {
			if g.At.Before(until) && g.At.Add(g.Longest).After(from) {
				longest = max(longest, g.Longest)
			}
		}
	}
	return longest
}

// survivor asks the standby of a killed active what it did, once it has done it.
func (b *bed) survivor(ctx context.Context, killed time.Time, ep *episode) error {
	g, ok := b.gateway.(*applianceGateway)
	if !ok || len(g.nodes) < 2 {
		return errors.New("only a pair has a survivor")
	}
	var t *control.Takeover
	if err := g.await(ctx, "the survivor has rebuilt every leg", func(s []control.Status) bool {
		t = s[0].LastTakeover
		return t != nil
	}, g.nodes[1]); err != nil {
		return err
	}
	ep.takeover, ep.known = *t, t.At.Sub(killed)
	return nil
}
