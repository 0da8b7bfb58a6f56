package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lockstep/internal/lab"
)

// window is one measurement: a load, and what was counted between two marks in it.
type window struct {
	elapsed  time.Duration // at the receiving end
	received int64         // bulk bytes
	rounds   int64
	cpu      time.Duration // of the gateway's processes; 0: it has none
	machine  time.Duration // of all CPUs
	latency  *latency
}

// errLoad is a measurement that is worth nothing: connections failed or hung.
var errLoad = errors.New("the load did not run through")

// measure runs a load for warmUp and d.
func (b *bed) measure(ctx context.Context, l load, warmUp, d time.Duration) (w window, err error) {
	m, err := ask(ctx, b.client, order{Do: doStart, Load: l}, replyTimeout)
	if err != nil {
		return w, err
	}
	defer func() {
		_, e := ask(ctx, b.client, order{Do: doStop}, replyTimeout)
		if e == nil {
			e = b.drained(ctx)
		}
		err = errors.Join(err, e)
	}()
	if err := sound(m, false); err != nil {
		return w, err
	}
	if err := lab.Pause(ctx, warmUp); err != nil {
		return w, err
	}
	begin, err := b.counters(ctx)
	if err != nil {
		return w, err
	}
	if err := lab.Pause(ctx, d); err != nil {
		return w, err
	}
	end, err := b.counters(ctx)
	if err != nil {
		return w, err
	}
	receiver := func(c counters) mark { return c.client }
	if l.Kind == loadUp {
		receiver = func(c counters) mark { return c.server }
	}
	w = window{
		elapsed:  time.Duration(receiver(end).At - receiver(begin).At),
		received: receiver(end).Received - receiver(begin).Received,
		rounds:   end.client.Rounds - begin.client.Rounds,
		cpu:      end.cpu - begin.cpu,
		machine:  end.machine.busy - begin.machine.busy,
		latency:  end.client.Latency,
	}
	// A connection that hangs for the whole window is a fault, but for the many streams of a bulk
	// load a short window may be too short to be fair to all.
	return w, sound(end.client, true)
}

// counters is everything that is read at a mark.
type counters struct {
	client, server mark
	cpu            time.Duration
	machine        machine
}

func (b *bed) counters(ctx context.Context) (c counters, err error) {
	if c.client, err = ask(ctx, b.client, order{Do: doMark}, replyTimeout); err != nil {
		return c, err
	}
	if c.server, err = ask(ctx, b.servers[0], order{Do: doMark}, replyTimeout); err != nil {
		return c, err
	}
	if c.cpu, err = cpuTimes(b.gateway.processes()); err != nil {
		return c, err
	}
	c.machine, err = readMachine()
	return c, err
}

// sound checks a mark of the client.
func sound(m mark, progress bool) error {
	if m.Failed > 0 {
		return fmt.Errorf("%w: %d failed, the first: %s", errLoad, m.Failed, m.Error)
	}
	if progress && m.Stalled > 0 {
		return fmt.Errorf("%w: %d connections made no progress in the whole time", errLoad, m.Stalled)
	}
	return nil
}

// gbits per second.
func (w window) gbits() float64 { return float64(w.received) * 8 / w.elapsed.Seconds() / 1e9 }

// perGiB is a CPU time per GiB received, seconds.
func (w window) perGiB(d time.Duration) float64 {
	return d.Seconds() / (float64(w.received) / (1 << 30))
}

// rate of requests per second.
func (w window) rate() float64 { return float64(w.rounds) / w.elapsed.Seconds() }

// each is a CPU time per request, microseconds.
func (w window) each(d time.Duration) float64 { return float64(d.Microseconds()) / float64(w.rounds) }
