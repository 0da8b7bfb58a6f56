package e2e

import (
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
)

// A segment that is under way when the active dies or hands over is not lost: the process beside it, its kernel
// or itself gives it to the successor. So no end of a connection on which one segment at a time is under way has
// to send one again. On a busy machine a time-out may strike before the successor is there; one
// round out of a few must be without.
func TestNothingInFlightIsLost(t *testing.T) {
	for name, end := range map[string]func(*couple){
		"kill":       (*couple).failover,
		"switchover": (*couple).exchange,
	} {
		t.Run(name, func(t *testing.T) {
			raw := rawService(func(s *config.Service) { s.Path = config.PathAuto })
			o := options{extra: []config.Service{raw}, path: config.PathAuto}
			p := start(t, o)
			c := newCouple(p, o)
			talk := p.converse(30)
			for round := range 10 {
				c.inSync()
				talk.answered(p, 5)
				before := talk.retransmitted()
				end(c)
				talk.answered(p, 5)
				n := talk.retransmitted() - before
				s := c.status(c.active)
				t.Logf("round %d: %d segments sent again, %d kept, takeover %+v, drops %v", round, n, s.Connections.Held, s.LastTakeover, s.Drops)
				if n == 0 {
					return
				}
			}
			t.Error("in every round segments were lost")
		})
	}
}

// exchange lets the active hand over.
func (c *couple) exchange() {
	c.t.Helper()
	if err := c.switchover(c.active); err != nil {
		c.t.Fatal(err)
	}
	c.active, c.standby = c.standby, c.active
}

// conversation is connections on each of which a request is sent when the former one is answered.
type conversation struct {
	mu     sync.Mutex
	ends   []net.Conn
	rounds []int // answers, by connection
}

func (p *pair) converse(n int) *conversation {
	p.t.Helper()
	talk := &conversation{rounds: make([]int, n)}
	p.listenRaw(func(c net.Conn) {
		defer c.Close()
		talk.mu.Lock()
		talk.ends = append(talk.ends, c)
		talk.mu.Unlock()
		_, _ = io.Copy(c, c) // what is wrong shows at the client
	})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	p.t.Cleanup(func() { close(stop); wg.Wait() })
	for i := range n {
		c, err := p.dial("203.0.113.10:81")
		if err != nil {
			p.t.Fatal(err)
		}
		talk.mu.Lock()
		talk.ends = append(talk.ends, c)
		talk.mu.Unlock()
		wg.Go(func() {
			defer c.Close()
			buf, pace := make([]byte, 100), time.NewTicker(3*time.Millisecond)
			defer pace.Stop()
			for {
				_, err := c.Write(buf)
				if err == nil {
					_, err = io.ReadFull(c, buf)
				}
				if err != nil {
					p.t.Errorf("a connection was lost: %v", err)
					return
				}
				talk.mu.Lock()
				talk.rounds[i]++
				talk.mu.Unlock()
				select {
				case <-stop:
					return
				case <-pace.C:
				}
			}
		})
	}
	return talk
}

// answered waits until n more requests of each connection are.
func (c *conversation) answered(p *pair, n int) {
	p.t.Helper()
	c.mu.Lock()
	before := slices.Clone(c.rounds)
	c.mu.Unlock()
	p.await("every connection moves", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i := range before {
			if c.rounds[i] < before[i]+n {
				return false
			}
		}
		return true
	})
}

// retransmitted is what all ends have sent again.
func (c *conversation) retransmitted() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, end := range c.ends {
		raw, err := end.(syscall.Conn).SyscallConn()
		if err != nil {
			continue
		}
		_ = raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				n += int(info.Total_retrans)
			}
		})
	}
	return n
}
