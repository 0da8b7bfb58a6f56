package tun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// ReachConfig names hosts that are always there, behind one interface: the carrier
// says nothing of a switch further on, nor of anything on a virtual NIC.
type ReachConfig struct {
	Interface string
	Targets   []netip.Addr // echoed to; one answer is enough
	Period    time.Duration
	Timeout   time.Duration // without an answer for so long: not reached; several periods
}

// Reach watches whether hosts on a network answer ICMP echo requests (RFC 792, RFC
// 4443), sent from the interface's own address. It never says that a network is down
// before a target has answered once: a target that is wrong must do no harm.
type Reach struct {
	cfg    ReachConfig
	id     int // of our echo requests, beside other processes'
	conns  []*icmp.PacketConn
	events chan bool // cap 1, the newest
	heard  atomic.Int64
	begun  time.Time
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// WatchReach opens the sockets, in the caller's network namespace, and begins. Close
// ends it.
func WatchReach(cfg ReachConfig) (*Reach, error) {
	r := &Reach{cfg: cfg, id: os.Getpid() & 0xffff, events: make(chan bool, 1), begun: time.Now()}
	for _, v6 := range []bool{false, true} {
		if !r.has(v6) {
			continue
		}
		network, any := "ip4:icmp", "0.0.0.0"
		if v6 {
			network, any = "ip6:ipv6-icmp", "::"
		}
		c, err := icmp.ListenPacket(network, any)
		if err == nil {
			err = bindTo(c, v6, cfg.Interface)
		}
		if err != nil {
			r.close()
			return nil, fmt.Errorf("watch who answers on %q: %w", cfg.Interface, err)
		}
		r.conns = append(r.conns, c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	for _, c := range r.conns {
		r.wg.Go(func() { r.receive(c) })
	}
	r.wg.Go(func() { r.ask(ctx) })
	return r, nil
}

func (r *Reach) has(v6 bool) bool {
	for _, t := range r.cfg.Targets {
		if t.Is6() == v6 {
			return true
		}
	}
	return false
}

// bindTo keeps requests and answers to one interface: an answer that comes by another
// way says nothing of this one.
func bindTo(c *icmp.PacketConn, v6 bool, name string) error {
	var raw net.PacketConn
	if v6 {
		raw = c.IPv6PacketConn().PacketConn
	} else {
		raw = c.IPv4PacketConn().PacketConn
	}
	ip, ok := raw.(*net.IPConn)
	if !ok {
		return fmt.Errorf("unexpected socket type %T", raw)
	}
	sc, err := ip.SyscallConn()
	if err != nil {
		return err
	}
	var bound error
	if err := sc.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), name) }); err != nil {
		return err
	}
	return bound
}

// Events delivers each change, the newest if several were not taken: true when a
// target answers, false when none has for Timeout. The first is a true.
func (r *Reach) Events() <-chan bool { return r.events }

// Close ends it and joins its goroutines.
func (r *Reach) Close() {
	r.cancel()
	r.close()
	r.wg.Wait()
}

func (r *Reach) close() {
	for _, c := range r.conns {
		c.Close()
	}
}

// ask sends requests and judges the silence.
func (r *Reach) ask(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	j := reachJudge{period: r.cfg.Period, timeout: r.cfg.Timeout}
	for seq := 1; ; seq++ {
		r.send(seq)
		timer.Reset(j.sent(time.Since(r.begun)))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if !j.look(time.Since(r.begun), time.Duration(r.heard.Load())) {
			continue
		}
		select {
		case <-r.events:
		default:
		}
		r.events <- j.reached // has room: we are the only sender
	}
}

// reachJudge keeps this process's own stalls from looking like the network's: after a pause of ours (no CPU, a
// stopped machine) answers are waiting to be read. So a period is one of silence only if the look at its end came in
// time, and each begins when its requests have left.
type reachJudge struct {
	period, timeout time.Duration
	due             time.Duration // of the look
	heard           time.Duration // when the newest answer was read that a look has seen; 0: none yet
	silent          time.Duration // in periods
	reached         bool
}

// sent returns in how long to look.
func (j *reachJudge) sent(now time.Duration) time.Duration {
	j.due = now + j.period
	return j.period
}

// look is told when the newest answer was read, and reports whether something has changed.
func (j *reachJudge) look(now, heard time.Duration) bool {
	was := j.reached
	switch {
	case heard > j.heard:
		j.heard, j.silent, j.reached = heard, 0, true
	case now-j.due <= j.period/2:
		if j.silent += j.period; j.silent >= j.timeout {
			j.reached = false // as before the first answer
		}
	}
	return j.reached != was
}

func (r *Reach) send(seq int) {
	for _, t := range r.cfg.Targets {
		m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: r.id, Seq: seq & 0xffff}}
		if t.Is6() {
			m.Type = ipv6.ICMPTypeEchoRequest
		}
		b, err := m.Marshal(nil)
		if err != nil {
			continue
		}
		for _, c := range r.conns {
			if (c.IPv6PacketConn() != nil) == t.Is6() {
				// An error is silence: the interface is down, say.
				_, _ = c.WriteTo(b, &net.IPAddr{IP: t.AsSlice()})
			}
		}
	}
}

// receive notes answers of targets until the socket is closed.
func (r *Reach) receive(c *icmp.PacketConn) {
	b := make([]byte, 512)
	proto := 1 // ICMP's number, as ParseMessage wants it
	if c.IPv6PacketConn() != nil {
		proto = 58
	}
	for {
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			<-time.After(20 * time.Millisecond) // a lasting error must not spin
			continue
		}
		m, err := icmp.ParseMessage(proto, b[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == r.id && r.asked(from) {
			r.heard.Store(max(1, int64(time.Since(r.begun))))
		}
	}
}

func (r *Reach) asked(from net.Addr) bool {
	ip, ok := from.(*net.IPAddr)
	if !ok {
		return false
	}
	a, ok := netip.AddrFromSlice(ip.IP)
	if !ok {
		return false
	}
	for _, t := range r.cfg.Targets {
		if t == a.Unmap() {
			return true
		}
	}
	return false
}
