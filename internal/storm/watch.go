package storm

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const maxNamed = 4 // connections in one finding; its folder lists all

// watch looks at all connections until ctx ends. What counts is how often it has looked, not how
// much time has passed: a driver that gets no CPU finds nothing.
func (l *load) watch(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if f := l.look(time.Now()); f != nil {
			l.storm.find(*f)
		}
	}
}

// look returns a finding if connections stand still; connections that began to at the same time are
// one finding.
func (l *load) look(now time.Time) *finding {
	l.mu.Lock()
	var still []*flight
	var moving []*finding
	for f := range l.flights {
		if sum := f.progress() + f.acked(); sum != f.sum {
			if f.stalled != nil {
				moving = append(moving, f.stalled)
				f.stalled = nil
			}
			f.sum, f.movedAt, f.still, f.looks, f.allowed, f.waited = sum, now, 0, 0, 0, false
			continue
		}
		if l.fault || f.writtenOff {
			continue
		}
		if f.still++; f.still == stillLooks {
			f.allowed = max(stillLooks, l.patience(f))
		}
		f.looks++
		if f.stalled == nil && (f.still >= stillLooks && f.still == f.allowed || f.looks == starvedLooks) {
			still = append(still, f)
		}
	}
	var found *finding
	if len(still) > 0 {
		var names []string
		for i, f := range still {
			if i == maxNamed {
				names = append(names, "...")
				break
			}
			names = append(names, f.String()+fmt.Sprintf(", since %s", f.movedAt.Format("15:04:05.000")))
		}
		found = &finding{Kind: findStall, Detail: fmt.Sprintf("%d of %d connections stand still for 5 s or more: %s", len(still), len(l.flights), strings.Join(names, "; ")), flights: still}
	}
	l.mu.Unlock()
	for _, f := range moving {
		l.storm.then(f, fmt.Sprintf("moving again at %s", now.Format("15:04:05.0")))
	}
	return found
}

// acked is what the client's kernel has had acknowledged: what it has taken to send is progress of the
// client's, and no progress of the connection's. A kernel that does not tell has told it before.
func (f *flight) acked() int64 {
	if c := f.conn.Load(); c != nil {
		if info := tcpInfo(*c); info != nil {
			f.confirmed = int64(info.Bytes_acked)
		}
	}
	return f.confirmed
}

// patience is how many looks a connection may stand still. One of its ends may have a retransmission
// time-out of seconds, because the round trips that it has measured had an outage in them. What such
// a connection loses is sent again when its kernel likes, whatever lies between the two; so it gets two
// of those time-outs, but not what they have doubled to.
func (l *load) patience(f *flight) int {
	var rto time.Duration
	ends := []net.Conn{l.server.Working(f.id)}
	if c := f.conn.Load(); c != nil {
		ends = append(ends, *c)
	}
	for _, c := range ends {
		if info := tcpInfo(c); info != nil {
			rto = max(rto, time.Duration(info.Rto)*time.Microsecond>>info.Backoff)
		}
	}
	return int((2*rto + time.Second) / lookEvery)
}

// tcpInfo of a connection; nil if it has none.
func tcpInfo(c net.Conn) (info *unix.TCPInfo) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Control(func(fd uintptr) { info, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	return info
}

// begins and ends tell of a fault. Looks that follow its end are counted from one on, unless
// faults come in quick succession: then what stands still through all of them is found, too.
func (l *load) begins() {
	l.mu.Lock()
	l.fault = true
	l.mu.Unlock()
}

func (l *load) ends() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = false
	for f := range l.flights {
		f.waited = true
		if !l.storm.opts.quick {
			f.still, f.looks, f.allowed = 0, 0, 0
		}
	}
}

// waiting is how many connections have not moved since the last fault ended. Those that were found
// standing still are waited for no longer.
func (l *load) waiting() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for f := range l.flights {
		if f.waited && f.stalled == nil && f.looks < starvedLooks && (f.still < stillLooks || f.still < f.allowed) {
			n++
		}
	}
	return n
}

// writeOff forgets what becomes of the present connections.
func (l *load) writeOff() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.anew++
	for f := range l.flights {
		f.writtenOff = true
	}
}

// starts is how often the pair was started anew while there were connections.
func (l *load) starts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.anew
}

// table lists the connections for a human.
func (l *load) table() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for f := range l.flights {
		p := &f.client.Progress
		fmt.Fprintf(&b, "%-16x %s: sent %d, received %d, rounds %d; last moved %s, %d looks still\n", f.id, f, p.Sent.Load(), p.Received.Load(),
			p.Rounds.Load(), f.movedAt.Format("15:04:05.000"), f.still)
	}
	return b.String()
}
