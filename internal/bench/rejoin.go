package bench

import (
	"context"
	"fmt"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
)

// rejoin is what happened when a standby joined a running active.
type rejoin struct {
	connections  int           // of the snapshot
	sync         time.Duration // from the session with the standby until both say that they are in sync
	before, then float64       // bytes per second of the download, alone and during that time
}

// rejoin kills the standby of a pair, lets a download run, starts the standby again, and watches
// until it is in sync.
func (b *bed) rejoin(ctx context.Context, p pace, d time.Duration) (r rejoin, err error) {
	g, ok := b.gateway.(*applianceGateway)
	if !ok || len(g.nodes) < 2 {
		return r, fmt.Errorf("only a pair has a standby that can join")
	}
	active, standby := g.nodes[0], g.nodes[1]
	_ = standby.Kill()
	<-standby.Process().Done()
	if err := g.await(ctx, "the active is alone", func(s []control.Status) bool { return !s[0].Peer.Connected }, active); err != nil {
		return r, err
	}
	m, err := ask(ctx, b.client, order{Do: doStart, Load: load{Kind: loadDown, Connections: 1}}, replyTimeout)
	if err != nil {
		return r, err
	}
	defer func() {
		if _, e := ask(ctx, b.client, order{Do: doStop}, replyTimeout); err == nil {
			err = e
		}
	}()
	if err := sound(m, false); err != nil {
		return r, err
	}
	if err := lab.Pause(ctx, p.warmUp); err != nil {
		return r, err
	}
	if r.before, err = b.rate(ctx, func() error { return lab.Pause(ctx, d) }); err != nil {
		return r, err
	}
	if r.before == 0 {
		return r, fmt.Errorf("%w: the download stands still", errLoad)
	}
	if err := standby.Start(ctx); err != nil {
		return r, err
	}
	// Starting a process costs CPU, too, but that is not what is measured.
	if err := g.await(ctx, "the standby has joined", func(s []control.Status) bool { return s[0].Peer.Connected }, active); err != nil {
		return r, err
	}
	begin := time.Now()
	r.then, err = b.rate(ctx, func() error {
		err := g.await(ctx, "the standby is in sync", func(s []control.Status) bool { return s[0].InSync && s[1].InSync }, active, standby)
		r.sync = time.Since(begin)
		return err
	})
	if err != nil {
		return r, err
	}
	s, err := active.Status(ctx)
	r.connections = s.Snapshot.Total
	return r, err
}

// rate of the download while something is done, bytes per second.
func (b *bed) rate(ctx context.Context, do func() error) (float64, error) {
	begin, err := ask(ctx, b.client, order{Do: doMark}, replyTimeout)
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	end, err := ask(ctx, b.client, order{Do: doMark}, replyTimeout)
	if err != nil {
		return 0, err
	}
	if err := sound(end, false); err != nil {
		return 0, err
	}
	return float64(end.Received-begin.Received) / time.Duration(end.At-begin.At).Seconds(), nil
}

// rejoinStep is a standby that joins while idle connections are open and a download runs.
func (b *bench) rejoinStep() step {
	return step{ids: []string{rejoinSync, rejoinRate}, cost: costIdle, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		idle, err := bed.openIdle(ctx, b.connections)
		if err != nil {
			return t, err
		}
		defer idle.client.Finish()
		r, err := bed.rejoin(ctx, b.pace, b.duration)
		if err == nil && r.connections < b.connections {
			err = fmt.Errorf("%w: the snapshot was of %d connections", errLoad, r.connections)
		}
		if err != nil {
			return t, err
		}
		lost, why, err := idle.finish(ctx)
		if err == nil && lost > 0 {
			err = fmt.Errorf("%w: %d of %d idle connections did not answer, the first: %s", errLoad, lost, idle.n, why)
		}
		if err != nil {
			return t, err
		}
		t.values = map[string]float64{rejoinSync: ms(r.sync), rejoinRate: r.then / r.before}
		t.summary = fmt.Sprintf("rejoin with %d connections: in sync after %.0f ms, a download at %.2f of %.2f Gbit/s meanwhile",
			r.connections, ms(r.sync), r.then*8/1e9, r.before*8/1e9)
		return t, nil
	}}
}
