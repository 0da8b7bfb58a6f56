package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

// IDs of the figures of a crowd.
const (
	scaleRate    = "scale-open"
	scaleActive  = "scale-active"
	scaleStandby = "scale-standby"
	scaleGap     = "scale-gap"
	scaleOwn     = "scale-own"
	scaleAsk     = "scale-ask"
	scaleLost    = "scale-lost"
	scaleRejoin  = "scale-rejoin"
	scaleAgain   = "scale-again-lost"
)

const (
	// maxScale is what fits beside the pair on a machine of 24 GB: a connection's two sockets take about 8 KiB.
	maxScale = 2_000_000
	// crowdAtOnce is how many processes open, or ask, at a time: the machine has other things to do, too.
	crowdAtOnce = 2
	// scalePatience bounds what grows with the crowd: a pair's change of roles, a snapshot.
	scalePatience = 5 * time.Minute
	// crowdHalfOpen is the limit of handshakes of a service whose clients are all of one network.
	crowdHalfOpen = 8 * crowdWindow * crowdAtOnce
	// crowdHostFirst and crowdHostLast are the last octets of the clients' addresses.
	crowdHostFirst, crowdHostLast = 101, 254
)

func scaleFigures(n int) []figure {
	if n == 0 {
		return nil
	}
	kill := fmt.Sprintf("kill -9, %d idle and %d busy", n, fewBusy)
	return []figure{
		{scaleRate, fmt.Sprintf("%d connections opened, with a question each", n), "1/s", 0},
		{scaleActive, "memory per idle connection, active", "KiB", 2},
		{scaleStandby, "memory per idle connection, standby", "KiB", 2},
		{scaleGap, kill + ": longest gap of the busy ones over the kill", "ms", 1},
		{scaleOwn, kill + ": from knowing to the last leg rebuilt", "ms", 1},
		{scaleAsk, kill + ": every idle one asked again", "1/s", 0},
		{scaleLost, kill + ": idle connections lost", "", 0},
		{scaleRejoin, fmt.Sprintf("rejoin with %d connections: time until in sync", n), "ms", 0},
		{scaleAgain, "kill -9 of the other one then: idle connections lost", "", 0},
	}
}

func scaleTargets() []target {
	return []target{
		medianTarget("memory per idle connection on the active", scaleActive, "KiB", 2, 1.2),
		medianTarget("memory per idle connection on the standby", scaleStandby, "KiB", 2, 0.25),
		worstTarget("idle connections lost, worst run", scaleLost),
		medianTarget("rejoin: time until in sync", scaleRejoin, "ms", 0, 20_000),
		worstTarget("idle connections lost at the next kill, worst run", scaleAgain),
	}
}

// crowdService is what the crowd's connections are of.
func crowdService(n int) config.Service {
	s := pair.Service("crowd", []string{fmt.Sprintf("%s:%d", lab.VIP4, crowdPort)}, []string{fmt.Sprintf("10.20.0.11:%d", crowdPort)})
	s.Limits.Connections = n + n/10
	s.Limits.HalfOpen, s.Limits.HalfOpenSource = crowdHalfOpen, crowdHalfOpen
	return s
}

// crowd is all clients of a bed's crowd.
type crowd struct {
	n       int
	clients []*lab.RoleProc
	say     func(format string, args ...any)
}

// newCrowd starts the processes; nothing is open yet.
func (b *bed) newCrowd(ctx context.Context, n int, say func(format string, args ...any)) (*crowd, error) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return nil, fmt.Errorf("limit of descriptors: %w", err)
	}
	each := min(int(min(lim.Max, 1<<20))-crowdSpare, crowdMost)
	clients := (n + each - 1) / each
	if most := crowdHostLast - crowdHostFirst + 1; clients > most {
		return nil, fmt.Errorf("%d connections take %d processes of %d descriptors each, there are addresses for %d (hint: ulimit -Hn)", n, clients, lim.Max, most)
	}
	for _, h := range []*lab.Host{b.Client, b.Servers[0]} {
		if err := h.Sysctl("net.core.somaxconn", strconv.Itoa(1<<16)); err != nil {
			return nil, err
		}
		if err := h.Sysctl("net.ipv4.tcp_max_syn_backlog", strconv.Itoa(1<<16)); err != nil {
			return nil, err
		}
	}
	// The kernel spreads connections over the servers by chance: some get more than their share.
	for range clients + clients/8 + 1 {
		p, err := b.Servers[0].Go(crowdServerRole, struct{}{})
		if err != nil {
			return nil, err
		}
		if err := next(ctx, p, &crowdEvent{}, readyTimeout); err != nil {
			return nil, err
		}
	}
	c := &crowd{n: n, say: say}
	for i, left := 0, n; left > 0; i++ {
		addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(crowdHostFirst + i)})
		if err := b.Client.AddAddr(lab.FrontIf, netip.PrefixFrom(addr, 24).String()); err != nil {
			return nil, err
		}
		// Of equal shares the last one is the smallest.
		count := min(left, (n+clients-1)/clients)
		left -= count
		p, err := b.Client.Go(crowdClientRole, crowdClientArgs{
			From: addr, Count: count, Target: netip.MustParseAddrPort(net.JoinHostPort(lab.VIP4, strconv.Itoa(crowdPort))),
		})
		if err != nil {
			return nil, err
		}
		c.clients = append(c.clients, p)
	}
	return c, nil
}

// asked is what came of an order to a crowd.
type asked struct {
	answered, lost int
	why            string
	took           time.Duration
	slowest        time.Duration
}

// order has all clients do something, some at a time, and tells every second how far they are.
func (c *crowd) order(ctx context.Context, order, what string) (a asked, err error) {
	begin, told := time.Now(), time.Now()
	now := make([]crowdEvent, len(c.clients))
	sum := func() (a asked) {
		for _, e := range now {
			a.answered += e.Answered
			a.lost += e.Lost
			a.slowest = max(a.slowest, e.Slowest)
			if a.why == "" {
				a.why = e.Error
			}
		}
		a.took = time.Since(begin)
		return a
	}
	type news struct {
		i   int
		e   crowdEvent
		err error
	}
	said := make(chan news)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	follow := func(i int) {
		n := news{i: i, err: c.clients[i].Send(order)}
		for over := false; !over; over = n.err != nil || n.e.Done {
			if n.err == nil {
				n.e = crowdEvent{}
				n.err = next(ctx, c.clients[i], &n.e, 2*crowdPatience)
			}
			select {
			case said <- n:
			case <-ctx.Done():
				return
			}
		}
	}
	started := 0
	start := func() {
		if started < len(c.clients) {
			go follow(started) // ends with its client's order, or with ctx
			started++
		}
	}
	for range crowdAtOnce {
		start()
	}
	for done := 0; done < len(c.clients); {
		select {
		case n := <-said:
			if n.err != nil {
				return sum(), n.err
			}
			now[n.i] = n.e
			if n.e.Done {
				done++
				start()
			}
		case <-ctx.Done():
			return sum(), ctx.Err()
		}
		if time.Since(told) >= 2*time.Second {
			told = time.Now()
			a := sum()
			c.say("%d of %d connections %s, %.0f a second", a.answered, c.n, what, a.rate())
		}
	}
	return sum(), nil
}

func (a asked) rate() float64 { return float64(a.answered) / a.took.Seconds() }

// scaleStep is a crowd through a pair, a kill, all asked, a standby that joins, another kill, all asked.
func (b *bench) scaleStep() step {
	var ids []string
	for _, f := range scaleFigures(b.crowd) {
		ids = append(ids, f.ID)
	}
	return step{ids: ids, own: true, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		t.values, t.notes = make(map[string]float64), make(map[string]string)
		c, err := bed.newCrowd(ctx, b.crowd, b.say)
		if err != nil {
			return t, err
		}
		defer c.end()
		if err := b.crowdOpens(ctx, bed, c, t); err != nil {
			return t, err
		}
		ep, err := bed.overtaken(ctx, fewBusy, b.pace, bed.killActive)
		if err != nil {
			return t, err
		}
		t.values[scaleGap], t.values[scaleOwn] = ms(ep.span), float64(ep.takeover.DurationMicros)/1e3
		b.say("kill -9: known after %.1f ms, all legs %.1f ms later, longest gap over it %.1f ms; %d of %d busy lost %s",
			ms(ep.known), t.values[scaleOwn], ms(ep.span), ep.lost, fewBusy, ep.error)
		if ep.lost > 0 {
			return t, fmt.Errorf("%w: %d busy connections lost: %s", errLoad, ep.lost, ep.error)
		}
		a, err := c.order(ctx, crowdAsk, "have answered after the takeover")
		if err != nil {
			return t, err
		}
		t.values[scaleAsk], t.values[scaleLost] = a.rate(), float64(a.lost)
		t.notes = whyLost(scaleLost, a.lost, a.why)
		b.say("%d of %d answered after the takeover, the slowest in %.0f ms; %d lost %s", a.answered, c.n, ms(a.slowest), a.lost, a.why)
		again, err := b.crowdRejoins(ctx, bed, c, t)
		if err != nil {
			return t, err
		}
		t.values[scaleAgain] = float64(again.lost)
		for id, why := range whyLost(scaleAgain, again.lost, again.why) {
			t.notes[id] = why
		}
		t.summary = fmt.Sprintf("%d connections: %.2f and %.2f KiB each, %.0f ms of gap and %d lost at a kill, in sync again after %.0f ms, %d lost at the next kill",
			c.n, t.values[scaleActive], t.values[scaleStandby], t.values[scaleGap], a.lost, t.values[scaleRejoin], again.lost)
		return t, nil
	}}
}

// crowdOpens opens it, and measures that.
func (b *bench) crowdOpens(ctx context.Context, bed *bed, c *crowd, t taken) error {
	before, err := bed.memory(ctx)
	if err != nil {
		return err
	}
	a, err := c.order(ctx, crowdOpen, "are open")
	if err == nil && a.lost > 0 {
		err = fmt.Errorf("%w: %d of %d connections did not open, the first: %s", errLoad, a.lost, c.n, a.why)
	}
	if err != nil {
		return err
	}
	if err := bed.rest(ctx, scalePatience); err != nil {
		return err
	}
	after, err := bed.memory(ctx)
	if err != nil {
		return err
	}
	t.values[scaleRate] = a.rate()
	t.values[scaleActive], t.values[scaleStandby] = kibEach(before[0], after[0], c.n), kibEach(before[1], after[1], c.n)
	b.say("%d connections are open, %.0f a second; %.2f and %.2f KiB each", c.n, a.rate(), t.values[scaleActive], t.values[scaleStandby])
	return bed.gateway.check(ctx)
}

// crowdRejoins starts the appliance again that was killed, and when it is in sync kills the other one.
func (b *bench) crowdRejoins(ctx context.Context, bed *bed, c *crowd, t taken) (a asked, err error) {
	nodes := bed.gateway.(*applianceGateway).nodes
	joins, serves := nodes[0], nodes[1]
	if err := joins.Start(ctx); err != nil {
		return a, err
	}
	if _, err := pair.Await(ctx, scalePatience, "the standby has joined", func(s []control.Status) bool { return s[0].Peer.Connected }, serves); err != nil {
		return a, err
	}
	begin := time.Now()
	s, err := pair.Await(ctx, scalePatience, "the standby is in sync", func(s []control.Status) bool { return s[0].InSync && s[1].InSync }, serves, joins)
	if err != nil {
		return a, err
	}
	t.values[scaleRejoin] = ms(time.Since(begin))
	b.say("a snapshot of %d connections: in sync after %.0f ms", s[0].Snapshot.Total, t.values[scaleRejoin])
	if s[0].Snapshot.Total < c.n {
		return a, fmt.Errorf("%w: the snapshot was of %d connections", errLoad, s[0].Snapshot.Total)
	}
	if err := serves.Kill(); err != nil {
		return a, err
	}
	if s, err = pair.Await(ctx, scalePatience, "the other one serves", func(s []control.Status) bool { return s[0].LastTakeover != nil }, joins); err != nil {
		return a, err
	}
	b.say("kill -9 of the other one: taken over in %.1f ms", float64(s[0].LastTakeover.DurationMicros)/1e3)
	a, err = c.order(ctx, crowdAsk, "have answered after the second takeover")
	b.say("%d of %d answered, the slowest in %.0f ms; %d lost %s", a.answered, c.n, ms(a.slowest), a.lost, a.why)
	return a, err
}

func (c *crowd) end() {
	for _, p := range c.clients {
		p.Finish()
	}
}

// scaleRun is all of a bench that is asked for a crowd.
func (b *bench) scaleRun(ctx context.Context) error {
	for round := range b.rounds {
		o := b.bedOptions
		at, err := newBed(ctx, paired, b.modes[0], o)
		if err != nil {
			return err
		}
		s := b.scaleStep()
		t, err := b.measure(ctx, s, at)
		if err != nil {
			err = fmt.Errorf("%w%s", err, at.logs())
		}
		err = errors.Join(err, at.close())
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		b.take(b.modes[0], paired, round, round, t)
	}
	return nil
}
