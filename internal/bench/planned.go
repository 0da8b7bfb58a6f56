package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lockstep/internal/pair"
)

// The pair's other pauses: a hand-over that somebody asked for, an active that stands still, and one that has
// lost its standby and may not acknowledge anything before it is decided that it is alone.

// pairOf returns the two nodes of a pair.
func (b *bed) pairOf() (active, standby *pair.Node, err error) {
	g, ok := b.gateway.(*applianceGateway)
	if !ok || len(g.nodes) < 2 {
		return nil, nil, errors.New("only a pair has a standby")
	}
	return g.nodes[0], g.nodes[1], b.gateway.check(context.Background())
}

// switchover is `lockstep switchover` in the middle of busy traffic.
func (b *bed) switchover(ctx context.Context, n int, p pace) (ep episode, took time.Duration, err error) {
	active, _, err := b.pairOf()
	if err != nil {
		return ep, 0, err
	}
	ep, err = b.afterQuiet(ctx, n, p, func() (episode, error) {
		ep, at, results, err := b.busySpell(ctx, n, p, func(ctx context.Context) (time.Time, error) {
			at := time.Now()
			err := active.Client.Switchover(ctx)
			took = time.Since(at)
			return at, err
		})
		if err == nil {
			ep.span = spanning(results, at, at.Add(took))
		}
		return ep, err
	})
	return ep, took, err
}

// freezeActive stops the active's process in the middle of busy traffic: it is missed by silence.
func (b *bed) freezeActive(ctx context.Context, n int, p pace) (ep episode, err error) {
	active, _, err := b.pairOf()
	if err != nil {
		return ep, err
	}
	defer func() { _ = active.Process().Cont() }()
	return b.afterQuiet(ctx, n, p, func() (episode, error) {
		return b.overtaken(ctx, n, p, func(ctx context.Context) (at time.Time, err error) {
			if err := b.gateway.check(ctx); err != nil {
				return at, err
			}
			return time.Now(), active.Process().Stop()
		})
	})
}

// loseStandby stops the standby's process in the middle of busy traffic: it is lost by
// silence, the slowest way.
func (b *bed) loseStandby(ctx context.Context, n int, p pace) (ep episode, err error) {
	_, standby, err := b.pairOf()
	if err != nil {
		return ep, err
	}
	defer func() { _ = standby.Process().Cont() }()
	ep, at, results, err := b.busySpell(ctx, n, p, func(context.Context) (time.Time, error) {
		return time.Now(), standby.Process().Stop()
	})
	if err == nil {
		ep.span = spanning(results, at, at.Add(failureTimeout))
	}
	return ep, err
}

func (b *bench) switchStep(l level) step {
	gap, quiet, beyond := switchGap+l.suffix, switchQuiet+l.suffix, switchBeyond+l.suffix
	span, took, lost := switchSpan+l.suffix, switchTook+l.suffix, switchLost+l.suffix
	return step{ids: []string{gap, quiet, beyond, span, took, lost}, cost: 2 * costEpisode, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		ep, d, err := bed.switchover(ctx, l.busy, b.pace)
		if err != nil {
			return t, err
		}
		t.values = map[string]float64{gap: ms(ep.gap), quiet: ms(ep.quiet), beyond: ms(ep.beyond()), span: ms(ep.span), took: ms(d), lost: float64(ep.lost)}
		t.notes = whyLost(lost, ep.lost, ep.error)
		t.summary = fmt.Sprintf("switchover, %d busy: %s, over it %.1f ms, took %.1f ms; %d lost", l.busy, ep.gaps(), ms(ep.span), ms(d), ep.lost)
		return t, nil
	}}
}

// frozen is the setting of the pairs whose active stands still: the product's defaults.
var frozen = settings[0]

func (b *bench) frozenStep() step {
	return step{ids: []string{frozenGap, frozenQuiet, frozenBeyond, frozenPeer, frozenLost}, cost: 2 * costEpisode, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		ep, err := bed.freezeActive(ctx, b.busy, b.pace)
		if err != nil {
			return t, err
		}
		t.values = map[string]float64{frozenGap: ms(ep.gap), frozenQuiet: ms(ep.quiet), frozenBeyond: ms(ep.beyond()), frozenPeer: ms(ep.known), frozenLost: float64(ep.lost)}
		t.notes = whyLost(frozenLost, ep.lost, ep.error)
		t.summary = fmt.Sprintf("active frozen, %d busy: %s; known after %.1f ms; %d lost", b.busy, ep.gaps(), ms(ep.known), ep.lost)
		return t, nil
	}}
}

func (b *bench) soloStep() step {
	return step{ids: []string{soloGap, soloLost}, cost: costEpisode, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		// The traffic must go on for longer than the time-out.
		p := b.pace
		p.after += failureTimeout
		ep, err := bed.loseStandby(ctx, b.busy, p)
		if err != nil {
			return t, err
		}
		t.values = map[string]float64{soloGap: ms(ep.span), soloLost: float64(ep.lost)}
		t.notes = whyLost(soloLost, ep.lost, ep.error)
		t.summary = fmt.Sprintf("standby frozen, %d busy: longest gap over it %.1f ms; %d lost", b.busy, ms(ep.span), ep.lost)
		return t, nil
	}}
}
